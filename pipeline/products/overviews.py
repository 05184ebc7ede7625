"""Overviews of a Zarr store: the same arrays at a half, a quarter, … of the resolution, in groups beside them.

A pixel of an overview stands for those of 2×2 pixels of the level below that are valid: for labels their mode (the
lowest of equally frequent ones), for layers their average, of days the last one. A scene of odd size ends within the
last pixel of its overview.

The groups are called ``ovr_2x``, ``ovr_4x``, … Each is a georeferenced dataset of its own, which xarray opens. The
``multiscales`` attribute lists them as GDAL (from 3.13 on) writes and reads it: the full resolution by the name of its
array of labels, the others by the names of their groups.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import pairwise, product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import zarr
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import NODATA, LabelClass
from seamline.pipeline.geometry.tiling import Index, MapChunks
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.geozarr import JSON, build_convention_attributes
from seamline.pipeline.products.kept_result import KeptResult
from seamline.pipeline.products.layers import LAYERS, get_nodata
from seamline.pipeline.products.store_files import StoredFile, describe_chunk_files, list_chunk_files
from seamline.pipeline.products.zarr_store import (
    LABELS_ARRAY,
    ZarrLayout,
    create_level_arrays,
    list_store_rasters,
    open_store_raster,
    write_store_raster,
)
from seamline.pipeline.storage.atomic import sync_files

S = TypeVar("S")

_TOP_LEVEL_SIZE = 512
"""A level whose longer side has at most this number of pixels gets no smaller overview."""
_AREA_PIXELS = 2**24
"""Values that a worker reads at a time, unless two by two chunks (or shards) are more."""


def write_overviews(
    store: Path,
    grid: GeoBox,
    classes: Sequence[LabelClass],
    scratch: Path,
    map_areas: MapChunks = map,
    summarize: Callable[[Window, NDArray[np.uint8]], S] | None = None,
    kept: KeptResult | None = None,
) -> tuple[list[S], dict[str, StoredFile]]:
    """Write all overviews of a store whose labels and layers are complete. Seal the store afterwards.

    The work is done on areas of a level: squares of which one or more levels above are made, whole Zarr chunks (or
    shards) of each. So every chunk has one writer. A further round makes the next levels of the last of these.

    Until they are complete, the overviews lie in a folder of their own: a lost worker of a killed call cannot change
    what the next call writes. Overviews that an earlier, killed call left in the store are replaced.

    Args:
        store: the Zarr store.
        grid: its grid.
        classes: classes of the labels.
        scratch: folder for temporary files on the same disk, which workers reach too; it is created if it is missing.
        map_areas: does the work on areas, which have a row and a column as chunks have.
        summarize: is called with window and labels (height, width) of each area of the full resolution, so that nobody
            needs to read them again.
        kept: an older result on the grid, from whose store unchanged chunks are taken.

    Returns:
        What ``summarize`` returned for each area; and the files of the chunks of labels, layers and overviews as they
        were found, by their paths below the store, so that nobody needs to read these again either.
    """
    for leftover in store.glob("ovr_*x"):
        shutil.rmtree(leftover)
    layout, names = read_layout(store), list_store_rasters(store)
    usable = kept if kept is not None and kept.edge == layout.write_unit else None
    summaries, files = list[S](), dict[str, StoredFile]()
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="overviews-", dir=scratch, ignore_cleanup_errors=True) as folder:
        levels = [store, *create_overviews(Path(folder), grid, classes, layout, names[1:])]
        for name in names:
            steps = _count_steps(layout.write_unit, math.prod(open_store_raster(store, name).shape[:-2]))
            for base in range(0, max(1, len(levels) - 1), steps):
                some = tuple(levels[base : base + steps + 1])
                reduction = _Reduction(some, name, layout.write_unit, 2**steps, base, usable)
                wanted = summarize if base == 0 and name == LABELS_ARRAY else None
                for summary, found in map_areas(partial(_reduce_area, reduction, wanted), reduction.places):
                    files |= found
                    if summary is not None:
                        summaries.append(summary)
        for level in levels[1:]:
            _put_into_store(level, store)
    describe_overviews(store, grid)
    return summaries, files


def _put_into_store(level: Path, store: Path) -> None:
    level.rename(store / level.name)


def list_levels(store: Path) -> list[Path]:
    """Return the groups of a store that hold its arrays at ever lower resolutions, the store itself first."""
    overviews = [group.name for group in store.glob("ovr_*x")]
    return [store, *(store / _name_overview(level) for level in range(1, len(overviews) + 1))]


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


def reduce_by_average(values: NDArray[Any]) -> NDArray[Any]:
    """Return the average (…, h, w) of the valid ones of each 2×2 unsigned integers (…, 2h, 2w), halves rounded up."""
    quarters, nodata = _split_into_quarters(values), get_nodata(values.dtype)
    wide = np.dtype("uint16" if values.dtype == np.uint8 else "uint32")
    total = reduce(np.add, (np.where(part == nodata, 0, part).astype(wide) for part in quarters))
    count = reduce(np.add, ((part != nodata).astype(wide) for part in quarters))
    mean = (2 * total + count) // np.maximum(2 * count, 1)
    return np.where(count == 0, nodata, mean).astype(values.dtype)


def reduce_by_maximum(values: NDArray[Any]) -> NDArray[Any]:
    """Return the largest (…, h, w) of the valid ones of each 2×2 unsigned integers (…, 2h, 2w)."""
    # One more makes 0 of nodata, the largest number, and 1 less makes nodata of 0.
    one = values.dtype.type(1)
    largest: NDArray[Any] = reduce(np.maximum, (part + one for part in _split_into_quarters(values))) - one
    return largest


def find_stale_overviews(store: Path) -> Iterator[str]:
    """Yield the names of overview groups whose pixels do not follow from the level below.

    A few chunks are in memory at a time.
    """
    levels = zarr.open_group(store, mode="r").attrs.get("multiscales", {}).get("layout", [])
    unit, names = read_layout(store).write_unit, list_store_rasters(store)
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


def _iter_halved_windows(below: Path, level: Path, name: str, unit: int) -> Iterator[tuple[Window, NDArray[Any]]]:
    """Yield the windows of an array of ``level`` and the values that it should hold there."""
    source = open_store_raster(below, name)
    height, width = open_store_raster(level, name).shape[-2:]
    for window in _iter_windows(height, width, unit):
        rows, cols = (slice(2 * part.start, 2 * part.stop) for part in window.to_slices())
        yield window, _halve(name, np.asarray(source[(..., rows, cols)]))


def _halve(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Return values (…, height, width) of an array at half the resolution; an odd last row or column has its own."""
    padding = [(0, 0)] * (values.ndim - 2) + [(0, size % 2) for size in values.shape[-2:]]
    padded = np.pad(values, padding, constant_values=get_nodata(values.dtype))
    if name == LABELS_ARRAY:
        return reduce_by_mode(padded)
    return reduce_by_maximum(padded) if LAYERS[name].overview == "maximum" else reduce_by_average(padded)


def _iter_windows(height: int, width: int, unit: int) -> Iterator[Window]:
    for row in range(0, height, unit):
        for col in range(0, width, unit):
            yield Window(row, col, min(unit, height - row), min(unit, width - col))


@dataclass(frozen=True)
class _Reduction:
    """An array at some resolutions, of which the first is complete and the others are to be made of it.

    Attributes:
        levels: the groups that hold the array.
        name: name of the array.
        unit: edge in pixels of a chunk (or shard).
        chunks: edge of an area of the first level in chunks.
        base: number of the first level, 0 for the full resolution.
        kept: an older result, from whose store unchanged chunks are taken.
    """

    levels: tuple[Path, ...]
    name: str
    unit: int
    chunks: int
    base: int
    kept: KeptResult | None

    @property
    def edge(self) -> int:
        """Edge in pixels of an area of the first level."""
        return self.unit * self.chunks

    @property
    def places(self) -> list[Index]:
        """All areas, row by row."""
        shape = open_store_raster(self.levels[0], self.name).shape[-2:]
        rows, cols = (range(math.ceil(size / self.edge)) for size in shape)
        return [Index(row, col) for row, col in product(rows, cols)]


def _count_steps(unit: int, bands: int) -> int:
    """Return how many levels are made of an area, so that it has few enough pixels in all its bands."""
    steps = 1
    while (unit * 2 ** (steps + 1)) ** 2 * bands <= _AREA_PIXELS:
        steps += 1
    return steps


def _reduce_area(
    reduction: _Reduction, summarize: Callable[[Window, NDArray[np.uint8]], S] | None, place: Index
) -> tuple[S | None, dict[str, StoredFile]]:
    """Write an area at all levels but the first.

    Returns:
        What ``summarize`` does for its window and values; and the files of what was written and of the full resolution.
    """
    array, edge = open_store_raster(reduction.levels[0], reduction.name), reduction.edge
    height, width = array.shape[-2:]
    window = Window(place.row * edge, place.col * edge, edge, edge).intersection(Window(0, 0, height, width))
    files = describe_chunk_files(reduction.levels[0], reduction.name, window) if reduction.base == 0 else {}
    if reduction.kept is not None:
        summary = None if summarize is None else summarize(window, np.asarray(array[window.to_slices()]))
        return summary, files | _reduce_changed_chunks(reduction, reduction.kept, window)
    values = np.asarray(array[(..., *window.to_slices())])
    summary = None if summarize is None else summarize(window, values)
    for level in reduction.levels[1:]:
        values = _halve(reduction.name, values)
        window = Window(window.row // 2, window.col // 2, *values.shape[-2:])
        write_store_raster(level, reduction.name, window, values)
        sync_files(list_chunk_files(level, reduction.name, window))
        files |= describe_chunk_files(level, reduction.name, window, level.name)
    return summary, files


def _reduce_changed_chunks(reduction: _Reduction, kept: KeptResult, window: Window) -> dict[str, StoredFile]:
    """Write an area at all levels but the first, chunk by chunk; unchanged chunks are those of the older result.

    Args:
        reduction: the levels.
        kept: the older result.
        window: the area of the first level.

    Returns:
        The files of what was written.
    """
    files: dict[str, StoredFile] = {}
    name, unit = reduction.name, reduction.unit
    for number, (below, level) in enumerate(pairwise(reduction.levels), reduction.base + 1):
        window = Window(window.row // 2, window.col // 2, -(-window.height // 2), -(-window.width // 2))
        source = open_store_raster(below, name)
        for place in _iter_windows(window.height, window.width, unit):
            chunk = place.shift(window.row, window.col)
            if not kept.link_chunk(number, chunk, level, name):
                rows, cols = (slice(2 * part.start, 2 * part.stop) for part in chunk.to_slices())
                write_store_raster(level, name, chunk, _halve(name, np.asarray(source[(..., rows, cols)])))
                sync_files(list_chunk_files(level, name, chunk))
        files |= describe_chunk_files(level, name, window, level.name)
    return files


def create_overviews(
    folder: Path,
    grid: GeoBox,
    classes: Sequence[LabelClass],
    layout: ZarrLayout,
    layers: Sequence[str],
    periods: int | None = None,
) -> list[Path]:
    """Create the groups of all overviews of a store in a folder, every pixel nodata.

    Args:
        folder: where they are created: the store, or a folder of which they are moved there.
        grid: grid of the full resolution.
        classes: classes of the labels.
        layout: how arrays lie on disk.
        layers: names of the layers beside the labels.
        periods: size of the dimension ``time``. ``None``: the arrays have none.

    Returns:
        The groups, each of half the resolution of the one before.
    """
    levels: list[Path] = []
    for level, smaller in enumerate(_list_overview_grids(grid), 1):
        levels.append(folder / _name_overview(level))
        attributes = {"Conventions": "CF-1.11", **build_convention_attributes(smaller)}
        group = zarr.create_group(levels[-1], attributes=attributes, zarr_format=layout.zarr_format)
        create_level_arrays(group, smaller, classes, layout, layers, periods)
    return levels


def describe_overviews(store: Path, grid: GeoBox) -> None:
    """List the overviews of a store in its ``multiscales`` attribute, if its grid is large enough to have any."""
    levels = [_describe_level(grid, LABELS_ARRAY)]
    for level, smaller in enumerate(_list_overview_grids(grid), 1):
        levels.append(_describe_level(smaller, _name_overview(level), derived_from=str(levels[-1]["asset"])))
    if len(levels) > 1:
        zarr.open_group(store, mode="r+", use_consolidated=False).update_attributes(
            {**build_convention_attributes(grid, "multiscales"), "multiscales": {"layout": levels}},
        )


def _name_overview(level: int) -> str:
    return f"ovr_{2**level}x"


def _list_overview_grids(grid: GeoBox) -> list[GeoBox]:
    """Return the grids of all overviews of a store on a grid."""
    grids = [grid]
    while max(grids[-1].shape) > _TOP_LEVEL_SIZE:
        grids.append(halve_grid(grids[-1]))
    return grids[1:]


def _split_into_quarters(pixels: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    return tuple(pixels[..., row::2, col::2] for row in (0, 1) for col in (0, 1))


def _sort_four(*four: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Return four arrays, sorted pixel by pixel with a sorting network of five comparisons."""
    values = list(four)
    for one, other in ((0, 1), (2, 3), (0, 2), (1, 3), (1, 2)):
        values[one], values[other] = np.minimum(values[one], values[other]), np.maximum(values[one], values[other])
    return values


def read_layout(store: Path) -> ZarrLayout:
    """Return how the arrays of a store lie on disk."""
    labels = open_store_raster(store, LABELS_ARRAY)
    shard = None if labels.shards is None else labels.shards[-1]
    return ZarrLayout(labels.chunks[-1], shard, labels.metadata.zarr_format)


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
