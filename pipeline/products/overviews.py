"""Overviews of a store: the same arrays at a half, a quarter, … of the resolution, in groups beside them.

A pixel of an overview stands for 2×2 pixels of the level below, of those that are valid: labels by their mode (of
equals the lowest), layers by their average. A scene of odd size ends within its last pixel.

The groups are called ``ovr_2x``, ``ovr_4x``, … and each is a georeferenced dataset of its own, as xarray opens it; the
``multiscales`` attribute lists them as GDAL (from 3.13 on) writes and reads it: the labels' array by its name, the
others by their groups.
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

TOP_LEVEL_SIZE = 512
"""Pixels of the longer side from which on there is no smaller overview."""


def write_overviews(store: Path, grid: GeoBox, classes: Sequence[LabelClass]) -> None:
    """Write every overview of a store whose labels are all written, before it is sealed.

    At most two by two chunks (or shards) of one array are in memory at a time. What a killed call left is replaced.
    """
    for left in store.glob("ovr_*x"):
        shutil.rmtree(left)
    names = list_store_rasters(store)
    group = zarr.open_group(store, mode="r+", use_consolidated=False)
    storage = _read_layout(store)
    full, below, layout = grid, store, [_describe_level(grid, LABELS_ARRAY)]
    while max(grid.shape) > TOP_LEVEL_SIZE:
        grid = halve_grid(grid)
        factor = 2 ** len(layout)
        level = store / f"ovr_{factor}x"
        create_level_arrays(
            group.create_group(level.name, attributes={"Conventions": "CF-1.11", **build_convention_attributes(grid)}),
            grid, classes, storage, names[1:],
        )  # fmt: skip
        for name in names:
            _write_halved_array(below, level, name, storage.unit)
        layout.append(_describe_level(grid, level.name, derived_from=str(layout[-1]["asset"])))
        below = level
    if len(layout) > 1:
        group.update_attributes({**build_convention_attributes(full, "multiscales"), "multiscales": {"layout": layout}})


def halve_grid(grid: GeoBox) -> GeoBox:
    """The grid of pixels twice as large, from the same corner, that covers ``grid``."""
    height, width = grid.shape
    return GeoBox((math.ceil(height / 2), math.ceil(width / 2)), grid.transform @ Affine.scale(2), grid.crs)


def reduce_by_mode(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The most frequent valid label of each 2×2 pixels (2h, 2w), the lowest of equals: (h, w)."""
    first, second, third, fourth = _sort_four(*_split_into_quarters(pixels))
    # Sorted, so that equals are neighbours and what has no data comes last.
    twice = np.where((second == third) & (second != NODATA), second, first)
    late = np.where((third == fourth) & (third != NODATA) & (second != third), third, twice)
    return np.where(first == second, first, late)


def reduce_by_average(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The average of the valid ones of each 2×2 values (…, 2h, 2w), halves rounded up: (…, h, w)."""
    quarters = _split_into_quarters(values)
    total = sum((np.where(part == NODATA, 0, part).astype(np.uint16) for part in quarters), np.uint16(0))
    count = sum(((part != NODATA).astype(np.uint16) for part in quarters), np.uint16(0))
    mean = (2 * total + count) // np.maximum(2 * count, 1)
    return np.where(count == 0, NODATA, mean).astype(np.uint8)


def find_stale_overviews(store: Path) -> Iterator[str]:
    """The groups with pixels that are not made of those below them, a few chunks at a time."""
    layout = zarr.open_group(store, mode="r").attrs.get("multiscales", {}).get("layout", [])
    unit, names = _read_layout(store).unit, list_store_rasters(store)
    for entry in layout[1:]:
        below = store if entry["derived_from"] == LABELS_ARRAY else store / entry["derived_from"]
        level = store / entry["asset"]
        made = (
            (open_store_raster(level, name), *part)
            for name in names
            for part in _iter_halved_windows(below, level, name, unit)
        )
        if any((np.asarray(array[(..., *window.to_slices())]) != values).any() for array, window, values in made):
            yield entry["asset"]


def _write_halved_array(below: Path, level: Path, name: str, unit: int) -> None:
    for window, values in _iter_halved_windows(below, level, name, unit):
        write_store_raster(level, name, window, values)


def _iter_halved_windows(below: Path, level: Path, name: str, unit: int) -> Iterator[tuple[Window, NDArray[np.uint8]]]:
    """What an array of ``level`` should hold, window by window."""
    source = open_store_raster(below, name)
    reduce = reduce_by_mode if name == LABELS_ARRAY else reduce_by_average
    height, width = open_store_raster(level, name).shape[-2:]
    for window in _iter_windows(height, width, unit):
        rows, cols = (slice(2 * part.start, 2 * part.stop) for part in window.to_slices())
        pixels = np.asarray(source[(..., rows, cols)])
        odd = [(0, 0)] * (pixels.ndim - 2) + [(0, size % 2) for size in pixels.shape[-2:]]
        yield window, reduce(np.pad(pixels, odd, constant_values=NODATA))


def _iter_windows(height: int, width: int, unit: int) -> Iterator[Window]:
    for row in range(0, height, unit):
        for col in range(0, width, unit):
            yield Window(row, col, min(unit, height - row), min(unit, width - col))


def _split_into_quarters(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], ...]:
    return tuple(pixels[..., row::2, col::2] for row in (0, 1) for col in (0, 1))


def _sort_four(*four: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Four arrays, sorted pixel by pixel: five comparisons."""
    values = list(four)
    for one, other in ((0, 1), (2, 3), (0, 2), (1, 3), (1, 2)):
        values[one], values[other] = np.minimum(values[one], values[other]), np.maximum(values[one], values[other])
    return values


def _read_layout(store: Path) -> ZarrLayout:
    labels = open_store_raster(store, LABELS_ARRAY)
    shard = None if labels.shards is None else labels.shards[0]
    return ZarrLayout(labels.chunks[0], shard, labels.metadata.zarr_format)


def _describe_level(grid: GeoBox, asset: str, derived_from: str | None = None) -> dict[str, JSON]:
    placed: dict[str, JSON] = {
        "spatial:shape": list(grid.shape),
        "spatial:transform": list(grid.transform)[:6],
        "spatial:bbox": list(grid.extent.boundingbox.bbox),
    }
    if derived_from is None:
        return {"asset": asset, "transform": {"scale": [1.0, 1.0]}, **placed}
    transform: JSON = {"scale": [2.0, 2.0], "translation": [0.0, 0.0]}
    return {
        "asset": asset, "derived_from": derived_from, "transform": transform, "resampling_method": "mode", **placed
    }  # fmt: skip
