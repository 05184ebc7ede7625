"""The seal of a Zarr store: written last, it says that the store is complete, and of which files it consists."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zarr
from zarr.storage import LocalStore

from seamline.pipeline.products.geozarr import JSON
from seamline.pipeline.products.layers import LAYERS
from seamline.pipeline.products.store_files import StoredFile
from seamline.pipeline.products.zarr_store import LABELS_ARRAY
from seamline.pipeline.storage.digests import combine_digests, compute_digests

_SEAL = "seamline"
"""Attribute of the root group that holds the seal."""

_CONTENT = "content"
"""Field of the seal: a digest of the store's files."""

_RASTERS = {LABELS_ARRAY, *LAYERS}
_ARRAY_METADATA = {"zarr.json", ".zarray", ".zattrs"}
"""Names of arrays of pixels, at all levels, and of those of their files that are no chunks."""

_FOREIGN = (".xml", ".partial")
"""Suffixes of files in a store that are no part of it: GDAL's side-cars, and what a killed worker left."""


def seal(store: Path, attributes: Mapping[str, JSON], known: Mapping[str, StoredFile] | None = None) -> int:
    """Mark a store complete: the last write to it, after all labels, layers and overviews.

    Consolidates the metadata, so that remote readers open the store with one request.

    Args:
        store: the store.
        attributes: what the seal says of the run.
        known: the files of all chunks of labels and layers, by their paths below the store, as ``write_overviews``
            returns them. ``None``: they are read.

    Returns:
        How many bytes the store has.
    """
    with warnings.catch_warnings():
        # Readers use consolidated metadata, although the v3 specification does not have it yet.
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        group = zarr.consolidate_metadata(LocalStore(store))
        content = _compute_content_digest(store, known)
        group.update_attributes({_SEAL: {**attributes, _CONTENT: content, "sealed": True}})
    read_here = sum(path.stat().st_size for path in list_store_files(store, with_chunks=known is None))
    return read_here + sum(file.size for file in (known or {}).values())


def is_sealed(store: Path) -> bool:
    """Return whether there is a store and it is complete."""
    return _read_seal(store).get("sealed") is True


def has_sealed_content(store: Path) -> bool:
    """Return whether the files of a sealed store are those that were sealed; true for seals without a digest."""
    sealed = _read_seal(store).get(_CONTENT)
    return sealed is None or sealed == _compute_content_digest(store)


def _compute_content_digest(store: Path, known: Mapping[str, StoredFile] | None = None) -> str | None:
    """Return a digest of the names and the content of a store's files, without the seal; None if it has no metadata.

    Args:
        store: the store.
        known: the files of all chunks of labels and layers; None: they are read.
    """
    files = list_store_files(store, with_chunks=known is None)
    names = (path.relative_to(store).as_posix() for path in files if path.parent != store)
    try:
        metadata = {path.name: _drop_seal(json.loads(path.read_bytes())) for path in files if path.parent == store}
    except (ValueError, RecursionError):
        return None
    digests = {name: file.digest for name, file in (known or {}).items()}
    return combine_digests({**digests, **compute_digests(store, names), **metadata})


def list_store_files(store: Path, *, with_chunks: bool = True) -> list[Path]:
    """Return the files of a store in order, without those that GDAL and killed workers leave among them.

    Args:
        store: the store.
        with_chunks: also those of the chunks of labels and layers, of which there may be many.
    """
    files = []
    for place, folders, names in os.walk(store):
        if Path(place).name in _RASTERS and not with_chunks:
            folders.clear()
            names = [name for name in names if name in _ARRAY_METADATA]
        files += [Path(place, name) for name in names]
    return sorted(path for path in files if path.suffix not in _FOREIGN and path.is_file())


def _read_seal(store: Path) -> Mapping[str, JSON]:
    """Return the seal of a store; empty if there is no store, or it is unfinished or damaged."""
    if not any((store / name).is_file() for name in ("zarr.json", ".zgroup")):
        return {}
    try:
        mark = zarr.open_group(store, mode="r", use_consolidated=False).attrs.get(_SEAL)
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return mark if isinstance(mark, Mapping) else {}


def _drop_seal(metadata: Any) -> Any:
    """Return metadata of the root group without the seal, which Zarr 2 has in the consolidated metadata, too."""
    if not isinstance(metadata, dict):
        return metadata
    return {key: _drop_seal(value) for key, value in metadata.items() if key != _SEAL}
