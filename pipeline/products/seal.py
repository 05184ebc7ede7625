"""The seal of a Zarr store: written last, it says that the store is complete, and of which files it consists."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zarr
from zarr.storage import LocalStore

from seamline.pipeline.products.geozarr import JSON
from seamline.pipeline.storage.digests import combine_digests, compute_digests

_SEAL = "seamline"
"""Attribute of the root group that holds the seal."""

_CONTENT = "content"
"""Field of the seal: a digest of the store's files."""

_FOREIGN = (".xml", ".partial")
"""Suffixes of files in a store that are no part of it: GDAL's side-cars, and what a killed worker left."""


def seal(store: Path, attributes: Mapping[str, JSON]) -> None:
    """Mark a store complete: the last write to it, after all labels, layers and overviews.

    Consolidates the metadata, so that remote readers open the store with one request.

    Args:
        store: the store.
        attributes: what the seal says of the run.
    """
    with warnings.catch_warnings():
        # Readers use consolidated metadata, although the v3 specification does not have it yet.
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        group = zarr.consolidate_metadata(LocalStore(store))
        content = _compute_content_digest(store)
        group.update_attributes({_SEAL: {**attributes, _CONTENT: content, "sealed": True}})


def is_sealed(store: Path) -> bool:
    """Return whether there is a store and it is complete."""
    return _read_seal(store).get("sealed") is True


def has_sealed_content(store: Path) -> bool:
    """Return whether the files of a sealed store are those that were sealed; true for seals without a digest."""
    sealed = _read_seal(store).get(_CONTENT)
    return sealed is None or sealed == _compute_content_digest(store)


def _compute_content_digest(store: Path) -> str | None:
    """Return a digest of the names and the content of a store's files, without the seal; None if it has no metadata."""
    files = list_store_files(store)
    names = (path.relative_to(store).as_posix() for path in files if path.parent != store)
    try:
        metadata = {path.name: _drop_seal(json.loads(path.read_bytes())) for path in files if path.parent == store}
    except (ValueError, RecursionError):
        return None
    return combine_digests({**compute_digests(store, names), **metadata})


def list_store_files(store: Path) -> list[Path]:
    """Return the files of a store in order, without those that GDAL and killed workers leave among them."""
    return sorted(path for path in store.rglob("*") if path.is_file() and path.suffix not in _FOREIGN)


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
