"""What is to be published of a run, and the steps that publishing a new run and restoring a finished one share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.common.errors import ChunkError, RunError
from seamline.pipeline.common.layout import MODEL, RECORD
from seamline.pipeline.common.threads import map_in_threads
from seamline.pipeline.execution.chunk_context import ChunkContext
from seamline.pipeline.geometry.tiling import MapChunks
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.cog import CompressedCog, compress_cog, describe_labels, describe_layer
from seamline.pipeline.products.layers import LAYERS
from seamline.pipeline.products.overviews import write_overviews
from seamline.pipeline.products.run_record import ClassArea, InferenceRecord, RunRecord, encode_record, write_record
from seamline.pipeline.products.seal import seal
from seamline.pipeline.products.sidecars import write_sidecars
from seamline.pipeline.products.zarr_store import LABELS_ARRAY, ZarrLayout
from seamline.pipeline.raster_io.gdal import describe_error
from seamline.pipeline.report.report import ModelCard
from seamline.pipeline.stac.catalog import write_item
from seamline.pipeline.stac.footprint import compute_labelled_area
from seamline.pipeline.stac.scene_item import ModelReference, Provenance, build_scene_item
from seamline.pipeline.storage.atomic import atomic_write
from seamline.pipeline.storage.digests import FileInfo, describe_content, describe_file
from seamline.pipeline.vectors.polygon_options import PolygonOptions

S = TypeVar("S")

COG_ARRAYS = {"cog": LABELS_ARRAY} | {name: name for name in LAYERS}
"""Outputs that are COGs, and the arrays of the store that they show: <array>.tif."""
_COGS_LARGEST_FIRST = [*sorted(LAYERS, key=lambda name: not LAYERS[name].per_class), "cog"]


@dataclass(frozen=True)
class Publication:
    """What to publish of a run, and where.

    Attributes:
        context: the run.
        model: the model that segmented the scene.
        card: what the report says of the model.
        classes: what the labels mean.
        layout: layout of the Zarr store.
        catalog: folder of the catalogue.
        folder: folder that the files are written to: the scene's, or one that takes its place.
        outputs: names of the outputs that are wanted.
        software: versions of the software that decides the results.
        lineage: how the results came about, in words.
        polygons: what is wanted of the output "polygons"; None if it is not.
        map_chunks: applies a function to chunks or areas, on the workers of a cluster if there is one.
    """

    context: ChunkContext
    model: ModelReference
    card: ModelCard
    classes: tuple[LabelClass, ...]
    layout: ZarrLayout
    catalog: Path
    folder: Path
    outputs: tuple[str, ...]
    software: Mapping[str, str]
    lineage: str
    polygons: PolygonOptions | None = None
    map_chunks: MapChunks = map_in_threads

    @property
    def title(self) -> str:
        """Title of the Zarr store."""
        return f"{self.context.scene.id}, {self.lineage}"

    @property
    def polygon_rules(self) -> dict[str, float] | None:
        """Rules by which polygons are made, as the record has them; None without polygons."""
        return None if self.polygons is None else asdict(self.polygons.rules)


@contextmanager
def raise_as_run_error(context: ChunkContext) -> Iterator[None]:
    """Turn a failure to write into a ``RunError`` that says what is kept and how to go on."""
    try:
        yield
    except (OSError, RasterioError, CPLE_BaseError) as error:
        raise RunError(
            f"scene {context.scene.id}: the results cannot be written to {context.directory.path.parent}: "
            f"{describe_error(error)}; what was inferred is kept, make room and run the same command again"
        ) from error
    except ChunkError as error:  # of a worker, which names the scene
        raise RunError(f"{error}; what was inferred is kept, make room and run the same command again") from error


def get_cog_path(folder: Path, output: str) -> Path:
    """Return the path of the COG of an output in a scene's folder."""
    return folder / f"{COG_ARRAYS[output]}.tif"


def seal_store(
    store: Path,
    publication: Publication,
    record: InferenceRecord,
    scratch: Path,
    summarize: Callable[[Window, NDArray[np.uint8]], S] | None = None,
    check: Callable[[Mapping[str, str]], None] = lambda digests: None,
) -> tuple[list[S], FileInfo]:
    """Write the overviews of a store and seal it.

    Args:
        store: path of the Zarr store, whose chunks are all written.
        publication: the run.
        record: its record.
        scratch: folder for temporary files.
        summarize: is called with window and labels of each area of the scene.
        check: is called with the digests of the files that hold labels and layers, by their paths below the store,
            before the store is sealed.

    Returns:
        What ``summarize`` returned for each area, and what the item says of the store.
    """
    grid, classes = publication.context.scene.grid, publication.classes
    summaries, files = write_overviews(store, grid, classes, scratch, publication.map_chunks, summarize)
    check({name: file.digest for name, file in files.items()})
    digests = {"scene_digest": record.scene_digest, "model_digest": record.model_digest}
    return summaries, {"file:size": seal(store, {**digests, "plan": record.plan.model_dump()}, files)}


def write_cogs(
    publication: Publication,
    store: Path,
    outputs: Iterable[str],
    record: InferenceRecord,
    scratch: Path,
    thread: Executor,
) -> dict[str, Future[FileInfo]]:
    """Write those outputs that are COGs from the store.

    While the workers compress one of them, that before it is joined and its checksum computed. That of the labels, the
    smallest one, comes last.

    Args:
        publication: the run.
        store: its sealed Zarr store.
        outputs: names of outputs; others than COGs are left out.
        record: its record; the COGs carry its digests.
        scratch: folder for temporary files.
        thread: joins the COGs.

    Returns:
        What the item says of each, by the names of the files, once it is there.
    """
    classes, grid = publication.classes, publication.context.scene.grid
    infos: dict[str, Future[FileInfo]] = {}
    tags = {"scene_digest": record.scene_digest, "model": record.model, "model_digest": record.model_digest}
    for output in [name for name in _COGS_LARGEST_FIRST if name in outputs]:
        name, path = COG_ARRAYS[output], get_cog_path(publication.folder, output)
        content = describe_labels(classes) if name == LABELS_ARRAY else describe_layer(LAYERS[name], classes)
        compressed = compress_cog(store, grid, content, scratch, tags, publication.map_chunks)
        infos[path.name] = thread.submit(_join_cog, compressed, path)
    return infos


def _join_cog(compressed: CompressedCog, path: Path) -> FileInfo:
    compressed.join(path)
    return describe_file(path)


def write_polygon_files(publication: Publication, store: Path, scratch: Path) -> dict[str, FileInfo]:
    """Write the polygons of the labels, if they are wanted.

    Args:
        publication: the run.
        store: Zarr store that holds the labels.
        scratch: folder for temporary files.

    Returns:
        What the item says of each file, by their names.
    """
    if publication.polygons is None:
        return {}
    from seamline.pipeline.vectors.vectors import write_polygons  # imports scipy and pyarrow, which takes a second

    return write_polygons(
        store,
        publication.context.tiling,
        publication.context.scene.grid,
        publication.classes,
        publication.polygons,
        publication.folder,
        scratch,
        publication.map_chunks,
    )


def write_style_files(publication: Publication, areas: Sequence[ClassArea]) -> None:
    """Write styles and attribute tables beside the outputs; ``areas`` counts the pixels of each class."""
    pixels = {row.value: row.pixels for row in areas}
    write_sidecars(publication.folder, publication.outputs, publication.classes, pixels)


def write_model_document(publication: Publication) -> None:
    """Write a copy of the model's document beside the results, which the report lists and the item links."""
    with atomic_write(publication.folder / MODEL) as part:
        shutil.copyfile(publication.model.document, part)


def write_item_and_record(
    publication: Publication, record: RunRecord, known: Mapping[str, FileInfo] | None = None
) -> None:
    """Write the STAC item of the scene, which holds checksums of all other files, and then the record.

    In this order a kill in between leaves an item that contradicts record and table, and is written again.

    Args:
        publication: the run, whose other files are all written.
        record: its record.
        known: what the item says of some of them by their names, which are not read again.
    """
    hull = None if record.hull is None else shapely.Polygon(record.hull)
    scene, classes = publication.context.scene, publication.classes
    provenance = Provenance(
        scene.source,
        publication.model,
        scene.acquired,
        datetime.fromisoformat(record.finished),
        publication.software,
        publication.lineage,
        scene.radiometry,
    )
    labelled_area = compute_labelled_area(scene.grid, hull, scene.aoi)
    item = build_scene_item(
        publication.folder,
        scene.id,
        scene.grid,
        classes,
        record.classes,
        provenance,
        labelled_area,
        known={**(known or {}), RECORD: describe_content(encode_record(record))},
    )
    write_item(item, publication.folder)
    write_record(publication.folder, record)
