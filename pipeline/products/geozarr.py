"""The georeference of a Zarr array, as attributes and coordinates.

It is written three times, since no reader knows all three forms:

- CF ``grid_mapping`` with 1-D coordinates, for xarray and rioxarray,
- ``_CRS``, for GDAL,
- the ``spatial:`` and ``proj:`` conventions of GeoZarr. Only these tell GDAL (from 3.13 on) of a rotated grid.

Overviews are listed by the ``multiscales`` convention, in the form that GDAL writes and reads from 3.13 on:
``ovr_2x/segmentation`` beside ``segmentation``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

JSON: TypeAlias = "Mapping[str, JSON] | Sequence[JSON] | str | int | float | bool | None"

GRID_MAPPING = "spatial_ref"
"""Name of the CF grid mapping variable."""


def find_crs_code(grid: GeoBox) -> str | None:
    """Return the authority's code of the grid's CRS, such as ``EPSG:32620``.

    None without a CRS, and where no authority has exactly this CRS.
    """
    authority = None if grid.crs is None else grid.crs.proj.to_authority(min_confidence=100)
    return None if authority is None else ":".join(authority)


def build_crs_attribute(grid: GeoBox) -> dict[str, JSON]:
    """Return the attribute ``_CRS``, from which GDAL reads the CRS of an array; empty without a CRS."""
    if grid.crs is None:
        return {}
    crs: dict[str, JSON] = {"wkt": grid.crs.to_wkt()}
    if (code := find_crs_code(grid)) is not None:
        authority, number = code.split(":")
        crs = {"url": f"http://www.opengis.net/def/crs/{authority}/0/{number}", **crs}
    return {"_CRS": crs}


def build_grid_mapping(grid: GeoBox) -> dict[str, JSON]:
    """Return the attributes of the CF grid mapping variable, with GDAL's ``GeoTransform``."""
    transform = " ".join(str(number) for number in grid.transform.to_gdal())
    if grid.crs is None:
        return {"GeoTransform": transform}
    return {
        **grid.crs.proj.to_cf(),
        "spatial_ref": grid.crs.to_wkt(),
        "GeoTransform": transform,
    }


def build_convention_attributes(grid: GeoBox, *more: str) -> dict[str, JSON]:
    """Return the ``spatial:`` and ``proj:`` attributes of a grid, and the declaration of their conventions.

    Args:
        grid: grid of the array or group.
        *more: further conventions to declare, keys of ``_CONVENTIONS``.

    Returns:
        Attributes; without those of ``proj:`` where the grid has no CRS.
    """
    names = [*more, "spatial"] if grid.crs is None else [*more, "proj", "spatial"]
    attributes: dict[str, JSON] = {
        "zarr_conventions": [_CONVENTIONS[name] for name in names],
        "spatial:dimensions": ["y", "x"],
        "spatial:shape": list(grid.shape),
        "spatial:transform_type": "affine",
        "spatial:transform": list(grid.transform)[:6],
        "spatial:registration": "pixel",
        "spatial:bbox": list(grid.extent.boundingbox.bbox),
    }
    if grid.crs is not None:
        attributes["proj:wkt2"] = grid.crs.proj.to_wkt("WKT2_2019")
        if (code := find_crs_code(grid)) is not None:
            attributes["proj:code"] = code
    return attributes


def compute_coordinates(grid: GeoBox) -> dict[str, tuple[NDArray[np.float64], dict[str, JSON]]]:
    """Return the centres of the pixels along y and x.

    Args:
        grid: grid of the array.

    Returns:
        Values (n,) in units of the CRS and CF attributes of each axis, by its name. Empty where the grid is rotated,
        since its coordinates are not 1-D.
    """
    if not grid.axis_aligned:
        return {}
    a, _, c, _, e, f, *_ = grid.transform
    height, width = grid.shape
    axes = {"y": f + e * (np.arange(height) + 0.5), "x": c + a * (np.arange(width) + 0.5)}
    attributes: dict[str, dict[str, JSON]] = {}
    if grid.crs is not None:
        attributes = {axis["axis"].lower(): axis for axis in grid.crs.proj.cs_to_cf() if "axis" in axis}
    return {name: (values, attributes.get(name, {})) for name, values in axes.items()}


def _declare_convention(name: str, uuid: str, description: str) -> dict[str, JSON]:
    """Return the declaration of a convention as ``zarr_conventions`` lists it."""
    return {
        "uuid": uuid,
        "name": name,
        "schema_url": f"https://raw.githubusercontent.com/zarr-conventions/{name}/refs/tags/v0.1/schema.json",
        "spec_url": f"https://github.com/zarr-conventions/{name}/blob/v0.1/README.md",
        "description": description,
    }


_CONVENTIONS: dict[str, JSON] = {
    name: _declare_convention(name, uuid, description)
    for name, uuid, description in (
        ("multiscales", "d35379db-88df-4056-af3a-620245f8e347", "Multiscale layout of zarr datasets"),
        ("spatial", "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinate information"),
        ("proj", "f17cb550-5864-4468-aeb7-f3180cfb622f", "Coordinate reference system information for geospatial data"),
    )
}
