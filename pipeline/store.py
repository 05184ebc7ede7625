"""The labels of a scene as a Zarr v3 store that GDAL, xarray and GeoZarr readers find on the map.

The georeference is written three times, since no reader knows all three: CF ``grid_mapping`` with 1-D
coordinates (xarray, rioxarray), ``_CRS`` (GDAL) and the ``spatial:``/``proj:`` conventions (GeoZarr, and
the only one of the three that tells a rotated grid to GDAL, from 3.13 on).
"""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline.classes import NODATA, LabelClass
from pipeline.errors import InputError
from pipeline.grid import GeoBox, Window

__all__ = ["JSON", "VARIABLE", "create_store", "crs_code", "is_sealed", "open_labels", "seal", "write_labels"]

JSON: TypeAlias = "Mapping[str, JSON] | Sequence[JSON] | str | int | float | bool | None"

VARIABLE = "segmentation"
"""The name of the array of labels in the group."""

_GRID_MAPPING = "spatial_ref"
_SEAL = "seamline"


def create_store(path: Path, grid: GeoBox, classes: Sequence[LabelClass], chunk: int, *, title: str) -> None:
    """Write the template: ``segmentation`` (y, x) uint8 on ``grid``, every pixel nodata.

    ``chunk`` is the edge of the square Zarr chunks in pixels; they are not sharded, since GDAL reads shards
    only from 3.13 on. The folder appears whole or not at all. Raises ``FileExistsError`` where it exists.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists; remove it to start over, or write to it with write_labels")
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    placed = _georeference(grid)
    conventions = _conventions(grid)
    group = zarr.create_group(part, attributes={"Conventions": "CF-1.11", "title": title, **conventions}, zarr_format=3)
    group.create_array(
        VARIABLE,
        shape=tuple(grid.shape),
        chunks=(chunk, chunk),
        dtype="uint8",
        fill_value=NODATA,
        compressors=zarr.codecs.ZstdCodec(level=3),
        dimension_names=("y", "x"),
        attributes={
            "long_name": "segmentation label",
            **_flags(classes),
            **placed,
            "grid_mapping": _GRID_MAPPING,
            **conventions,
        },
    )
    group.create_array(_GRID_MAPPING, shape=(), dtype="int32", attributes=_grid_mapping(grid), dimension_names=())
    for name, (values, attributes) in _coordinates(grid).items():
        axis = group.create_array(
            name,
            shape=values.shape,
            chunks=values.shape,
            dtype="float64",
            fill_value=float("nan"),
            dimension_names=(name,),
            attributes=attributes,
        )
        axis[:] = values
    part.rename(path)


def open_labels(path: Path) -> zarr.Array[Any]:
    """The labels (y, x) of the store at ``path``, uint8, to read; to write use ``write_labels``.

    Raises ``InputError`` where there is no store.
    """
    return _open(path, "r")


def write_labels(path: Path, window: Window, labels: NDArray[np.uint8]) -> None:
    """Write ``labels`` (height, width) into ``window``; chunks of nothing but nodata take no space.

    The window covers whole Zarr chunks, the scene's last row and column of chunks as far as the scene goes.
    Raises ``ValueError`` otherwise: two writers of one chunk read, change and write it back, and the slower
    one undoes the faster one's pixels without an error.
    """
    array = _open(path, "r+")
    if labels.shape != window.shape or labels.dtype != np.uint8:
        raise ValueError(f"{window} takes uint8 labels of shape {window.shape}, got {labels.dtype} {labels.shape}")
    _check_whole_chunks(window, array.shape, array.chunks)
    array[window.slices()] = labels


def seal(path: Path, attributes: Mapping[str, JSON]) -> None:
    """Mark the store complete, after all labels: the group's attribute ``seamline`` holds ``attributes``.

    Consolidates the metadata on the way, once, so that remote readers open the store with one request. The
    seal is the last write.
    """
    with warnings.catch_warnings():
        # Readers use it although the v3 specification does not have it yet.
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        group = zarr.consolidate_metadata(str(path), zarr_format=3)
    group.update_attributes({_SEAL: {**attributes, "sealed": True}})


def is_sealed(path: Path) -> bool:
    """True where the store at ``path`` exists and was sealed."""
    if not (path / "zarr.json").is_file():
        return False
    mark = zarr.open_group(path, mode="r", use_consolidated=False).attrs.get(_SEAL)
    return isinstance(mark, Mapping) and mark.get("sealed") is True


def crs_code(grid: GeoBox) -> str | None:
    """The code of the grid's CRS, such as ``EPSG:32620``; None where no authority has this very one."""
    authority = None if grid.crs is None else grid.crs.proj.to_authority(min_confidence=100)
    return None if authority is None else ":".join(authority)


def _open(path: Path, mode: str) -> zarr.Array[Any]:
    if not (path / VARIABLE / "zarr.json").is_file():
        raise InputError(
            "no segmentation store",
            got=path,
            expected=f"a Zarr v3 group with the variable {VARIABLE!r}",
            fix="check the path, or segment the scene first",
        )
    return zarr.open_array(path / VARIABLE, mode=mode, zarr_format=3)


def _check_whole_chunks(window: Window, shape: tuple[int, ...], chunks: tuple[int, ...]) -> None:
    for axis, start, stop, size, chunk in zip(
        ("rows", "columns"),
        (window.row, window.col),
        (window.stop_row, window.stop_col),
        shape,
        chunks,
        strict=True,
    ):
        if start < 0 or start % chunk or stop > size or (stop % chunk and stop != size):
            raise ValueError(
                f"{axis} [{start}, {stop}) are not whole Zarr chunks of {chunk} in a scene of {size}: "
                f"two writers of one chunk race and lose pixels; begin and end at multiples of {chunk}"
            )


def _flags(classes: Sequence[LabelClass]) -> dict[str, JSON]:
    # No _FillValue: xarray would turn uint8 into float32. GDAL reads the fill value of Zarr itself, rioxarray
    # the attribute nodata.
    return {
        "nodata": NODATA,
        "flag_values": [label.value for label in classes],
        "flag_meanings": " ".join(re.sub(r"[^\w.+@-]+", "_", label.name.strip()) for label in classes),
        "flag_colors": " ".join("#{:02x}{:02x}{:02x}".format(*label.color) for label in classes),
        "valid_range": [0, NODATA - 1],
    }


def _georeference(grid: GeoBox) -> dict[str, JSON]:
    if grid.crs is None:
        return {}
    crs: dict[str, JSON] = {"wkt": grid.crs.to_wkt()}
    if (code := crs_code(grid)) is not None:
        authority, number = code.split(":")
        crs = {"url": f"http://www.opengis.net/def/crs/{authority}/0/{number}", **crs}
    return {"_CRS": crs}


def _grid_mapping(grid: GeoBox) -> dict[str, JSON]:
    transform = " ".join(str(number) for number in grid.transform.to_gdal())
    if grid.crs is None:
        return {"GeoTransform": transform}
    return {
        **grid.crs.proj.to_cf(),
        "spatial_ref": grid.crs.to_wkt(),
        "GeoTransform": transform,
    }


def _conventions(grid: GeoBox) -> dict[str, JSON]:
    names = ["spatial"] if grid.crs is None else ["proj", "spatial"]
    attributes: dict[str, JSON] = {
        "zarr_conventions": [_CONVENTION[name] for name in names],
        "spatial:dimensions": ["y", "x"],
        "spatial:shape": list(grid.shape),
        "spatial:transform_type": "affine",
        "spatial:transform": list(grid.transform)[:6],
        "spatial:registration": "pixel",
        "spatial:bbox": list(grid.extent.boundingbox.bbox),
    }
    if grid.crs is not None:
        attributes["proj:wkt2"] = grid.crs.proj.to_wkt("WKT2_2019")
        if (code := crs_code(grid)) is not None:
            attributes["proj:code"] = code
    return attributes


def _convention(name: str, uuid: str, description: str) -> dict[str, JSON]:
    return {
        "uuid": uuid,
        "name": name,
        "schema_url": f"https://raw.githubusercontent.com/zarr-conventions/{name}/refs/tags/v0.1/schema.json",
        "spec_url": f"https://github.com/zarr-conventions/{name}/blob/v0.1/README.md",
        "description": description,
    }


_CONVENTION: dict[str, JSON] = {
    "spatial": _convention("spatial", "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinate information"),
    "proj": _convention(
        "proj",
        "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "Coordinate reference system information for geospatial data",
    ),
}


def _coordinates(grid: GeoBox) -> dict[str, tuple[NDArray[np.float64], dict[str, JSON]]]:
    """Pixel centres along y and x; none where the grid is rotated, since then they are no 1-D axes."""
    if not grid.axis_aligned:
        return {}
    a, _, c, _, e, f, *_ = grid.transform
    height, width = grid.shape
    axes = {"y": f + e * (np.arange(height) + 0.5), "x": c + a * (np.arange(width) + 0.5)}
    described: dict[str, dict[str, JSON]] = {}
    if grid.crs is not None:
        described = {axis["axis"].lower(): axis for axis in grid.crs.proj.cs_to_cf() if "axis" in axis}
    return {name: (values, described.get(name, {})) for name, values in axes.items()}
