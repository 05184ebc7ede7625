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
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from seamline.flows.serving.results import DamagedResult
from seamline.pipeline.stac.extent import Box

MAX_POLYGONS = 5000
"""Polygons in one answer, at most."""
_FLATGEOBUF_MAGIC = b"fgb\x03fgb"
_DAMAGE_ERRORS = (
    pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, shapely.GEOSException, ProjError, ValueError,
    LookupError, TypeError,
)  # fmt: skip
"""What damaged bytes behind the magic ones lead to."""


def read_polygons(path: Path, box: Box, scene: Box, limit: int = MAX_POLYGONS) -> dict[str, Any]:
    """Polygons of the FlatGeobuf ``path`` that meet a box, in longitude and latitude (WGS 84).

    ``scene`` is the box of all of them: what lies beyond it may have no place in their CRS. If it lies across the
    antimeridian, longitudes go on beyond 180, so that every polygon is in one piece. ``truncated`` tells that there are
    more than ``limit``. Raises ``DamagedResult``.
    """
    with path.open("rb") as file:
        if (
            file.read(len(_FLATGEOBUF_MAGIC)) != _FLATGEOBUF_MAGIC
        ):  # GDAL would open what else it is, and what that names
            raise DamagedResult(f"{path.parent.name}: {path.name} is no FlatGeobuf")
    try:
        crs = CRS.from_user_input(pyogrio.read_info(path)["crs"])
        to_crs = Transformer.from_crs("OGC:CRS84", crs, always_xy=True)
        meta, found = {"fields": ()}, dict[int, tuple[Any, ...]]()
        for part in _split_box(box, scene, beyond=crs.is_geographic):
            around = to_crs.transform_bounds(*part)
            meta, numbers, geometries, columns = pyogrio.raw.read(
                path, bbox=around, max_features=limit + 1, return_fids=True
            )
            read = zip(geometries, *(column.tolist() for column in columns), strict=True)
            found |= zip(numbers.tolist(), read, strict=True)
        rows = list(found.values())[:limit]
        shapes = shapely.from_wkb(np.array([row[0] for row in rows], object))
    except _DAMAGE_ERRORS as error:
        raise DamagedResult(f"{path.parent.name}: {path.name} cannot be read ({error})") from error
    to_degrees = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    first = (scene.west + scene.east) / 2 if scene.west > scene.east else None  # the middle of what it is not

    def degrees(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        lon, lat = to_degrees.transform(*xy.T)
        return np.round(np.stack([lon if first is None else first + (lon - first) % 360, lat], 1), 7)

    features = [
        {"type": "Feature", "geometry": json.loads(text), "properties": dict(zip(meta["fields"], values, strict=True))}
        for text, (_, *values) in zip(shapely.to_geojson(shapely.transform(shapes, degrees)), rows, strict=True)
    ]
    return {"type": "FeatureCollection", "features": features, "truncated": len(found) > limit}


def _split_box(box: Box, scene: Box, beyond: bool) -> list[tuple[float, float, float, float]]:
    """Sides of what both have in common, on each side of the antimeridian.

    ``beyond`` tells that there may be longitudes beyond it, too.
    """
    common = shapely.get_parts(shapely.intersection(box.outline, scene.outline))
    turns = (0, -360, 360) if beyond else (0,)
    sides = [part.bounds for part in common if not part.is_empty]
    return [(west + turn, south, east + turn, north) for west, south, east, north in sides for turn in turns]
