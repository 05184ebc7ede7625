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
from seamline.pipeline.geometry.pixel_area import Areas, PixelAreas, pixel_areas
from seamline.pipeline.geometry.tiling import Index, MapChunks, Tiling
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.layers import CONFIDENCE
from seamline.pipeline.products.zarr_store import VARIABLE, Storage, open_labels, open_raster, rasters_in, write_labels
from seamline.pipeline.storage.atomic import arrays_in
from seamline.pipeline.vectors.polygonize import Pieces, pieces, regions
from seamline.pipeline.vectors.sieve import Summary, Verdict, settled, sieved, summarise
from seamline.pipeline.vectors.simplify import Simplification
from seamline.pipeline.vectors.writers import FILES, Table, convert, write_parquet

T = TypeVar("T")


@dataclass(frozen=True)
class Rules:
    """What becomes of the regions of a raster: those smaller than ``min_area`` m² join a neighbour (``sieve.py``), then
    corners go whose triangle is smaller than the square of ``simplify`` pixels (``simplification.py``)."""

    min_area: float = 0
    simplify: float = 0

    def __post_init__(self) -> None:
        for value in (self.min_area, self.simplify):
            if not 0 <= value < float("inf"):
                raise ValueError(f"expected numbers from 0, got {self}")


@dataclass(frozen=True)
class Polygons:
    """Which files of polygons are wanted (keys of ``FILES``), and by which rules."""

    formats: tuple[str, ...] = tuple(FILES)
    rules: Rules = Rules()

    def __post_init__(self) -> None:
        if not self.formats or set(self.formats) - set(FILES):
            raise ValueError(f"expected some of {tuple(FILES)}, got {self.formats}")

    def are_in(self, folder: Path, record: Mapping[str, Any]) -> bool:
        """Whether the files are there, made by these rules as far as the record of the run says."""
        return self.are_among([path.name for path in folder.iterdir()], record)

    def are_among(self, names: Collection[str], record: Mapping[str, Any]) -> bool:
        """Whether the files are among those of these names, and the record of the run has these rules."""
        return record.get("polygons") == asdict(self.rules) and all(FILES[kind] in names for kind in self.formats)


@dataclass(frozen=True)
class _Labels:
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

    def read(self, chunk: Index) -> tuple[Window, NDArray[np.uint8], Areas]:
        """The chunk's window, its labels (height, width), and the areas of its pixels (height, width)."""
        window = self.tiling.pixels_of(chunk)
        return window, np.asarray(open_labels(self.path)[window.slices()]), self.areas.of(window)

    def around(self, chunk: Index) -> NDArray[np.uint8]:
        """The chunk's labels and one pixel more on every side, nodata outside of the scene."""
        own = self.tiling.pixels_of(chunk)
        wide = Window(own.row - 1, own.col - 1, own.height + 2, own.width + 2)
        inside = wide.intersection(self.tiling.scene)
        found = np.full(wide.shape, NODATA, np.uint8)
        found[inside.relative_to(wide).slices()] = open_labels(self.path)[inside.slices()]
        return found


def write_polygons(
    store: Path,
    tiling: Tiling,
    grid: GeoBox,
    classes: Sequence[LabelClass],
    wanted: Polygons,
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
    areas = pixel_areas(grid)
    if areas is None and wanted.rules.min_area > 0:
        raise InputError(
            "--polygon-min-area",
            got="a scene whose pixels have no known area",
            expected="a projected or geographic CRS",
            fix="leave it out",
        )
    formats = [kind for kind, name in FILES.items() if kind in wanted.formats or (folder / name).exists()]
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="polygons-", dir=scratch) as work:
        labels = _Labels(store, tiling, Path(work), areas or PixelAreas.alike(1.0, grid.shape))
        confidence = store if CONFIDENCE in rasters_in(store) else None
        if wanted.rules.min_area > 0:
            labels = _sieved(labels, wanted.rules.min_area, spread)
        tolerance = wanted.rules.simplify
        paths = spread(partial(_polygonise, labels, confidence, tolerance), labels.chunks)
        found = regions(_taken(paths, Pieces.load), tiling.width, simplified=tolerance > 0)
        table = Table(grid, classes, areas is not None, confidence is not None)
        parquet = (folder if "parquet" in formats else Path(work)) / FILES["parquet"]
        write_parquet(found, table, parquet)
        for kind in formats:
            if kind != "parquet":
                convert(parquet, kind, grid, folder / FILES[kind], Path(work))


def _polygonise(labels: _Labels, confidence: Path | None, tolerance: float, chunk: Index) -> Path:
    window, values, area = labels.read(chunk)
    sure = None if confidence is None else np.asarray(open_raster(confidence, CONFIDENCE)[window.slices()])
    simplification = Simplification(tolerance, labels.around(chunk)) if tolerance else None
    path = labels.file(chunk, "pieces")
    pieces(window, values, area, sure, simplification).save(path)
    return path


def _sieved(labels: _Labels, minimum: float, spread: MapChunks) -> _Labels:
    """The labels after the sieve, in a store of their own if any has changed."""
    tiling, chunks = labels.tiling, labels.chunks
    rounds = 0
    while True:
        paths = spread(partial(_summarise, labels, minimum), chunks)
        verdicts, small = settled(_taken(paths, Summary.load), tiling.width, minimum)
        if not small:
            return labels
        for chunk, verdict in zip(chunks, verdicts, strict=True):
            np.savez(labels.file(chunk, "verdict"), labels=verdict.labels, area=verdict.area)
        rounds += 1
        after = replace(labels, path=labels.folder / f"sieved-{rounds}.zarr")
        shape = tiling.height, tiling.width
        Storage(tiling.store_chunk).raster(zarr.create_group(after.path, zarr_format=3), VARIABLE, shape, {})
        changed = sum(spread(partial(_sieve, labels, minimum, after.path), chunks))
        if labels.path.parent == labels.folder:
            shutil.rmtree(labels.path)
        labels = after
        if not changed:
            return labels


def _summarise(labels: _Labels, minimum: float, chunk: Index) -> Path:
    path = labels.file(chunk, "summary")
    summarise(*labels.read(chunk), minimum).save(path)
    return path


def _sieve(labels: _Labels, minimum: float, target: Path, chunk: Index) -> int:
    """Write the chunk after a round; how many pixels have changed."""
    window, values, area = labels.read(chunk)
    with arrays_in(labels.file(chunk, "verdict")) as file:
        after = sieved(values, area, Verdict(file["labels"], file["area"]), minimum)
    write_labels(target, window, after)
    return int(np.count_nonzero(after != values))


def _taken(paths: Iterable[Path], load: Callable[[Path], T]) -> Iterator[T]:
    """What lies in the files, which are removed."""
    for path in paths:
        found = load(path)
        path.unlink()
        yield found
