"""Files of polygons: GeoParquet, joined from parts, and from it FlatGeobuf and GeoPackage.

GeoParquet 1.1 has the bounds of each polygon in columns of their own. So a query with a box reads only the groups of
rows that meet the box, even without an extension for geometry.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.products.layers import LAYER_SCALE
from seamline.pipeline.storage.atomic import atomic_write
from seamline.pipeline.vectors.parquet_parts import join_parquet
from seamline.pipeline.vectors.regions import Region

_LAYER_NAME = "polygons"
"""Name of the layer in FlatGeobuf and GeoPackage."""
_DRIVERS: dict[str, tuple[str, dict[str, str]]] = {
    "fgb": ("FlatGeobuf", {}),
    "gpkg": ("GPKG", {"VERSION": "1.3"}),  # GDAL before 3.7 warns of later versions
}
"""GDAL's driver and its dataset options, by format."""
_BOUNDS = ("xmin", "ymin", "xmax", "ymax")
_SCHEMA = pa.schema(
    [
        pa.field("class", pa.uint8(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("pixels", pa.int64(), nullable=False),
        pa.field("area_m2", pa.float64()),
        pa.field("confidence", pa.float64()),
        pa.field("bbox", pa.struct([pa.field(name, pa.float64(), nullable=False) for name in _BOUNDS])),
        pa.field("geometry", pa.binary(), nullable=False),
    ]
)
_BATCH_REGIONS, _BATCH_POINTS = 20_000, 1_000_000
"""A batch, which becomes a row group, ends at this number of regions or of points."""
_READ_ROWS = 2_000
"""Rows that a conversion reads at a time."""


@dataclass(frozen=True)
class PolygonTable:
    """How regions become rows of the table.

    Attributes:
        grid: grid of the scene.
        classes: classes of the labels.
        area: whether the areas of the regions are known, in m².
        confidence: whether the confidences of the regions are known, as digital numbers of the layer.
    """

    grid: GeoBox
    classes: Sequence[LabelClass]
    area: bool
    confidence: bool

    def to_record_batch(self, regions: Sequence[Region]) -> pa.RecordBatch:
        """Return the rows of regions, with the columns of ``_SCHEMA``; geometries in the CRS of the grid."""
        geometries = shapely.transform(np.array([region.geometry for region in regions], object), self._to_crs)
        count = len(regions)
        pixels = np.array([region.pixels for region in regions], np.int64)
        areas = [region.area for region in regions]
        confidences = np.array([region.confidence for region in regions]) * LAYER_SCALE / pixels
        names = {label.value: label.name for label in self.classes}
        bounds = shapely.bounds(geometries).T
        columns = [
            pa.array([region.label for region in regions], pa.uint8()),
            pa.array([names[region.label] for region in regions], pa.string()),
            pa.array(pixels),
            pa.array(areas) if self.area else pa.nulls(count, pa.float64()),
            pa.array(confidences) if self.confidence else pa.nulls(count, pa.float64()),
            pa.StructArray.from_arrays([pa.array(edge) for edge in bounds], fields=list(_SCHEMA.field("bbox").type)),
            pa.array(shapely.to_wkb(geometries), pa.binary()),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)

    def build_geo_metadata(self, bounds: tuple[float, float, float, float] | None) -> str:
        """Return the metadata that make a Parquet file a GeoParquet file.

        Args:
            bounds: smallest and largest x and y of all polygons, in the order of ``_BOUNDS``. ``None``: there are no
                polygons.

        Returns:
            The JSON text of the key ``geo``.
        """
        column: dict[str, Any] = {
            "encoding": "WKB",
            "geometry_types": ["Polygon"],
            "crs": None if self.grid.crs is None else self.grid.crs.proj.to_json_dict(),
            "covering": {"bbox": {name: ["bbox", name] for name in _BOUNDS}},
        }
        if bounds is not None:
            column["bbox"] = list(bounds)
        return json.dumps({"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}})

    def _to_crs(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Transform points (n, 2) from pixels (column, row) to the CRS of the grid."""
        a, b, c, d, e, f, *_ = self.grid.transform
        col, row = points.T
        return np.column_stack([a * col + b * row + c, d * col + e * row + f])


@dataclass(frozen=True)
class PolygonPart:
    """Some rows of the table in a Parquet file, which is to be joined with others.

    Attributes:
        path: the file.
        bounds: (xmin, ymin, xmax, ymax) of the rows; None without any.
    """

    path: Path
    bounds: tuple[float, float, float, float] | None


def write_part(regions: Iterable[Region], table: PolygonTable, path: Path) -> PolygonPart:
    """Write regions, as they come, to a Parquet file; one batch of them is in memory at a time.

    Args:
        regions: the regions.
        table: how they become rows.
        path: the file, which appears whole or not at all; several processes may write it.

    Returns:
        The file.
    """
    boxes = []
    with atomic_write(path, shared=True) as part, pq.ParquetWriter(part, _SCHEMA, compression="zstd") as writer:
        for batch in _iter_batches(regions):
            rows = table.to_record_batch(batch)
            writer.write_batch(rows)
            edges = np.array([rows["bbox"].field(name).to_numpy() for name in _BOUNDS])
            boxes.append((*edges[:2].min(axis=1).tolist(), *edges[2:].max(axis=1).tolist()))
    return PolygonPart(path, _join_bounds(boxes))


def join_parts(parts: Sequence[PolygonPart], table: PolygonTable, path: Path) -> None:
    """Join files of rows to a GeoParquet file, and remove them; their values are neither decoded nor encoded.

    Args:
        parts: at least one file.
        table: how regions became rows.
        path: the file, which appears whole or not at all.
    """
    bounds = _join_bounds([part.bounds for part in parts if part.bounds is not None])
    with atomic_write(path) as unfinished, unfinished.open("wb") as file:
        join_parquet((part.path for part in parts), file, {"geo": table.build_geo_metadata(bounds)})
    for part in parts:
        part.path.unlink()


def _join_bounds(boxes: Sequence[tuple[float, float, float, float]]) -> tuple[float, float, float, float] | None:
    if not boxes:
        return None
    left, bottom, right, top = zip(*boxes, strict=True)
    return min(left), min(bottom), max(right), max(top)


def convert_parquet(parquet: Path, kind: str, grid: GeoBox, path: Path, scratch: Path) -> None:
    """Write the polygons of a GeoParquet file as FlatGeobuf or GeoPackage.

    Args:
        parquet: the GeoParquet file.
        kind: ``fgb`` or ``gpkg``.
        grid: grid of the scene, which has the CRS.
        path: the new file, which appears whole or not at all.
        scratch: folder on the same disk for the unfinished file.

    Raises:
        OSError: the disk is full, or GDAL cannot write for another reason.
    """
    # Imports geopandas where it is installed, which would make every command half a second slower to start.
    import pyogrio

    driver, options = _DRIVERS[kind]
    with tempfile.TemporaryDirectory(prefix=f"{kind}-", dir=scratch) as folder, pq.ParquetFile(parquet) as file:
        staged = Path(folder) / path.name  # GDAL chooses the layout by the suffix
        columns = [name for name in _SCHEMA.names if name != "bbox"]
        schema = pa.schema([_SCHEMA.field(name) for name in columns])
        rows = (batch.cast(schema) for batch in file.iter_batches(_READ_ROWS, columns=columns))
        with warnings.catch_warnings(), _raise_as_os_error(pyogrio.errors.DataSourceError):
            warnings.filterwarnings("ignore", message="'crs' was not provided", category=UserWarning)
            pyogrio.write_arrow(
                pa.RecordBatchReader.from_batches(schema, rows),
                staged,
                _LAYER_NAME,
                driver,
                geometry_name="geometry",
                geometry_type="Polygon",
                crs=None if grid.crs is None else grid.crs.to_wkt(),
                dataset_options=options,
            )
        with atomic_write(path) as part:
            staged.rename(part)


@contextmanager
def _raise_as_os_error(kind: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kind as error:
        raise OSError(str(error)) from error


def _iter_batches(regions: Iterable[Region]) -> Iterator[list[Region]]:
    batch: list[Region] = []
    points = 0
    for region in regions:
        batch.append(region)
        points += int(shapely.get_num_coordinates(region.geometry))
        if len(batch) >= _BATCH_REGIONS or points >= _BATCH_POINTS:
            yield batch
            batch, points = [], 0
    if batch:
        yield batch
