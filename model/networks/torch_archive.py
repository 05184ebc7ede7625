"""Read and rewrite the zip archives in which torch saves programs, and refuse what they may not hold."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import NoReturn

from seamline.model.spec.errors import ModelError, get_first_line

MAX_BYTES = 8 << 30
"""Most bytes that an archive may unpack to."""
MAX_EXPANSION = 1000
"""Most times its own size that an archive may unpack to; deflate shrinks zeros about as much."""
EXPORT_HINT = "export it to ONNX with torch.onnx.export, or save its tensors as a state_dict"
IO_OPERATORS = frozenset(("from_file", "save", "load", "_print", "warn", "_test_warn_in_autograd"))
"""Operators of ATen that open files or print."""


def list_members(path: Path) -> list[str]:
    """Return the names of the members of a zip archive.

    Raises:
        ModelError: the archive is damaged, or unpacks to more than an archive may.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as error:  # zipfile has many errors for damaged bytes
        raise _damaged_error(path, error) from error
    size, most = sum(member.file_size for member in members), min(MAX_BYTES, MAX_EXPANSION * path.stat().st_size)
    if size > most:
        raise ModelError(
            f"network {path}", got=f"an archive of {size} bytes", expected=f"at most {most}", fix=EXPORT_HINT
        )
    return [member.filename for member in members]


def read_members(path: Path) -> dict[str, bytes]:
    """Return the contents of an archive of torch by name, without the folder that all names start with.

    Raises:
        ModelError: the archive is damaged, unpacks to too much, or holds a name twice or more than one folder.
    """
    names = list_members(path)
    root = names[0].split("/")[0] + "/" if names else ""
    if len(set(names)) != len(names) or not all(name.startswith(root) for name in names):
        refuse(path, "members twice or in several folders", "one folder, as torch writes it")
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removeprefix(root): archive.read(name) for name in names}
    except Exception as error:  # such as wrong checksums, encryption, or a compression that is not installed
        raise _damaged_error(path, error) from error


def write_archive(members: dict[str, bytes]) -> io.BytesIO:
    """Return a new archive of torch with these members, to be read from its beginning."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(f"model/{name}", content)
    file.seek(0)
    return file


def refuse(path: Path, got: str, expected: str) -> NoReturn:
    """Raise the error for a program that holds something it may not.

    Args:
        path: the file of the program.
        got: what it holds.
        expected: what it may hold.

    Raises:
        ModelError: always.
    """
    raise ModelError(f"network {path}", got=got, expected=expected, fix=EXPORT_HINT) from None


def unreadable_error(path: Path, error: Exception, program_format: str) -> ModelError:
    """Return the error for a program that torch cannot read.

    Args:
        path: the file of the program.
        error: what torch raised.
        program_format: the name of its format.
    """
    got = get_first_line(error)
    return ModelError(f"network {path}", got=got, expected=f"a {program_format} program", fix="export it again")


def _damaged_error(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"network {path}",
        got=f"a damaged zip archive ({error})",
        expected="a file that torch wrote",
        fix="copy or export it again",
    )
