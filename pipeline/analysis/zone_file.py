"""Zones: polygons of a vector file with their names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import shapely
import shapely.errors
from odc.geo.crs import CRS, CRSError
from pyproj.exceptions import ProjError

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.extras import require_extras
from seamline.pipeline.geometry.area_mask import list_polygons, repair_polygons
from seamline.pipeline.storage.atomic import refuse_special_file

_PARQUET = (".parquet", ".geoparquet")
_MOST_NAMES = 8
"""Attributes or layers that a message names."""
_PARSE_ERRORS = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, NameError),
    *(RuntimeError, shapely.errors.ShapelyError, CRSError, ProjError),  # pyogrio's errors are RuntimeErrors
)


@dataclass(frozen=True)
class Zones:
    """Polygons with names.

    Attributes:
        names: What each zone is called: values of an attribute as the file has them, None where it has none; or numbers
            of the features.
        geometries: A valid MultiPolygon of each zone, empty for zones without a geometry.
        crs: The CRS of the geometries.
    """

    names: tuple[Any, ...]
    geometries: tuple[shapely.MultiPolygon, ...]
    crs: CRS

    def __post_init__(self) -> None:
        if len(self.names) != len(self.geometries):
            raise ValueError(f"{len(self.names)} names of {len(self.geometries)} zones")


@dataclass(frozen=True)
class _Features:
    """Rows of a vector file: numbers, geometries as WKB, values of the attribute or None, and the CRS as text."""

    numbers: Sequence[int]
    geometries: Sequence[bytes | None]
    values: Sequence[Any] | None
    crs: Any


def read_zones(path: Path, by: str = "", layer: str = "") -> Zones:
    """Read the polygons of a vector file. Those that are not valid are repaired, heights are dropped.

    Args:
        path: GeoParquet, or another file that GDAL reads.
        by: Attribute with the names of the zones; features of one name are one zone, their union. Those without a name
            are one, too, and so are those whose name is a number that is none. Empty: each feature is a zone, named by
            its number in the file.
        layer: Layer of the file. Empty: its only one.

    Raises:
        InputError: The file is no vector file, has no CRS, no such layer or attribute, no features, or other features
            than polygons.
    """
    refuse_special_file(path)
    read = _read_parquet if path.suffix.lower() in _PARQUET else _read_layer
    try:
        features = read(path, by, layer)
        shapes = shapely.force_2d(shapely.from_wkb(np.array(features.geometries, object)))
        if not features.crs:
            raise _zones_error(path, "no CRS", "one that the file states", "state it with `ogr2ogr -a_srs EPSG:…`")
        if not len(shapes):
            raise _zones_error(path, "no features", "polygons", "check the file and --layer")
        return _join_features(path, features, shapes, CRS(features.crs), by)
    except OSError as error:
        raise _zones_error(path, error.strerror or error, "a vector file that can be read", "check the path") from error
    except _PARSE_ERRORS as error:
        reason = f"no vector file ({type(error).__name__}: {' '.join(str(error).split())})"
        raise _zones_error(path, reason, "polygons in a format of GDAL, with a CRS of PROJ", "check it") from error


def _join_features(path: Path, features: _Features, shapes: Any, crs: CRS, by: str) -> Zones:
    """Return one zone for each feature, or for all features of one value."""
    names = list(features.numbers if features.values is None else features.values)
    parts: dict[Any, list[shapely.Polygon]] = {}
    for name, number, shape in zip(names, features.numbers, shapes, strict=True):
        if isinstance(name, list | dict):
            got = f"a {type(name).__name__} as {by} of feature {number}"
            raise _zones_error(path, got, "numbers, texts or dates", "choose another attribute for --by")
        found = list_polygons(shape)
        if shape is not None and not shape.is_empty and not found:
            raise _zones_error(path, f"a {shape.geom_type} in feature {number}", "polygons", "take polygons as zones")
        if not np.isfinite(shapely.bounds(shape)).all() and found:
            raise _zones_error(path, f"no numbers in feature {number}", "coordinates that are numbers", "correct it")
        is_number = name == name  # unlike NaN
        parts.setdefault(name if is_number else None, []).extend(found)
    united = [_unite(found) for found in parts.values()]
    return Zones(tuple(parts), tuple(united), crs)


def _unite(parts: list[shapely.Polygon]) -> shapely.MultiPolygon:
    whole = shapely.MultiPolygon(parts)
    if whole.is_valid:
        return whole
    valid = [part for shape in parts for part in list_polygons(repair_polygons(shape))]
    return shapely.MultiPolygon(list_polygons(shapely.union_all(valid)))


def _read_parquet(path: Path, by: str, layer: str) -> _Features:
    """Return the rows of a GeoParquet file, which not every build of GDAL reads."""
    import pyarrow.parquet as pq  # takes a while, and only some zones are in such a file

    if layer:
        raise _zones_error(path, f"--layer {layer}", "no layer, as Parquet files have none", "leave it out")
    with pq.ParquetFile(path) as file:
        description = json.loads((file.metadata.metadata or {})[b"geo"])
        column = description["primary_column"]
        details = description["columns"][column]
        if details["encoding"] != "WKB":
            raise ValueError(f"geometries in {details['encoding']}")
        _check_attribute(path, by, [name for name in file.schema_arrow.names if name != column])
        table = file.read(columns=[column, *([by] if by else [])])
    crs = details.get("crs", "OGC:CRS84")
    values = table.column(by).to_pylist() if by else None
    return _Features(range(len(table)), table.column(column).to_pylist(), values, crs and pyproj.CRS(crs).to_wkt())


def _read_layer(path: Path, by: str, layer: str) -> _Features:
    """Return the features of a layer that GDAL reads."""
    require_extras(f"zones {path}", "vectors")
    import pyogrio  # imports pandas, which takes half a second

    path.stat()  # raises a clearer error than GDAL if there is no file
    layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
    if layer not in layers if layer else len(layers) != 1:
        got = f"no layer {layer}" if layer else f"{len(layers)} layers with geometries"
        raise _zones_error(path, got, _name_some(layers), "name one by --layer")
    name = layer or layers[0]
    info = pyogrio.read_info(path, layer=name)
    _check_attribute(path, by, [str(field) for field in info["fields"]])
    metadata, numbers, geometries, _ = pyogrio.raw.read(path, layer=name, columns=[], return_fids=True)
    values = None
    if by:  # as Arrow, which has whole numbers beside missing ones
        _, table = pyogrio.raw.read_arrow(path, layer=name, columns=[by], read_geometry=False)
        values = table.column(by).to_pylist()
    return _Features(numbers.tolist(), list(geometries), values, metadata["crs"])


def _check_attribute(path: Path, by: str, names: Sequence[str]) -> None:
    if by and by not in names:
        raise _zones_error(path, f"no attribute {by}", _name_some(names), "correct --by")


def _name_some(names: Sequence[str]) -> str:
    rest = len(names) - _MOST_NAMES
    return "one of " + ", ".join(names[:_MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "") if names else "some"


def _zones_error(path: Path, got: object, expected: str, fix: str) -> InputError:
    return InputError(f"zones {path}", got=got, expected=expected, fix=fix)
