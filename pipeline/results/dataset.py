"""A scene's results as an xarray Dataset: lazy, on its grid, with classes that have names."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import rioxarray
import xarray as xr
import zarr
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.products.geozarr import GRID_MAPPING, build_grid_mapping, compute_coordinates
from seamline.pipeline.products.layers import LAYER_SCALE, LAYERS
from seamline.pipeline.products.zarr_store import LABELS_ARRAY, build_class_flags, open_store_raster
from seamline.pipeline.results import accessor
from seamline.pipeline.results.open import PublishedResult, find_result
from seamline.pipeline.storage.atomic import make_absolute
from seamline.pipeline.storage.object_store import is_object_url

_COG_CHUNK = 2048
"""Four blocks of a COG."""
_DECODED_VALUES = (np.arange(256) * LAYER_SCALE).astype(np.float32)
_DECODED_VALUES[NODATA] = np.nan


def open_result(out: str | Path, scene: str) -> xr.Dataset:
    """What a run left of ``scene`` in the folder ``out``; no pixel is read before it is needed.

    The variables are dask arrays whose chunks are those of the files: ``segmentation`` (y, x) uint8, 255 = nodata,
    and, where the run wrote them, ``probabilities`` (class, y, x), ``confidence`` and ``disagreement`` (y, x), float32,
    NaN where there is no label. The coordinate ``class`` has the names of the classes, ``class_value``,
    ``class_color``, ``class_share`` and ``class_area`` (m² on the ellipsoid, NaN if unknown; of the whole scene) belong
    to it; ``spatial_ref`` holds the CRS for rioxarray. ``y`` and ``x`` are pixel centres in the CRS; a rotated grid has
    none. ``dataset.seamline`` shows all that in a notebook.

    Raises:
        InputError: there is no such scene, or its results are unfinished, damaged or not what their record says.
    """
    if is_object_url(str(out)):
        raise InputError("results", got=out, expected="a folder on disk", fix="open the Zarr store or COG that the item"
                         " names with xarray (zarr.storage.ObjectStore) or rioxarray (/vsis3/…)")  # fmt: skip
    result = find_result(make_absolute(out), scene)
    dims = ("class", "y", "x")
    labelled = {"long_name": "segmentation label", **build_class_flags(result.classes)}
    variables: dict[str, Any] = {LABELS_ARRAY: (dims[1:], _load_array(result, LABELS_ARRAY), labelled)}
    for name in (name for name in LAYERS if name in result.arrays):
        layer, pixels = LAYERS[name], _load_array(result, name)
        values = pixels.map_blocks(_decode_layer, dtype=np.float32, meta=np.empty((0,) * pixels.ndim, np.float32))
        variables[name] = (dims[-pixels.ndim :], values, {"long_name": layer.title, "units": "1"})
    dataset = xr.Dataset(variables, _make_coordinates(result), _make_attributes(result))
    for array in dataset.data_vars.values():
        array.encoding["grid_mapping"] = GRID_MAPPING
    accessor.register_accessor()
    return dataset


def _decode_layer(block: NDArray[np.uint8]) -> NDArray[np.float32]:
    return _DECODED_VALUES[block]


def _load_array(result: PublishedResult, name: str) -> da.Array:
    path = result.arrays[name]
    if path.suffix == ".zarr":
        array: zarr.Array[Any] = open_store_raster(path, name)
        return da.from_zarr(array, chunks=array.shards or array.chunks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        chunks = {"band": 1, "y": _COG_CHUNK, "x": _COG_CHUNK}
        pixels = rioxarray.open_rasterio(path, chunks=chunks, masked=False, mask_and_scale=False).data
    return pixels if name in LAYERS and LAYERS[name].per_class else pixels[0]


def _make_coordinates(result: PublishedResult) -> dict[str, Any]:
    rows = result.record["classes"]
    areas = [np.nan if row["area_m2"] is None else row["area_m2"] for row in rows]
    whole = "of the whole scene"
    return {
        **{name: ((name,), *described) for name, described in compute_coordinates(result.grid).items()},
        "class": ("class", [label.name for label in result.classes], {"long_name": "class"}),
        "class_value": ("class", np.array([label.value for label in result.classes], np.uint8)),
        "class_color": ("class", [label.hex for label in result.classes]),
        "class_share": ("class", [row["share"] for row in rows], {"long_name": f"share of the valid pixels {whole}"}),
        "class_area": ("class", areas, {"long_name": f"area {whole}", "units": "m2"}),
        GRID_MAPPING: ((), 0, build_grid_mapping(result.grid)),
    }


def _make_attributes(result: PublishedResult) -> dict[str, Any]:
    """Plain values only, so that netCDF can hold them."""
    record, properties = result.record, result.item.properties
    return {
        "title": f"Segmentation of {record['scene']}",
        "scene": record["scene"],
        "model": record["model"],
        "datetime": "unknown" if properties.is_time_unknown else properties.datetime.isoformat(),
        "source": record["source"],
        "folder": str(result.folder.absolute()),
        "shape": list(result.grid.shape),
    }
