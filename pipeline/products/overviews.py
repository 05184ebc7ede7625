"""Overviews of a Zarr store: the same arrays at a half, a quarter, … of the resolution, in groups beside them.

A pixel of an overview stands for those of 2×2 pixels of the level below that are valid: for labels their mode (the
lowest of equally frequent ones), for layers their average. A scene of odd size ends within the last pixel of its
overview.

The groups are called ``ovr_2x``, ``ovr_4x``, … Each is a georeferenced dataset of its own, which xarray opens. The
``multiscales`` attribute lists them as GDAL (from 3.13 on) writes and reads it: the full resolution by the name of its
array of labels, the others by the names of their groups.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import zarr
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import NODATA, LabelClass
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.geozarr import JSON, build_convention_attributes
from seamline.pipeline.products.zarr_store import (
    LABELS_ARRAY,
    ZarrLayout,
    create_level_arrays,
    list_store_rasters,
    open_store_raster,
    write_store_raster,
)

_TOP_LEVEL_SIZE = 512
"""A level whose longer side has at most this number of pixels gets no smaller overview."""


def write_overviews(store: Path, grid: GeoBox, classes: Sequence[LabelClass]) -> None:
    """Write all overviews of a store whose labels and layers are complete. Seal the store afterwards.

    At most two by two chunks (or shards) of one array are in memory at a time. Overviews that an earlier, killed call
    left are replaced.

    Args:
        store: the Zarr store.
        grid: its grid.
        classes: classes of the labels.
    """
    for leftover in store.glob("ovr_*x"):
        shutil.rmtree(leftover)
    names = list_store_rasters(store)
    layers = names[1:]
    group = zarr.open_group(store, mode="r+", use_consolidated=False)
    layout = _read_layout(store)
    level_grid, below, levels = grid, store, [_describe_level(grid, LABELS_ARRAY)]
    while max(level_grid.shape) > _TOP_LEVEL_SIZE:
        level_grid = halve_grid(level_grid)
        level = store / f"ovr_{2 ** len(levels)}x"
        attributes = {"Conventions": "CF-1.11", **build_convention_attributes(level_grid)}
        level_group = group.create_group(level.name, attributes=attributes)
        create_level_arrays(level_group, level_grid, classes, layout, layers)
        for name in names:
            for window, values in _iter_halved_windows(below, level, name, layout.write_unit):
                write_store_raster(level, name, window, values)
        levels.append(_describe_level(level_grid, level.name, derived_from=str(levels[-1]["asset"])))
        below = level
    if len(levels) > 1:
        group.update_attributes(
            {**build_convention_attributes(grid, "multiscales"), "multiscales": {"layout": levels}},
        )


def halve_grid(grid: GeoBox) -> GeoBox:
    """Return the grid of pixels twice as large, from the same corner, that covers ``grid``."""
    height, width = grid.shape
    return GeoBox((math.ceil(height / 2), math.ceil(width / 2)), grid.transform @ Affine.scale(2), grid.crs)


def reduce_by_mode(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the most frequent valid label (h, w) of each 2×2 pixels (2h, 2w), the lowest of equally frequent ones."""
    # After sorting, equal labels are neighbours and nodata, the largest number, comes last.
    first, second, third, fourth = _sort_four(*_split_into_quarters(pixels))
    without_third = np.where((second == third) & (second != NODATA), second, first)
    candidate = np.where((third == fourth) & (third != NODATA) & (second != third), third, without_third)
    return np.where(first == second, first, candidate)


def reduce_by_average(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the average (…, h, w) of the valid ones of each 2×2 values (…, 2h, 2w), halves rounded up."""
    quarters = _split_into_quarters(values)
    total = sum((np.where(part == NODATA, 0, part).astype(np.uint16) for part in quarters), np.uint16(0))
    count = sum(((part != NODATA).astype(np.uint16) for part in quarters), np.uint16(0))
    mean = (2 * total + count) // np.maximum(2 * count, 1)
    return np.where(count == 0, NODATA, mean).astype(np.uint8)


def find_stale_overviews(store: Path) -> Iterator[str]:
    """Yield the names of overview groups whose pixels do not follow from the level below.

    A few chunks are in memory at a time.
    """
    levels = zarr.open_group(store, mode="r").attrs.get("multiscales", {}).get("layout", [])
    unit, names = _read_layout(store).write_unit, list_store_rasters(store)
    for entry in levels[1:]:
        below = store if entry["derived_from"] == LABELS_ARRAY else store / entry["derived_from"]
        level = store / entry["asset"]
        if any(_is_stale(below, level, name, unit) for name in names):
            yield entry["asset"]


def _is_stale(below: Path, level: Path, name: str, unit: int) -> bool:
    array = open_store_raster(level, name)
    return any(
        (np.asarray(array[(..., *window.to_slices())]) != values).any()
        for window, values in _iter_halved_windows(below, level, name, unit)
    )


def _iter_halved_windows(below: Path, level: Path, name: str, unit: int) -> Iterator[tuple[Window, NDArray[np.uint8]]]:
    """Yield the windows of an array of ``level`` and the values that it should hold there."""
    source = open_store_raster(below, name)
    reduce = reduce_by_mode if name == LABELS_ARRAY else reduce_by_average
    height, width = open_store_raster(level, name).shape[-2:]
    for window in _iter_windows(height, width, unit):
        rows, cols = (slice(2 * part.start, 2 * part.stop) for part in window.to_slices())
        pixels = np.asarray(source[(..., rows, cols)])
        padding = [(0, 0)] * (pixels.ndim - 2) + [(0, size % 2) for size in pixels.shape[-2:]]
        yield window, reduce(np.pad(pixels, padding, constant_values=NODATA))


def _iter_windows(height: int, width: int, unit: int) -> Iterator[Window]:
    for row in range(0, height, unit):
        for col in range(0, width, unit):
            yield Window(row, col, min(unit, height - row), min(unit, width - col))


def _split_into_quarters(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], ...]:
    return tuple(pixels[..., row::2, col::2] for row in (0, 1) for col in (0, 1))


def _sort_four(*four: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Return four arrays, sorted pixel by pixel with a sorting network of five comparisons."""
    values = list(four)
    for one, other in ((0, 1), (2, 3), (0, 2), (1, 3), (1, 2)):
        values[one], values[other] = np.minimum(values[one], values[other]), np.maximum(values[one], values[other])
    return values


def _read_layout(store: Path) -> ZarrLayout:
    labels = open_store_raster(store, LABELS_ARRAY)
    shard = None if labels.shards is None else labels.shards[0]
    return ZarrLayout(labels.chunks[0], shard, labels.metadata.zarr_format)


def _describe_level(grid: GeoBox, asset: str, derived_from: str | None = None) -> dict[str, JSON]:
    """Return the entry of a level in the ``multiscales`` attribute."""
    georeference: dict[str, JSON] = {
        "spatial:shape": list(grid.shape),
        "spatial:transform": list(grid.transform)[:6],
        "spatial:bbox": list(grid.extent.boundingbox.bbox),
    }
    if derived_from is None:
        return {"asset": asset, "transform": {"scale": [1.0, 1.0]}, **georeference}
    transform: JSON = {"scale": [2.0, 2.0], "translation": [0.0, 0.0]}
    return {
        "asset": asset,
        "derived_from": derived_from,
        "transform": transform,
        "resampling_method": "mode",
        **georeference,
    }
