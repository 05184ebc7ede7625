"""What is to be published of a run, and the steps that publishing a new run and restoring a finished one share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import shapely
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.common.errors import ChunkError, RunError
from seamline.pipeline.common.layout import RECORD
from seamline.pipeline.common.threads import map_in_threads
from seamline.pipeline.execution.chunk_context import ChunkContext
from seamline.pipeline.execution.run_chunks import CallFunction, call_here
from seamline.pipeline.geometry.tiling import MapChunks
from seamline.pipeline.products.run_record import RunRecord, encode_record, write_record
from seamline.pipeline.products.zarr_store import ZarrLayout
from seamline.pipeline.publishing.pictures import ResultPictures
from seamline.pipeline.publishing.result_files import ResultFiles
from seamline.pipeline.raster_io.gdal import describe_error
from seamline.pipeline.report.report import ModelCard
from seamline.pipeline.stac.catalog import write_item
from seamline.pipeline.stac.footprint import compute_labelled_area
from seamline.pipeline.stac.scene_item import ModelReference, Provenance, build_scene_item
from seamline.pipeline.storage.digests import FileInfo, describe_content
from seamline.pipeline.vectors.polygon_options import PolygonOptions


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
        call: calls a function, on one of the workers if there are any.
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
    call: CallFunction = call_here

    @property
    def title(self) -> str:
        """Title of the Zarr store."""
        return f"{self.context.scene.id}, {self.lineage}"

    @property
    def files(self) -> ResultFiles:
        """Rasters, polygons and styles of the scene."""
        return ResultFiles(
            grid=self.context.scene.grid,
            tiling=self.context.tiling,
            classes=self.classes,
            model=self.model,
            folder=self.folder,
            outputs=self.outputs,
            polygons=self.polygons,
            map_chunks=self.map_chunks,
        )

    @property
    def pictures(self) -> ResultPictures:
        """The pictures of the scene and its labels."""
        return ResultPictures(self.context, self.classes, self.folder)


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
