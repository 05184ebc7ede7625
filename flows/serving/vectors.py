"""Read the polygons of a scene in a box as GeoJSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pyogrio.errors
import pyogrio.raw
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from seamline.flows.serving.results import DamagedResult
from seamline.pipeline.stac.extent import Box

MAX_POLYGONS = 5000
"""Most polygons in one response."""
_MAX_CORNERS = 100_000
"""Most corners of polygons in one response, which make 3 MB of GeoJSON."""
_FLATGEOBUF_MAGIC = b"fgb\x03fgb"
_DAMAGE_ERRORS = (
    pyogrio.errors.DataSourceError,
    pyogrio.errors.DataLayerError,
    shapely.GEOSException,
    ProjError,
    ValueError,
    LookupError,
    TypeError,
)
"""Errors that readers raise on a damaged FlatGeobuf."""


def read_polygons(path: Path, box: Box, scene: Box, limit: int = MAX_POLYGONS) -> str:
    """Read the polygons that intersect a box.

    Args:
        path: FlatGeobuf of the polygons.
        box: The box asked for.
        scene: Box of all polygons. Only its part of ``box`` is read, since other locations may not exist in the CRS of
            the file.
        limit: Most polygons to return.

    Returns:
        A GeoJSON FeatureCollection in WGS 84. Of a scene across the antimeridian longitudes exceed 180, so that every
        polygon is in one piece. ``truncated`` is True where polygons are left out: there are more than ``limit``, or
        the largest have too many corners.

    Raises:
        DamagedResult: The file cannot be read.
    """
    with path.open("rb") as file:
        # GDAL would open another format as well, and files that it refers to.
        if file.read(len(_FLATGEOBUF_MAGIC)) != _FLATGEOBUF_MAGIC:
            raise DamagedResult(f"{path.parent.name}: {path.name} is no FlatGeobuf")
    try:
        crs, fields, rows = _read_rows(path, box, scene, limit + 1)
        shapes = shapely.from_wkb(np.array([row[0] for row in rows[:limit]], object))
    except _DAMAGE_ERRORS as error:
        raise DamagedResult(f"{path.parent.name}: {path.name} cannot be read ({error})") from error
    kept = _choose_drawable(shapes)
    geometries = shapely.to_geojson(_to_degrees(shapes[kept], crs, scene))
    # GeoJSON is put together as text: to parse geometries and to write them again takes as long as all the rest.
    features = [
        f'{{"type":"Feature","geometry":{geometry},"properties":{_write_properties(fields, values)}}}'
        for geometry, (_, *values) in zip(geometries, [rows[index] for index in kept], strict=True)
    ]
    is_truncated = json.dumps(len(features) < len(rows))
    return f'{{"type":"FeatureCollection","features":[{",".join(features)}],"truncated":{is_truncated}}}'


def _write_properties(fields: Sequence[str], values: Sequence[Any]) -> str:
    """Return a JSON object; NaN, as which numbers that are missing are read, is null."""
    known = [None if value != value else value for value in values]
    return json.dumps(dict(zip(fields, known, strict=True)))


def _read_rows(path: Path, box: Box, scene: Box, limit: int) -> tuple[CRS, Sequence[str], list[tuple[Any, ...]]]:
    """Return the file's CRS, its fields, and WKB and fields of polygons in both boxes; at most ``limit`` a part."""
    crs = CRS.from_user_input(pyogrio.read_info(path)["crs"])
    to_crs = Transformer.from_crs("OGC:CRS84", crs, always_xy=True)
    fields: Sequence[str] = ()
    rows: dict[int, tuple[Any, ...]] = {}  # by feature id, since a polygon may lie in several parts
    for part in _split_box(box, scene, may_exceed=crs.is_geographic):
        bounds = to_crs.transform_bounds(*part)
        meta, ids, geometries, columns = pyogrio.raw.read(path, bbox=bounds, max_features=limit, return_fids=True)
        fields = meta["fields"]
        part_rows = zip(geometries, *(column.tolist() for column in columns), strict=True)
        rows |= zip(ids.tolist(), part_rows, strict=True)
    return crs, fields, list(rows.values())


def _choose_drawable(shapes: NDArray[Any]) -> NDArray[np.intp]:
    """Return the indices of the simplest geometries that have ``_MAX_CORNERS`` together, in ascending order."""
    corners = shapely.get_num_coordinates(shapes)
    simplest_first = np.argsort(corners, kind="stable")
    return np.sort(simplest_first[np.cumsum(corners[simplest_first]) <= _MAX_CORNERS])


def _to_degrees(shapes: NDArray[Any], crs: CRS, scene: Box) -> NDArray[Any]:
    """Transform geometries from ``crs`` to longitude and latitude, 7 decimals (about 1 cm)."""
    transformer = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    # Longitudes of a scene across the antimeridian start in the middle of the gap between its east and its west.
    first = (scene.west + scene.east) / 2 if scene.west > scene.east else None

    def transform(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        lon, lat = transformer.transform(*xy.T)
        return np.round(np.stack([lon if first is None else first + (lon - first) % 360, lat], 1), 7)

    return np.asarray(shapely.transform(shapes, transform))


def _split_box(box: Box, scene: Box, may_exceed: bool) -> list[tuple[float, float, float, float]]:
    """Return the intersection of two boxes as (west, south, east, north), cut at the antimeridian.

    Args:
        box: One box.
        scene: The other box.
        may_exceed: Coordinates may lie beyond ±180; the parts are returned shifted by ±360 as well.
    """
    common = shapely.get_parts(shapely.intersection(box.outline, scene.outline))
    turns = (0, -360, 360) if may_exceed else (0,)
    sides = [part.bounds for part in common if not part.is_empty]
    return [(west + turn, south, east + turn, north) for west, south, east, north in sides for turn in turns]
