"""The area of interest: GeoJSON polygons, brought to the CRS of a scene."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import shapely.affinity
from numpy.typing import NDArray
from odc.geo.crs import CRS, CRSError
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry

from seamline.pipeline.common.errors import InputError

_SEGMENTS_PER_SCENE = 100  # of an edge as long as the scene: what is straight in one CRS is curved in another


def read_aoi(path: Path, grid: GeoBox) -> str:
    """WKT of the polygons of a GeoJSON file, in the CRS of ``grid``.

    The file holds a geometry, a Feature or a FeatureCollection, in EPSG:4326 unless it has a ``crs`` member. Longitudes
    are taken modulo 360°: a scene beyond 180° meets polygons in halves (RFC 7946, section 3.1.9) as those in one piece.
    Raises ``InputError`` for anything else, without polygons, or beside the grid.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
        shapes = [shapely.make_valid(shapely.geometry.shape(part)) for part in _list_geometries(document)]
        crs = CRS(document["crs"]["properties"]["name"] if document.get("crs") else "EPSG:4326")
    except OSError as error:
        raise _aoi_error(path, error.strerror, "a GeoJSON file that can be read") from error
    except (ValueError, TypeError, LookupError, AttributeError, shapely.GEOSException, CRSError) as error:
        reason = f"no GeoJSON ({type(error).__name__}: {error})"
        raise _aoi_error(path, reason, "GeoJSON with polygons, of a CRS that PROJ knows") from error
    area = shapely.union_all([part for shape in shapes for part in _iter_polygons(shape)])
    if area.is_empty:
        raise _aoi_error(path, "no polygon with an area", "a Polygon or MultiPolygon")
    if crs.geographic and max(abs(area.bounds[1]), abs(area.bounds[3])) > 90:
        raise _aoi_error(
            path, f"latitudes within {_format_bounds(area.bounds)}", "longitude first, then latitude, up to 90°"
        )
    # Only what is near the scene: far away neither the step nor the scene's projection is any good.
    near = _bounds_around(grid, crs)
    step = max(near[2] - near[0], near[3] - near[1]) / _SEGMENTS_PER_SCENE
    turns = (-360, 0, 360) if crs.geographic else (0,)
    turned = [shapely.affinity.translate(area, turn) for turn in turns]
    close = shapely.union_all(shapely.intersection(turned, shapely.box(*near)))
    projected: shapely.Geometry = shapely.Polygon()
    if not close.is_empty:
        projected = shapely.make_valid(_unwrap_longitudes(grid, Geometry(close, crs).to_crs(grid.crs, step).geom))
    if not shapely.intersects(projected, grid.extent.geom):
        raise _aoi_error(
            path, f"polygons within {_format_bounds(area.bounds)}", f"an overlap with {_format_bounds(near)}, the scene"
        )
    return str(shapely.union_all(list(_iter_polygons(projected))).wkt)


def _bounds_around(grid: GeoBox, crs: CRS) -> tuple[float, float, float, float]:
    """The bounds of a grid in another CRS, and a tenth more on each side; longitudes go on beyond 180°."""
    extent = grid.extent
    left, bottom, right, top = extent.boundingbox.bbox
    outline = extent.to_crs(crs, max(right - left, top - bottom) / 20)
    left, bottom, right, top = outline.boundingbox.bbox
    x, y = shapely.get_coordinates(outline.geom).T
    if crs.geographic and np.isfinite(x).all():
        x = np.unwrap(x, period=360)
        left, right = x.min(), x.max()
        if abs(x[-1] - x[0]) > 180:  # around a pole
            left, right = -180.0, 180.0
            bottom, top = (bottom, 90.0) if y.mean() > 0 else (-90.0, top)
    margin = max(right - left, top - bottom) / 10
    return left - margin, bottom - margin, right + margin, top + margin


def _unwrap_longitudes(grid: GeoBox, shape: shapely.Geometry) -> shapely.Geometry:
    """A shape in the CRS of a grid; its longitudes, if they are such, within 180° of the grid's middle.

    PROJ puts them between -180° and 180°. A grid around the Earth has no place that is nearer than another.
    """
    left, _, right, _ = grid.extent.boundingbox.bbox
    if not (grid.crs and grid.crs.geographic) or right - left > 300:
        return shape
    middle = (left + right) / 2

    def turned(points: NDArray[np.float64]) -> NDArray[np.float64]:
        turns: NDArray[np.float64] = np.round((points - [middle, 0]) / 360) * [360, 0]
        return points - turns

    return shapely.transform(shape, turned)


def _iter_polygons(shape: shapely.Geometry) -> Iterator[shapely.Polygon]:
    """The polygons in a geometry, however nested."""
    for part in shapely.get_parts(shape):
        if isinstance(part, shapely.Polygon):
            yield part
        elif hasattr(part, "geoms"):
            yield from _iter_polygons(part)


def _list_geometries(document: dict[str, Any]) -> list[dict[str, Any]]:
    if document["type"] == "FeatureCollection":
        return [feature["geometry"] for feature in document["features"] if feature["geometry"]]
    if document["type"] == "Feature":
        return [document["geometry"]] if document["geometry"] else []
    return [document]


def _format_bounds(bounds: tuple[float, ...]) -> str:
    return "({:.6g}, {:.6g}) to ({:.6g}, {:.6g})".format(*bounds)


def _aoi_error(path: Path, got: object, expected: str) -> InputError:
    return InputError(f"{path} is no area for this scene", got=got, expected=expected, fix="correct --aoi")
