"""The files of a Zarr store: those of a window, metadata written anew, and what killed writers left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import zarr

from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.zarr_store import open_store_raster
from seamline.pipeline.storage.atomic import remove
from seamline.pipeline.storage.digests import compute_digest


@dataclass(frozen=True)
class StoredFile:
    """What was found in a file: its size in bytes, and its digest (``storage/digests.py``)."""

    size: int
    digest: str


def describe_chunk_files(level: Path, name: str, window: Window, group: str = "") -> dict[str, StoredFile]:
    """Read the files that hold a window of an array.

    Args:
        level: the store, or the group of an overview, wherever it lies now.
        name: name of the array.
        window: whole Zarr chunks or shards.
        group: name of the group in the store; empty for the store itself.

    Returns:
        What was found, by the paths of the files below the store. Chunks of nothing but nodata have no file.
    """
    found = {}
    for path in list_chunk_files(level, name, window):
        digest = compute_digest(path)
        if digest is not None:
            found[(Path(group) / path.relative_to(level)).as_posix()] = StoredFile(path.stat().st_size, digest)
    return found


def iter_row_windows(array: zarr.Array[Any]) -> Iterator[Window]:
    """Yield windows of the full width from top to bottom, each one Zarr chunk or shard high.

    Args:
        array: (…, y, x).

    Yields:
        Windows that cover the array without overlap. The last one ends with the array.
    """
    height, width = array.shape[-2:]
    step = (array.shards or array.chunks)[-2]
    for row in range(0, height, step):
        yield Window(row, 0, min(step, height - row), width)


def list_chunk_files(store: Path, name: str, window: Window) -> list[Path]:
    """Return the files that hold a window of an array; those of nothing but nodata do not exist.

    Args:
        store: the store.
        name: name of the array.
        window: whole Zarr chunks or shards, as ``write_store_raster`` takes them.

    Returns:
        Paths, one for each Zarr chunk or shard.
    """
    array = open_store_raster(store, name)
    units = (array.shards or array.chunks)[-2:]
    leading = [range(count) for count in array.shape[:-2]]  # their chunks have one element
    spans = [
        range(span.start // unit, -(-span.stop // unit)) for span, unit in zip(window.to_slices(), units, strict=True)
    ]
    return [store / name / array.metadata.encode_chunk_key(place) for place in product(*leading, *spans)]


def renew_store(store: Path, create: Callable[[Path], None]) -> None:
    """Write everything of an unfinished store anew but the chunks of its labels and layers; overviews are removed.

    Args:
        store: folder of the store; it need not exist any more.
        create: creates the store, empty, in another folder.
    """
    fresh = store.with_name("fresh.zarr")
    remove(fresh)
    create(fresh)
    for leftover in (*store.glob("ovr_*x"), store / ".zmetadata"):
        remove(leftover)
    remove_partial_files(store)
    for file in (path for path in fresh.rglob("*") if path.is_file()):
        target = store / file.relative_to(fresh)
        remove(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    remove(fresh)


def remove_partial_files(store: Path) -> None:
    """Remove the files that workers were killed in writing; nothing happens if there is no store."""
    for part in store.rglob("*.partial"):
        part.unlink()
