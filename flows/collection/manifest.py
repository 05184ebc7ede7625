"""Lists of scenes as people and spreadsheets write them: lines of text, CSV, or JSON."""

from __future__ import annotations

import codecs
import csv
import json
import os
from pathlib import Path

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.storage.atomic import refuse_special_file

_COLUMN = "source"
_DELIMITERS = ",;\t"
"""Between the columns of a CSV; the one that the head of the table has most of counts."""
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_manifest(manifest: Path) -> list[str]:
    """Return the sources that a file lists; relative paths count from the file's folder.

    Raises:
        InputError: the file is no such list.
    """
    refuse_special_file(manifest)
    try:
        sources = _parse_manifest(_decode_text(manifest.read_bytes()), manifest.suffix.lower())
    except (OSError, ValueError, LookupError, TypeError, RecursionError, csv.Error) as error:
        raise InputError(
            f"manifest {manifest}",
            got=" ".join(f"{type(error).__name__}: {error}".split()),
            expected="a source on each line, CSV with a column source, or a JSON list of sources",
            fix="correct it",
        ) from error
    return [_resolve_source(manifest.parent, source) for source in sources]


def _decode_text(data: bytes) -> str:
    """Return the text of a file: by its mark, else UTF-8, else what Windows writes in western Europe."""
    marked = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None)
    if marked is not None:
        return data.decode(marked)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252")


def _parse_manifest(text: str, suffix: str) -> list[str]:
    if suffix == ".json":
        sources = json.loads(text)
        if not isinstance(sources, list) or not all(isinstance(source, str) for source in sources):
            raise ValueError("no list of texts")
        return sources
    if suffix == ".csv":
        return _parse_table(text)
    lines = (line.strip() for line in text.splitlines())
    return [_drop_quotes(line) for line in lines if line and not line.startswith("#")]


def _parse_table(text: str) -> list[str]:
    """Return the column "source", in whatever case, of a CSV."""
    head = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=head.count)
    rows = csv.DictReader(text.splitlines(keepends=True), delimiter=delimiter)
    names = rows.fieldnames or ()
    column = next((name for name in names if name.strip().casefold() == _COLUMN), None)
    if column is None:
        raise LookupError(f"the columns {', '.join(map(repr, names)) or 'of an empty file'}")
    cells = ((row[column] or "").strip() for row in rows)
    return [cell for cell in cells if cell]


def _drop_quotes(line: str) -> str:
    """Return a line without the quotes that file managers put around a path."""
    return line[1:-1] if len(line) > 1 and line[0] == line[-1] and line[0] in "\"'" else line


def _resolve_source(folder: Path, source: str) -> str:
    if "://" in source or source.startswith(("/", "~")):
        return source
    # os.path.exists is false for names that are longer than a file system allows; Path.exists raises.
    path, written_on_windows = str(folder / source), str(folder / source.replace("\\", "/"))
    exists = os.path.exists
    return written_on_windows if not exists(path) and exists(written_on_windows) else path
