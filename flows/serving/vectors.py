"""A scene's polygons in a box, as GeoJSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pyogrio.errors
import pyogrio.raw
import shapely
from pyproj import CRS, Transformer

from flows.serving.results import Damaged
from pipeline.errors import InputError

Box = tuple[float, float, float, float]
MOST = 5000
"""Polygons in one answer, at most."""
_MAGIC = b"fgb\x03fgb"


def parsed_box(text: str) -> Box:
    """``west,south,east,north`` in degrees (WGS 84). Raises ``InputError`` for anything else."""
    try:
        west, south, east, north = (float(part) for part in text.split(","))
    except ValueError:
        west = south = east = north = float("nan")
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        raise InputError("bbox", got=repr(text), expected="west,south,east,north in degrees", fix="correct it")
    return west, south, east, north


def _common(box: Box, scene: Box) -> Box:
    """What both have in common; ``box`` where that is nothing, or ``scene`` lies across the antimeridian."""
    west, south = max(box[0], scene[0]), max(box[1], scene[1])
    east, north = min(box[2], scene[2]), min(box[3], scene[3])
    return (west, south, east, north) if west < east and south < north and scene[0] < scene[2] else box


def polygons_in(path: Path, box: Box, scene: Box, limit: int = MOST) -> dict[str, Any]:
    """Polygons of the FlatGeobuf ``path`` that meet a box, in longitude and latitude (WGS 84).

    ``scene`` is the box of all of them: what lies beyond it may have no place in their CRS.
    ``truncated`` tells that there are more than ``limit``. Raises ``Damaged``.
    """
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:  # GDAL would open what else it is, and what that names
            raise Damaged(f"{path.parent.name}: {path.name} is no FlatGeobuf")
    try:
        crs = CRS.from_user_input(pyogrio.read_info(path)["crs"])
        around = Transformer.from_crs("OGC:CRS84", crs, always_xy=True).transform_bounds(*_common(box, scene))
        meta, _, geometries, columns = pyogrio.raw.read(path, bbox=around, max_features=limit + 1)
        shapes = shapely.from_wkb(geometries[:limit])
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, shapely.GEOSException) as error:
        raise Damaged(f"{path.parent.name}: {path.name} cannot be read ({error})") from error
    to_degrees = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    placed = shapely.transform(shapes, lambda xy: np.round(np.stack(to_degrees.transform(*xy.T), 1), 7))
    rows = zip(*(column[:limit].tolist() for column in columns), strict=True)
    features = [
        {"type": "Feature", "geometry": json.loads(text), "properties": dict(zip(meta["fields"], row, strict=True))}
        for text, row in zip(shapely.to_geojson(placed), rows, strict=True)
    ]
    return {"type": "FeatureCollection", "features": features, "truncated": len(geometries) > limit}
