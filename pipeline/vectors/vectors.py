"""Write the labels of a scene as polygons: sieved, polygonised and simplified chunk by chunk, joined as a stream.

Workers read labels from a store and write what they find to a scratch folder: the regions within a chunk as rows of the
table, if they have many points, and the pieces that its borders cut. The client takes these files in the order of the
chunks, joins the pieces across borders, and appends the rows without a look at them; workers write the other formats.
So its work grows with the borders of chunks, not with their areas. Its memory holds the regions that the last row of
chunks cuts, a batch of rows of the table, and with a sieve a few numbers for each region at the border of a chunk.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import shapely
import zarr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import NODATA, LabelClass
from seamline.pipeline.common.layout import POLYGON_FILES
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
from seamline.pipeline.storage.digests import FileInfo, describe_file
from seamline.pipeline.vectors.polygon_options import PolygonOptions
from seamline.pipeline.vectors.polygonize import Pieces, trace_pieces
from seamline.pipeline.vectors.regions import join_regions, split_pieces
from seamline.pipeline.vectors.sieve import (
    WindowSummary,
    WindowVerdict,
    resolve_shared_regions,
    sieve_window,
    summarize_window,
)
from seamline.pipeline.vectors.simplify import Simplification
from seamline.pipeline.vectors.tile_pyramid import write_pmtiles
from seamline.pipeline.vectors.writers import PolygonPart, PolygonTable, convert_parquet, join_parts, write_part

T = TypeVar("T")

_LEAST_POINTS = 10_000
"""Points of the regions within a chunk from which on they become a row group of their own."""


@dataclass(frozen=True)
class _ChunkedLabels:
    """Labels in a store, cut into chunks.

    Attributes:
        path: the store.
        tiling: cuts the labels into chunks.
        folder: where workers write what they find in the chunks.
        areas: areas of the pixels.
    """

    path: Path
    tiling: Tiling
    folder: Path
    areas: PixelAreas

    @property
    def chunks(self) -> list[Index]:
        return list(self.tiling.chunks())

    def chunk_file(self, chunk: Index, what: str) -> Path:
        return self.folder / f"{chunk.row}-{chunk.col}.{what}.npz"

    def read(self, chunk: Index) -> tuple[Window, NDArray[np.uint8], AreaArray]:
        """Return the chunk's window, its labels (height, width), and the areas of its pixels (height, width)."""
        window = self.tiling.write_window_of(chunk)
        return window, np.asarray(open_labels(self.path)[window.to_slices()]), self.areas.for_window(window)

    def read_padded(self, chunk: Index) -> NDArray[np.uint8]:
        """Return the chunk's labels and those of one pixel more on every side, nodata outside of the scene."""
        own = self.tiling.write_window_of(chunk)
        padded = Window(own.row - 1, own.col - 1, own.height + 2, own.width + 2)
        inside = padded.intersection(self.tiling.scene_window)
        labels = np.full(padded.shape, NODATA, np.uint8)
        labels[inside.relative_to(padded).to_slices()] = open_labels(self.path)[inside.to_slices()]
        return labels


def write_polygons(
    store: Path,
    tiling: Tiling,
    grid: GeoBox,
    classes: Sequence[LabelClass],
    options: PolygonOptions,
    folder: Path,
    scratch: Path,
    map_chunks: MapChunks = map,
) -> dict[str, FileInfo]:
    """Write the polygons of the labels in a store; each file appears whole or not at all.

    Files of other formats that ``folder`` has already are written anew, so that all of them agree.

    Args:
        store: has the labels, and the layer ``confidence`` if the confidence of regions is to be written.
        tiling: cuts the labels into chunks. The polygons do not depend on it, unless they are simplified.
        grid: grid of the labels.
        classes: classes of the labels.
        options: formats and rules.
        folder: where the files are written.
        scratch: a folder on the same disk, which workers reach too.
        map_chunks: does the work on chunks.

    Returns:
        Size and checksum of each file that was written, by their names.

    Raises:
        InputError: such a scene cannot have them (``PolygonOptions.check_grid``).
    """
    options.check_grid(grid)
    rules = options.rules
    areas = measure_pixel_areas(grid)
    formats = [kind for kind, name in POLYGON_FILES.items() if kind in options.formats or (folder / name).exists()]
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="polygons-", dir=scratch) as name:
        work = Path(name)
        labels = _ChunkedLabels(store, tiling, work, areas or PixelAreas.from_constant(1.0, grid.shape))
        confidence = store if CONFIDENCE in list_store_rasters(store) else None
        if rules.min_area > 0:
            labels = _sieve_labels(labels, rules.min_area, map_chunks)
        table = PolygonTable(grid, classes, areas is not None, confidence is not None)
        parts: list[PolygonPart] = []
        found = map_chunks(partial(_polygonize_chunk, labels, confidence, table, rules.simplify), labels.chunks)
        pieces = _load_and_remove(_take_parts(found, parts), Pieces.load)
        regions = join_regions(pieces, tiling.width, simplified=rules.simplify > 0)
        parts.append(write_part(regions, table, work / "borders.parquet"))
        parquet = (folder if "parquet" in formats else work) / POLYGON_FILES["parquet"]
        join_parts(parts, table, parquet)
        return _convert_polygons(parquet, formats, table, folder, work, map_chunks)


def _take_parts(found: Iterable[tuple[Path, PolygonPart | None]], parts: list[PolygonPart]) -> Iterator[Path]:
    """Yield the files of pieces, and add those of rows to ``parts``."""
    for path, part in found:
        if part is not None:
            parts.append(part)
        yield path


def _convert_polygons(
    parquet: Path, formats: Sequence[str], table: PolygonTable, folder: Path, work: Path, map_chunks: MapChunks
) -> dict[str, FileInfo]:
    """Write the other formats; return size and checksum of all files by their names.

    Tiles are the work of all workers, any other format that of one.
    """
    others = [kind for kind in formats if kind not in ("parquet", "pmtiles")]
    convert = partial(_convert_to_format, parquet, others, table.grid, folder, work)
    infos = map_chunks(convert, [Index(0, number) for number in range(len(others))])
    files = {POLYGON_FILES[kind]: info for kind, info in zip(others, infos, strict=True)}
    if "pmtiles" in formats:
        tiles, scratch = folder / POLYGON_FILES["pmtiles"], work / "tiles"
        scratch.mkdir()
        write_pmtiles(parquet, table.grid, table.classes, tiles, scratch, map_chunks)
        files[tiles.name] = describe_file(tiles)
    return {parquet.name: describe_file(parquet), **files} if parquet.parent == folder else files


def _convert_to_format(
    parquet: Path, formats: Sequence[str], grid: GeoBox, folder: Path, work: Path, place: Index
) -> FileInfo:
    """Write the polygons in the format at this place; return size and checksum of the file."""
    kind = formats[place.col]
    path = folder / POLYGON_FILES[kind]
    convert_parquet(parquet, kind, grid, path, work)
    return describe_file(path)


def _polygonize_chunk(
    labels: _ChunkedLabels, confidence: Path | None, table: PolygonTable, tolerance: float, chunk: Index
) -> tuple[Path, PolygonPart | None]:
    """Write what is found in a chunk to files.

    Args:
        labels: the labels.
        confidence: the store that has the layer; None if there is none.
        table: how regions become rows.
        tolerance: of the simplification, in pixels; 0: none.
        chunk: the chunk.

    Returns:
        The file of its pieces; and that of the rows of regions within it, whose pieces are then left out. Few are no
        file of their own, since readers look at the statistics of each row group.
    """
    window, values, area = labels.read(chunk)
    weights = None
    if confidence is not None:
        weights = np.asarray(open_store_raster(confidence, CONFIDENCE)[window.to_slices()])
    simplification = Simplification(tolerance, labels.read_padded(chunk)) if tolerance else None
    path = labels.chunk_file(chunk, "pieces")
    pieces, part = trace_pieces(window, values, area, weights, simplification), None
    if shapely.get_num_coordinates(pieces.geometries[pieces.inner]).sum() >= _LEAST_POINTS:
        regions, pieces = split_pieces(pieces)
        part = write_part(regions, table, path.with_suffix(".parquet"))
    pieces.save(path)
    return path, part


def _sieve_labels(labels: _ChunkedLabels, minimum: float, map_chunks: MapChunks) -> _ChunkedLabels:
    """Return the labels after all rounds of the sieve, in a store of their own if there was anything to merge."""
    tiling, chunks = labels.tiling, labels.chunks
    rounds = 0
    while True:
        paths = map_chunks(partial(_summarize_chunk, labels, minimum), chunks)
        summaries = _load_and_remove(paths, WindowSummary.load)
        verdicts, has_small = resolve_shared_regions(summaries, tiling.width, minimum)
        if not has_small:
            return labels
        for chunk, verdict in zip(chunks, verdicts, strict=True):
            np.savez(labels.chunk_file(chunk, "verdict"), **vars(verdict))
        rounds += 1
        after = replace(labels, path=labels.folder / f"sieved-{rounds}.zarr")
        group = zarr.create_group(after.path, zarr_format=3)
        dims = {"y": tiling.height, "x": tiling.width}
        ZarrLayout(tiling.store_chunk_size).create_raster(group, LABELS_ARRAY, dims, {})
        changed = sum(map_chunks(partial(_sieve_chunk, labels, minimum, after.path), chunks))
        if rounds > 1:  # the labels before the first round are those of the run
            shutil.rmtree(labels.path)
        labels = after
        if not changed:
            return labels


def _summarize_chunk(labels: _ChunkedLabels, minimum: float, chunk: Index) -> Path:
    """Write the summary of a chunk to a file and return its path."""
    path = labels.chunk_file(chunk, "summary")
    summarize_window(*labels.read(chunk), minimum).save(path)
    return path


def _sieve_chunk(labels: _ChunkedLabels, minimum: float, target: Path, chunk: Index) -> int:
    """Write the labels of a chunk after a round to the store ``target``, and return how many pixels have changed."""
    window, values, area = labels.read(chunk)
    with open_npz(labels.chunk_file(chunk, "verdict")) as file:
        after = sieve_window(values, area, WindowVerdict(**file), minimum)
    write_labels(target, window, after)
    return int(np.count_nonzero(after != values))


def _load_and_remove(paths: Iterable[Path], load: Callable[[Path], T]) -> Iterator[T]:
    """Yield the contents of files, and remove each file before its content is used."""
    for path in paths:
        content = load(path)
        path.unlink()
        yield content
