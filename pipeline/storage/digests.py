"""Digests of files and documents, by which damage is noticed when they are read again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

Digests = Mapping[str, str | None]
"""Path below a folder → digest of the file; None where there is no file."""
FileInfo = dict[str, Any]
"""Fields of STAC's file extension that say what a file is: its size in bytes, and its checksum."""

_READERS = 8
"""Threads that read files. Hashing leaves Python's lock to the others."""

_new_hash = partial(hashlib.blake2b, digest_size=16)
_DIGEST = "digest"
"""Field of a document that holds the digest of the others."""


def compute_digest(path: Path) -> str | None:
    """Return the BLAKE2b digest (128 bits, in hexadecimal digits) of a file; None if there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, _new_hash).hexdigest()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def compute_digests(folder: Path, names: Iterable[str]) -> dict[str, str | None]:
    """Return the digests of files, by their paths below ``folder``; several files are read at once."""
    names = list(names)
    with ThreadPoolExecutor(_READERS) as pool:
        return dict(zip(names, pool.map(lambda name: compute_digest(folder / name), names), strict=True))


def describe_file(path: Path) -> FileInfo:
    """Return size and checksum of a file."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file:size": path.stat().st_size, "file:checksum": to_multihash(sha256)}


def describe_content(content: bytes) -> FileInfo:
    """Return size and checksum of a file that has this content."""
    return {"file:size": len(content), "file:checksum": to_multihash(hashlib.sha256(content).hexdigest())}


def to_multihash(sha256: str) -> str:
    """Return a SHA-256 in hexadecimal digits as a multihash: the code of the hash (0x12), its length (0x20), itself."""
    return f"1220{sha256}"


def combine_digests(values: Mapping[str, Any]) -> str:
    """Return the digest of JSON values by name, such as the digests of files; their order does not matter."""
    return _new_hash(json.dumps(values, sort_keys=True).encode("utf-8")).hexdigest()


def encode_with_digest(values: Mapping[str, Any]) -> bytes:
    """Return a document as JSON, with a digest of its content; ``decode_with_digest`` checks it."""
    content = json.loads(json.dumps(values))  # tuples become lists, and keys strings, as they will be read
    return json.dumps({**content, _DIGEST: combine_digests(content)}, indent=2).encode("utf-8") + b"\n"


def decode_with_digest(data: bytes) -> dict[str, Any]:
    """Return what ``encode_with_digest`` was given.

    Raises:
        ValueError: the document is damaged, or was written by something else.
    """
    try:
        values = json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(values, dict) or _DIGEST not in values:
        raise ValueError("no document with a digest")
    digest = values.pop(_DIGEST)
    if digest != combine_digests(values):
        raise ValueError("its content is not that of its digest")
    return values
