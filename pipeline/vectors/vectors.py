"""The labels of a scene as polygons in files: sieved, polygonised and simplified chunk by chunk, joined as a stream.

Workers read labels from a store and leave what they find in a scratch folder; the client takes it in the order of the
chunks, joins it and writes. In its memory are the regions that the last row of chunks cuts, whole, a batch of rows, and
with a sieve a few numbers for each region at the border of a chunk.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import NODATA, LabelClass
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.pixel_area import AreaArray, PixelAreas, measure_pixel_areas
from seamline.pipeline.geometry.tiling import Index, MapChunks, Tiling
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.layers import CONFIDENCE
from seamline.pipeline.products.zarr_store import (
    LABELS_ARRAY,
    ZarrLayout,
    list_store_rasters,
    open_labels,
    open_store_raster,
    write_labels,
)
from seamline.pipeline.storage.atomic import open_npz
from seamline.pipeline.vectors.polygonize import Pieces, join_regions, trace_pieces
from seamline.pipeline.vectors.sieve import (
    WindowSummary,
    WindowVerdict,
    resolve_shared_regions,
    sieve_window,
    summarize_window,
)
from seamline.pipeline.vectors.simplify import Simplification
from seamline.pipeline.vectors.writers import POLYGON_FILES, PolygonTable, convert_parquet, write_parquet

T = TypeVar("T")


@dataclass(frozen=True)
class PolygonRules:
    """What becomes of the regions of a raster: those smaller than ``min_area`` m² join a neighbour (``sieve.py``), then
    corners go whose triangle is smaller than the square of ``simplify`` pixels (``simplification.py``)."""

    min_area: float = 0
    simplify: float = 0

    def __post_init__(self) -> None:
        for value in (self.min_area, self.simplify):
            if not 0 <= value < float("inf"):
                raise ValueError(f"expected numbers from 0, got {self}")


@dataclass(frozen=True)
class PolygonOptions:
    """Which files of polygons are wanted (keys of ``POLYGON_FILES``), and by which rules."""

    formats: tuple[str, ...] = tuple(POLYGON_FILES)
    rules: PolygonRules = PolygonRules()

    def __post_init__(self) -> None:
        if not self.formats or set(self.formats) - set(POLYGON_FILES):
            raise ValueError(f"expected some of {tuple(POLYGON_FILES)}, got {self.formats}")

    def has_files_in(self, folder: Path, record: Mapping[str, Any]) -> bool:
        """Whether the files are there, made by these rules as far as the record of the run says."""
        return self.has_files_among([path.name for path in folder.iterdir()], record)

    def has_files_among(self, names: Collection[str], record: Mapping[str, Any]) -> bool:
        """Whether the files are among those of these names, and the record of the run has these rules."""
        return record.get("polygons") == asdict(self.rules) and all(
            POLYGON_FILES[kind] in names for kind in self.formats
        )


@dataclass(frozen=True)
class _ChunkedLabels:
    """Labels in the store at ``path``, cut into chunks; ``folder`` is for what is found in them."""

    path: Path
    tiling: Tiling
    folder: Path
    areas: PixelAreas

    @property
    def chunks(self) -> list[Index]:
        return list(self.tiling.chunks())

    def file(self, chunk: Index, what: str) -> Path:
        return self.folder / f"{chunk.row}-{chunk.col}.{what}.npz"

    def read(self, chunk: Index) -> tuple[Window, NDArray[np.uint8], AreaArray]:
        """The chunk's window, its labels (height, width), and the areas of its pixels (height, width)."""
        window = self.tiling.write_window_of(chunk)
        return window, np.asarray(open_labels(self.path)[window.to_slices()]), self.areas.for_window(window)

    def around(self, chunk: Index) -> NDArray[np.uint8]:
        """The chunk's labels and one pixel more on every side, nodata outside of the scene."""
        own = self.tiling.write_window_of(chunk)
        wide = Window(own.row - 1, own.col - 1, own.height + 2, own.width + 2)
        inside = wide.intersection(self.tiling.scene_window)
        found = np.full(wide.shape, NODATA, np.uint8)
        found[inside.relative_to(wide).to_slices()] = open_labels(self.path)[inside.to_slices()]
        return found


def write_polygons(
    store: Path,
    tiling: Tiling,
    grid: GeoBox,
    classes: Sequence[LabelClass],
    wanted: PolygonOptions,
    folder: Path,
    scratch: Path,
    spread: MapChunks = map,
) -> None:
    """Write the polygons of the labels in ``store`` to ``folder``; each file appears whole or not at all.

    Files of other formats that are there are written anew as well, so that all of them say the same.

    Args:
        store: has the labels on ``grid`` and, if the confidence of regions shall be known, the layer of that name.
        tiling: cuts the labels into chunks. The polygons do not depend on it, unless they are simplified.
        wanted: formats and rules.
        scratch: a folder on the same disk, which workers reach too.
        spread: does the work on chunks.

    Raises:
        InputError: the rules have a minimum area, but the CRS of the grid does not say how large a pixel is.
    """
    areas = measure_pixel_areas(grid)
    if areas is None and wanted.rules.min_area > 0:
        raise InputError(
            "--polygon-min-area",
            got="a scene whose pixels have no known area",
            expected="a projected or geographic CRS",
            fix="leave it out",
        )
    formats = [kind for kind, name in POLYGON_FILES.items() if kind in wanted.formats or (folder / name).exists()]
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="polygons-", dir=scratch) as work:
        labels = _ChunkedLabels(store, tiling, Path(work), areas or PixelAreas.from_constant(1.0, grid.shape))
        confidence = store if CONFIDENCE in list_store_rasters(store) else None
        if wanted.rules.min_area > 0:
            labels = _sieve_labels(labels, wanted.rules.min_area, spread)
        tolerance = wanted.rules.simplify
        paths = spread(partial(_polygonize_chunk, labels, confidence, tolerance), labels.chunks)
        found = join_regions(_load_and_remove(paths, Pieces.load), tiling.width, simplified=tolerance > 0)
        table = PolygonTable(grid, classes, areas is not None, confidence is not None)
        parquet = (folder if "parquet" in formats else Path(work)) / POLYGON_FILES["parquet"]
        write_parquet(found, table, parquet)
        for kind in formats:
            if kind != "parquet":
                convert_parquet(parquet, kind, grid, folder / POLYGON_FILES[kind], Path(work))


def _polygonize_chunk(labels: _ChunkedLabels, confidence: Path | None, tolerance: float, chunk: Index) -> Path:
    window, values, area = labels.read(chunk)
    sure = None if confidence is None else np.asarray(open_store_raster(confidence, CONFIDENCE)[window.to_slices()])
    simplification = Simplification(tolerance, labels.around(chunk)) if tolerance else None
    path = labels.file(chunk, "pieces")
    trace_pieces(window, values, area, sure, simplification).save(path)
    return path


def _sieve_labels(labels: _ChunkedLabels, minimum: float, spread: MapChunks) -> _ChunkedLabels:
    """The labels after the sieve, in a store of their own if any has changed."""
    tiling, chunks = labels.tiling, labels.chunks
    rounds = 0
    while True:
        paths = spread(partial(_summarize_chunk, labels, minimum), chunks)
        verdicts, small = resolve_shared_regions(_load_and_remove(paths, WindowSummary.load), tiling.width, minimum)
        if not small:
            return labels
        for chunk, verdict in zip(chunks, verdicts, strict=True):
            np.savez(labels.file(chunk, "verdict"), labels=verdict.labels, area=verdict.area)
        rounds += 1
        after = replace(labels, path=labels.folder / f"sieved-{rounds}.zarr")
        shape = tiling.height, tiling.width
        ZarrLayout(tiling.store_chunk_size).raster(
            zarr.create_group(after.path, zarr_format=3), LABELS_ARRAY, shape, {}
        )
        changed = sum(spread(partial(_sieve_chunk, labels, minimum, after.path), chunks))
        if labels.path.parent == labels.folder:
            shutil.rmtree(labels.path)
        labels = after
        if not changed:
            return labels


def _summarize_chunk(labels: _ChunkedLabels, minimum: float, chunk: Index) -> Path:
    path = labels.file(chunk, "summary")
    summarize_window(*labels.read(chunk), minimum).save(path)
    return path


def _sieve_chunk(labels: _ChunkedLabels, minimum: float, target: Path, chunk: Index) -> int:
    """Write the chunk after a round; how many pixels have changed."""
    window, values, area = labels.read(chunk)
    with open_npz(labels.file(chunk, "verdict")) as file:
        after = sieve_window(values, area, WindowVerdict(file["labels"], file["area"]), minimum)
    write_labels(target, window, after)
    return int(np.count_nonzero(after != values))


def _load_and_remove(paths: Iterable[Path], load: Callable[[Path], T]) -> Iterator[T]:
    """What lies in the files, which are removed."""
    for path in paths:
        found = load(path)
        path.unlink()
        yield found
