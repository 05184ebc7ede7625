"""The area of interest: polygons of a vector file, transformed to the CRS of a scene."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import shapely
import shapely.affinity
import shapely.errors
from numpy.typing import NDArray
from odc.geo.crs import CRS, CRSError
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry
from pyproj.exceptions import ProjError
from shapely.geometry.base import BaseGeometry

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.extras import require_extras
from seamline.pipeline.geometry.area_mask import list_polygons, repair_polygons
from seamline.pipeline.storage.atomic import refuse_special_file

_Bounds = tuple[float, float, float, float]
"""Left, bottom, right, top."""

_PARSE_ERRORS = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, NameError),
    *(
        RuntimeError,
        shapely.errors.ShapelyError,
        CRSError,
        ProjError,
    ),  # pyogrio's errors and deep nesting are RuntimeErrors
)
_JSON = (".json", ".geojson")
_PARQUET = (".parquet", ".geoparquet")
_MOST_BYTES = 128 * 2**20
"""Bytes of a GeoJSON document, which takes ten times as much memory. Other formats may be larger."""
_MOST_POINTS = 2_000_000
"""Points of all polygons together; the most detailed outlines of countries have less."""
_MOST_CROSSINGS = 2000
"""Crossings of edges within polygons that are not valid. The time to repair them grows with the square: 5 s."""
_MOST_OVERLAPS = 5_000_000
"""Points of all pairs of polygons whose bounds overlap, for which their union takes up to half a minute."""
_EDGES_AT_ONCE = 16
_SEGMENTS_PER_SCENE = 100
"""Points along an edge as long as the scene, because a line that is straight in one CRS is curved in another."""


def read_aoi(path: Path, grid: GeoBox) -> str:
    """Read the polygons of a vector file and transform them to the CRS of a scene.

    GeoJSON holds a geometry, a Feature or a FeatureCollection, or one on each line, in EPSG:4326 unless it has a
    ``crs`` member. Longitudes are taken modulo 360°, so that a scene across 180° meets polygons in one piece as well as
    polygons in halves (RFC 7946, section 3.1.9).

    Args:
        path: The file: GeoJSON, GeoParquet, or another one that GDAL reads, also in an archive (``/vsizip/…``), in any
            CRS.
        grid: Grid of the scene.

    Returns:
        The polygons as WKT in the CRS of ``grid``.

    Raises:
        InputError: The file is no vector file, has no polygons or does not meet the scene.
    """
    area, crs = _read_polygons(path)
    projected, near = _project_nearby(area, crs, grid)
    if not shapely.intersects(projected, grid.extent.geom):
        code = crs.to_epsg()
        raise _aoi_error(
            path,
            f"polygons within {_format_bounds(area.bounds)}",
            f"an overlap with the scene and a margin of a tenth around it, {_format_bounds(near)}, x before y in "
            f"{f'EPSG:{code}' if code else 'the CRS of the file'}",
        )
    return str(shapely.union_all(list_polygons(projected)).wkt)


def read_area(path: Path, crs: CRS) -> shapely.MultiPolygon:
    """Read the polygons of a vector file and transform them to a CRS.

    Straight edges of the file become curves there; they get a point for each hundredth of the polygons' extent.

    Args:
        path: The file, as ``read_aoi`` takes it.
        crs: The CRS, of a map.

    Returns:
        The union of the polygons, valid.

    Raises:
        InputError: The file is no vector file or has no polygons, or these do not lie where the CRS is defined.
    """
    area, file_crs = _read_polygons(path)
    left, bottom, right, top = area.bounds
    step = max(right - left, top - bottom) / _SEGMENTS_PER_SCENE
    projected = Geometry(area, file_crs).to_crs(crs, step).geom
    parts = list_polygons(repair_polygons(projected)) if np.isfinite(projected.bounds).all() else []
    if not parts:
        raise _aoi_error(
            path,
            f"polygons within {_format_bounds(area.bounds)}, which have no place in {crs.to_epsg() or 'the CRS'}",
            "polygons where the CRS of the map is defined",
        )
    return shapely.MultiPolygon(list_polygons(shapely.union_all(parts)))


def _read_polygons(path: Path) -> tuple[BaseGeometry, CRS]:
    """Return the union of all polygons in a vector file, and its CRS."""
    refuse_special_file(path)
    suffix = "" if _is_virtual(path) else path.suffix.lower()
    readers = {**dict.fromkeys(_JSON, _read_json), **dict.fromkeys(_PARQUET, _read_parquet)}
    try:
        with np.errstate(invalid="ignore"):  # coordinates that are no numbers are refused
            found, crs = readers.get(suffix, _read_layers)(path)
            area = _unite_polygons(found, path)
    except OSError as error:
        raise _aoi_error(path, error.strerror or error, "a vector file that can be read") from error
    except _PARSE_ERRORS as error:
        kind = "GeoJSON" if suffix in _JSON else "vector file with polygons"
        reason = f"no {kind} ({type(error).__name__}: {' '.join(str(error).split())})"
        raise _aoi_error(path, reason, "polygons in a format of GDAL, of a CRS that PROJ knows") from error
    if area.is_empty:
        raise _aoi_error(path, "no polygon with an area", "a Polygon or MultiPolygon")
    if crs.geographic and max(abs(area.bounds[1]), abs(area.bounds[3])) > 90:
        raise _aoi_error(
            path, f"latitudes within {_format_bounds(area.bounds)}", "longitude first, then latitude, up to 90°"
        )
    return area, crs


def _unite_polygons(shapes: list[BaseGeometry], path: Path) -> BaseGeometry:
    """Return the union of all polygons in some geometries, which are repaired where they are not valid.

    Raises:
        InputError: There is too much of it for the time that an area of interest should take.
    """
    flat = [shapely.force_2d(shape) for shape in shapes]  # heights mean nothing here
    points = int(shapely.get_num_coordinates(flat).sum())
    if points > _MOST_POINTS:
        raise _complex_error(path, f"{points} points", f"at most {_MOST_POINTS}")
    broken = [shape for shape in flat if not shapely.is_valid(shape)]
    if _count_crossings(broken) > _MOST_CROSSINGS:
        raise _complex_error(path, f"more than {_MOST_CROSSINGS} crossings of edges", "polygons that are valid")
    parts = [part for shape in flat for part in list_polygons(repair_polygons(shape))]
    if _count_overlaps(parts) > _MOST_OVERLAPS:
        raise _complex_error(path, f"{len(parts)} polygons that overlap", "few that overlap, or their union")
    area: BaseGeometry = shapely.union_all(parts)
    return area


def _count_crossings(shapes: list[BaseGeometry]) -> int:
    """Return how many pairs of edges cross; no more than is too much is counted."""
    lines = [np.asarray(ring.coords) for shape in shapes for ring in _iter_rings(shape)]
    if not lines:
        return 0
    ends = np.concatenate([np.stack([points[:-1], points[1:]], axis=1) for points in lines])
    edges = np.asarray(shapely.linestrings(ends))
    tree, count = shapely.STRtree(edges), 0
    for start in range(0, len(edges), _EDGES_AT_ONCE):
        count += tree.query(edges[start : start + _EDGES_AT_ONCE], predicate="crosses").shape[1]
        if count > 2 * _MOST_CROSSINGS:
            break
    return count // 2


def _count_overlaps(parts: list[shapely.Polygon]) -> int:
    """Return the points of all pairs of polygons whose bounds overlap; no more than is too much is counted."""
    tree, points = shapely.STRtree(parts), shapely.get_num_coordinates(parts)
    total = 0
    for start in range(0, len(parts), _EDGES_AT_ONCE):
        first, second = tree.query(parts[start : start + _EDGES_AT_ONCE])
        total += int((points[first + start] + points[second])[second > first + start].sum())
        if total > _MOST_OVERLAPS:
            break
    return total


def _iter_rings(shape: shapely.Geometry) -> Iterator[shapely.LinearRing]:
    """Yield the outer and inner rings of all polygons in a geometry."""
    for polygon in list_polygons(shape):
        yield from (polygon.exterior, *polygon.interiors)


def _read_json(path: Path) -> tuple[list[BaseGeometry], CRS]:
    """Return the geometries of a GeoJSON document, and the CRS of its ``crs`` member, which older programs write.

    Documents of Esri and TopoJSON have the same endings, and are left to GDAL.
    """
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise _complex_error(path, f"{size / 2**20:.0f} MiB", f"at most {_MOST_BYTES / 2**20:.0f} MiB of GeoJSON")
    documents = _parse_documents(path.read_bytes())
    first = documents[0]
    if "geometryType" in first or first["type"] == "Topology":
        return _read_layers(path, "EPSG:4326" if "type" in first else "")
    shapes = [_read_geometry(part) for document in documents for part in _list_geometries(document)]
    return shapes, CRS(first["crs"]["properties"]["name"] if first.get("crs") else "EPSG:4326")


def _read_geometry(geometry: dict[str, Any]) -> BaseGeometry:
    """Return a geometry of GeoJSON, whose positions may have heights here and there, and other numbers after them."""
    try:
        return shapely.geometry.shape(geometry)
    except ValueError:
        return shapely.geometry.shape(_drop_heights(geometry))


def _drop_heights(value: Any) -> Any:
    """Return the same geometry, or part of one, with two numbers for each position."""
    if isinstance(value, dict):
        return {key: _drop_heights(part) for key, part in value.items()}
    if isinstance(value, list):
        is_position = len(value) > 2 and not any(isinstance(part, list | dict) for part in value)
        return value[:2] if is_position else [_drop_heights(part) for part in value]
    return value


def _parse_documents(data: bytes) -> list[dict[str, Any]]:
    """Return a JSON document in whatever Unicode, or those on the lines of a text."""
    text = data.decode(json.detect_encoding(data)).removeprefix("\ufeff")
    try:
        return [json.loads(text)]
    except json.JSONDecodeError:
        lines = [line for line in text.replace("\x1e", "").splitlines() if line.strip()]
        if len(lines) < 2:
            raise
        return [json.loads(line) for line in lines]


def _read_parquet(path: Path) -> tuple[list[BaseGeometry], CRS]:
    """Return the geometries of a GeoParquet file, which not every build of GDAL reads."""
    import pyarrow.parquet as pq  # takes a while, and few runs have such a file

    with pq.ParquetFile(path) as file:
        description = json.loads((file.metadata.metadata or {})[b"geo"])
        column = description["primary_column"]
        details = description["columns"][column]
        if details["encoding"] != "WKB":
            raise ValueError(f"geometries in {details['encoding']}")
        cells = file.read(columns=[column]).column(column).to_pylist()
    shapes = [shapely.from_wkb(cell) for cell in cells if cell is not None]
    crs = details.get("crs", "OGC:CRS84")
    if crs is None:
        raise _no_crs_error(path, "no CRS")
    return shapes, CRS(pyproj.CRS.from_user_input(crs))


def _read_layers(path: Path, usual_crs: str = "") -> tuple[list[BaseGeometry], CRS]:
    """Return the polygons of all layers of a file that GDAL reads: GeoPackage, Shapefile, KML, Esri's JSON.

    Args:
        path: The file.
        usual_crs: CRS of files that state none; empty if such files are refused.
    """
    require_extras(f"area of interest {path}", "vectors")
    import pyogrio  # imports pandas, which takes half a second

    if not _is_virtual(path):
        path.stat()  # raises a clearer error than GDAL if there is none
    address = _restore_slashes(path)
    shapes: list[BaseGeometry] = []
    crs: set[str] = set()
    try:
        layers = pyogrio.list_layers(address)
    except pyogrio.errors.GeometryError as error:
        raise InputError(
            f"{path} is no area for this scene",
            got=error,
            expected="polygons of two dimensions",
            fix="convert it with `ogr2ogr -dim XY area.gpkg FILE`, for --aoi",
        ) from error
    for name, kind in layers:
        if kind is not None:
            metadata, _, geometries, _ = pyogrio.raw.read(address, layer=name, columns=[])
            found = [shape for shape in shapely.from_wkb(geometries) if shape is not None]
            if any(list_polygons(shape) for shape in found):
                shapes += found
                crs.add(metadata["crs"] or usual_crs)
    if len(crs) > 1 or "" in crs:
        raise _no_crs_error(path, f"{len(crs - {''})} CRS")
    return shapes, CRS(crs.pop() if crs else "EPSG:4326")


def _is_virtual(path: Path) -> bool:
    return str(path).startswith("/vsi")


def _restore_slashes(path: Path) -> str:
    """Return GDAL's address of a file in an archive on the disk, of which ``Path`` drops the second slash."""
    found = re.fullmatch(r"/(vsi\w+)/(.*)", str(path))
    if found is not None and any(os.path.isfile(part) for part in Path("/", found[2]).parents):  # noqa: PTH113
        return f"/{found[1]}//{found[2]}"
    return str(path)


def _project_nearby(area: BaseGeometry, crs: CRS, grid: GeoBox) -> tuple[shapely.Geometry, _Bounds]:
    """Transform the part of an area that is near a grid to the CRS of the grid.

    Far away from the grid its projection may fail, and the length of the segments would be wrong.

    Returns:
        The projected part, empty if there is none, and the bounds in ``crs`` that count as near.
    """
    near = _bounds_around(grid, crs)
    step = max(near[2] - near[0], near[3] - near[1]) / _SEGMENTS_PER_SCENE
    turns = (-360, 0, 360) if crs.geographic else (0,)
    turned = [shapely.affinity.translate(area, turn) for turn in turns]
    close = shapely.union_all(shapely.intersection(turned, shapely.box(*near)))
    projected: shapely.Geometry = shapely.Polygon()
    if not close.is_empty:
        projected = repair_polygons(_unwrap_longitudes(grid, Geometry(close, crs).to_crs(grid.crs, step).geom))
    return projected, near


def _bounds_around(grid: GeoBox, crs: CRS) -> _Bounds:
    """Return the bounds of a grid in another CRS with a margin of a tenth; longitudes continue beyond 180°."""
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
    """Move the longitudes of a shape to within 180° of the middle of a grid, if their CRS is geographic.

    PROJ returns longitudes between −180° and 180°. Around the whole Earth no position is nearer than another, so that a
    shape on such a grid stays as it is.
    """
    left, _, right, _ = grid.extent.boundingbox.bbox
    if not (grid.crs and grid.crs.geographic) or right - left > 300:
        return shape
    middle = (left + right) / 2

    def shift_longitudes(points: NDArray[np.float64]) -> NDArray[np.float64]:
        turns: NDArray[np.float64] = np.round((points - [middle, 0]) / 360) * [360, 0]
        return points - turns

    return shapely.transform(shape, shift_longitudes)


def _list_geometries(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the geometries of a GeoJSON document."""
    if document["type"] == "FeatureCollection":
        return [feature["geometry"] for feature in document["features"] if feature["geometry"]]
    if document["type"] == "Feature":
        return [document["geometry"]] if document["geometry"] else []
    return [document]


def _format_bounds(bounds: tuple[float, ...]) -> str:
    return "({:.6g}, {:.6g}) to ({:.6g}, {:.6g})".format(*bounds)


def _complex_error(path: Path, got: str, expected: str) -> InputError:
    return InputError(
        f"{path} is too complex an area",
        got=got,
        expected=expected,
        fix="simplify it with `ogr2ogr -makevalid -simplify …`, or keep what lies around the scene with `-clipsrc`",
    )


def _no_crs_error(path: Path, got: str) -> InputError:
    return InputError(
        f"{path} is no area for this scene",
        got=got,
        expected="one CRS of all polygons that the file states",
        fix="state it with `ogr2ogr -a_srs EPSG:… area.gpkg FILE`, or transform the layers with `-t_srs`, for --aoi",
    )


def _aoi_error(path: Path, got: object, expected: str) -> InputError:
    return InputError(f"{path} is no area for this scene", got=got, expected=expected, fix="correct --aoi")
