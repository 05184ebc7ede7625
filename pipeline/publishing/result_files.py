"""The rasters, polygons and styles of one result, made from a Zarr store whose chunks are all written."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.common.layout import MODEL
from seamline.pipeline.common.threads import map_in_threads
from seamline.pipeline.geometry.tiling import MapChunks, Tiling
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.cog import CompressedCog, compress_cog, describe_labels, describe_layer
from seamline.pipeline.products.kept_result import KeptResult
from seamline.pipeline.products.layers import LAYERS
from seamline.pipeline.products.overviews import write_overviews
from seamline.pipeline.products.run_record import ClassArea, InferenceRecord
from seamline.pipeline.products.seal import seal
from seamline.pipeline.products.sidecars import write_sidecars
from seamline.pipeline.products.store_files import StoredFile
from seamline.pipeline.products.zarr_store import LABELS_ARRAY
from seamline.pipeline.stac.scene_item import ModelReference
from seamline.pipeline.storage.atomic import atomic_write
from seamline.pipeline.storage.digests import FileInfo, describe_file
from seamline.pipeline.vectors.polygon_options import PolygonOptions

S = TypeVar("S")

COG_ARRAYS = {"cog": LABELS_ARRAY} | {name: name for name in LAYERS}
"""Outputs that are COGs, and the arrays of the store that they show: <array>.tif."""
_COGS_LARGEST_FIRST = [*sorted(LAYERS, key=lambda name: not LAYERS[name].per_class), "cog"]


@dataclass(frozen=True)
class ResultFiles:
    """What the files of a result show, and where they are written.

    Attributes:
        grid: grid of the labels.
        tiling: cuts the labels into chunks.
        classes: what the labels mean.
        model: the model that they come from.
        folder: folder that the files are written to.
        outputs: names of the outputs that are wanted.
        polygons: what is wanted of the output "polygons"; None if it is not.
        map_chunks: applies a function to chunks or areas, on the workers of a cluster if there is one.
        kept: an older result on the grid, from which unchanged overviews and blocks of COGs are taken.
    """

    grid: GeoBox
    tiling: Tiling
    classes: tuple[LabelClass, ...]
    model: ModelReference
    folder: Path
    outputs: tuple[str, ...]
    polygons: PolygonOptions | None = None
    map_chunks: MapChunks = map_in_threads
    kept: KeptResult | None = None

    @property
    def polygon_rules(self) -> dict[str, float] | None:
        """Rules by which polygons are made, as the record has them; None without polygons."""
        return None if self.polygons is None else asdict(self.polygons.rules)

    def write_overviews(
        self, store: Path, scratch: Path, summarize: Callable[[Window, NDArray[np.uint8]], S] | None = None
    ) -> tuple[list[S], dict[str, StoredFile]]:
        """Write the overviews of a store. Seal it afterwards.

        Args:
            store: path of the Zarr store, whose chunks are all written.
            scratch: folder for temporary files.
            summarize: is called with window and labels of each area.

        Returns:
            What ``summarize`` returned for each area; and the files that hold pixels, by their paths below the store.
        """
        return write_overviews(store, self.grid, self.classes, scratch, self.map_chunks, summarize, self.kept)

    def seal_store(self, store: Path, record: InferenceRecord, files: Mapping[str, StoredFile]) -> FileInfo:
        """Seal a store with its overviews.

        Args:
            store: path of the Zarr store.
            record: what is known of the run.
            files: its files, as ``write_overviews`` found them.

        Returns:
            What the item says of the store.
        """
        digests = {"scene_digest": record.scene_digest, "model_digest": record.model_digest}
        return {"file:size": seal(store, {**digests, "plan": record.plan.model_dump()}, files)}

    def write_cogs(
        self, store: Path, outputs: Iterable[str], record: InferenceRecord, scratch: Path, thread: Executor
    ) -> dict[str, Future[FileInfo]]:
        """Write those outputs that are COGs from the store.

        While the workers compress one of them, that before it is joined and its checksum computed. That of the labels,
        the smallest one, comes last.

        Args:
            store: the sealed Zarr store.
            outputs: names of outputs; others than COGs are left out.
            record: what is known of the run; the COGs carry its digests.
            scratch: folder for temporary files.
            thread: joins the COGs.

        Returns:
            What the item says of each, by the names of the files, once it is there.
        """
        infos: dict[str, Future[FileInfo]] = {}
        tags = {"scene_digest": record.scene_digest, "model": record.model, "model_digest": record.model_digest}
        for output in [name for name in _COGS_LARGEST_FIRST if name in outputs]:
            name, path = COG_ARRAYS[output], get_cog_path(self.folder, output)
            is_labels = name == LABELS_ARRAY
            content = describe_labels(self.classes) if is_labels else describe_layer(LAYERS[name], self.classes)
            compressed = compress_cog(store, self.grid, content, scratch, tags, self.map_chunks, self.kept)
            infos[path.name] = thread.submit(_join_cog, compressed, path)
        return infos

    def write_polygons(self, store: Path, scratch: Path) -> dict[str, FileInfo]:
        """Write the polygons of the labels, if they are wanted.

        Args:
            store: Zarr store that holds the labels.
            scratch: folder for temporary files.

        Returns:
            What the item says of each file, by their names.
        """
        if self.polygons is None:
            return {}
        from seamline.pipeline.vectors.vectors import write_polygons  # imports scipy and pyarrow, which takes a second

        return write_polygons(
            store, self.tiling, self.grid, self.classes, self.polygons, self.folder, scratch, self.map_chunks
        )

    def write_styles(self, areas: Sequence[ClassArea]) -> None:
        """Write styles and attribute tables beside the outputs; ``areas`` counts the pixels of each class."""
        pixels = {row.value: row.pixels for row in areas}
        write_sidecars(self.folder, self.outputs, self.classes, pixels)

    def write_model_document(self) -> None:
        """Write a copy of the model's document beside the results, which the report lists and the item links."""
        with atomic_write(self.folder / MODEL) as part:
            shutil.copyfile(self.model.document, part)


def get_cog_path(folder: Path, output: str) -> Path:
    """Return the path of the COG of an output in a result's folder."""
    return folder / f"{COG_ARRAYS[output]}.tif"


def _join_cog(compressed: CompressedCog, path: Path) -> FileInfo:
    compressed.join(path)
    return describe_file(path)
