"""Digests of files and documents, by which damage is noticed when they are read again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

Digests = Mapping[str, str | None]
"""Path below a folder → digest of the file; None where there is no file."""

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
    """Return the digests of files, by their paths below ``folder``."""
    return {name: compute_digest(folder / name) for name in names}


def are_unchanged(folder: Path, digests: Digests) -> bool:
    """Return whether all files are as they were when these digests were computed; absent files are still absent."""
    return all(compute_digest(folder / name) == digest for name, digest in digests.items())


def encode_with_digest(values: Mapping[str, Any]) -> bytes:
    """Return a document as JSON, with a digest of its content; ``decode_with_digest`` checks it."""
    content = json.loads(json.dumps(values))  # tuples become lists, and keys strings, as they will be read
    return json.dumps({**content, _DIGEST: _digest_content(content)}, indent=2).encode("utf-8") + b"\n"


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
    if digest != _digest_content(values):
        raise ValueError("its content is not that of its digest")
    return values


def _digest_content(values: Mapping[str, Any]) -> str:
    return _new_hash(json.dumps(values, sort_keys=True).encode("utf-8")).hexdigest()
