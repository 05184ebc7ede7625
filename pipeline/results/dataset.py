"""Open a scene's results as a lazy xarray Dataset with its grid and the names of its classes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import rioxarray
import xarray as xr
import zarr
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.geozarr import GRID_MAPPING, build_grid_mapping, compute_coordinates
from seamline.pipeline.products.layers import EPOCH, LAYERS, Layer
from seamline.pipeline.products.zarr_store import LABELS_ARRAY, build_class_flags
from seamline.pipeline.raster_io.gdal import gdal_environment, open_cached_raster, read_pixels
from seamline.pipeline.results import accessor
from seamline.pipeline.results.open import PublishedResult
from seamline.pipeline.results.stored_results import find_any_result, open_raster_array, open_results
from seamline.pipeline.storage.object_store import is_object_url

_COG_CHUNK = 2048
"""Edge of a dask chunk of a COG in pixels: four blocks of the file."""


def open_result(out: str | Path, scene: str) -> xr.Dataset:
    """Open the results of ``scene`` in the folder ``out`` or at ``s3://…``; pixels are read when they are needed.

    The variables are dask arrays with the chunks of the files: ``segmentation`` (y, x) uint8, 255 = nodata; and where
    the run wrote them ``probabilities`` (class, y, x), ``confidence`` and ``disagreement`` (y, x), float32, NaN where
    there is no label. A period of a map has ``agreement`` like these, ``observations`` (y, x) uint16, 0 also outside of
    the map, and ``last_date`` (y, x) datetime64[ns], NaT where no scene of known time was used.

    The coordinate ``class`` holds the names of the classes. ``class_value``, ``class_color``, ``class_share`` and
    ``class_area`` (m² on the ellipsoid, NaN if unknown) belong to it and describe the whole scene. ``spatial_ref``
    holds the CRS for rioxarray. ``y`` and ``x`` are pixel centres in the CRS; a rotated grid has none.
    ``dataset.seamline`` shows the results in a notebook.

    Raises:
        InputError: There is no such scene, or its results are unfinished, damaged or not what their record says.
    """
    result = find_any_result(open_results(out), scene)
    dims = ("class", "y", "x")
    label_attributes = {"long_name": "segmentation label", **build_class_flags(result.classes)}
    variables: dict[str, Any] = {LABELS_ARRAY: (dims[1:], _load_array(result, LABELS_ARRAY), label_attributes)}
    for name, layer in LAYERS.items():
        if name not in result.arrays:
            continue
        pixels = _load_array(result, name)
        empty = _decode_layer(np.empty((0,) * pixels.ndim, layer.dtype), layer)
        values = pixels.map_blocks(_decode_layer, layer, dtype=empty.dtype, meta=empty)
        attributes = {"long_name": layer.title} | ({} if layer.is_date else {"units": layer.unit})
        variables[name] = (dims[-pixels.ndim :], values, attributes)
    dataset = xr.Dataset(variables, _make_coordinates(result), _make_attributes(result))
    for array in dataset.data_vars.values():
        array.encoding["grid_mapping"] = GRID_MAPPING
    accessor.register_accessor()
    return dataset


def _decode_layer(block: NDArray[Any], layer: Layer) -> NDArray[Any]:
    """Return shares as float32 with NaN, days as datetime64[ns] with NaT, counts as they are with 0."""
    values: NDArray[Any] = np.arange(layer.nodata + 1)  # of each digital number
    if layer.is_date:
        values = (np.datetime64(EPOCH) + values).astype("datetime64[ns]")
        values[layer.nodata] = np.datetime64("NaT")
    elif layer.scale == 1:
        values = values.astype(layer.dtype)
        values[layer.nodata] = 0
    else:
        values = (values * layer.scale).astype(np.float32)
        values[layer.nodata] = np.nan
    decoded: NDArray[Any] = values[block]
    return decoded


def _load_array(result: PublishedResult, name: str) -> da.Array:
    """Return the digital numbers of an array (y, x) or (class, y, x) as a dask array."""
    path = result.arrays[name]
    if path.endswith(".zarr"):
        array: zarr.Array[Any] = open_raster_array(path, name)
        return da.from_zarr(array, chunks=array.shards or array.chunks)
    if is_object_url(path):
        per_class, dtype = name in LAYERS and LAYERS[name].per_class, LAYERS[name].dtype if name in LAYERS else "uint8"
        height, width = result.grid.shape
        remote = _RemoteRaster(path, (len(result.classes) if per_class else 1, height, width), np.dtype(dtype))
        pixels = da.from_array(remote, chunks=(1, _COG_CHUNK, _COG_CHUNK), asarray=False, name=False)
        return pixels if per_class else pixels[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        chunks = {"band": 1, "y": _COG_CHUNK, "x": _COG_CHUNK}
        pixels = rioxarray.open_rasterio(path, chunks=chunks, masked=False, mask_and_scale=False).data
    return pixels if name in LAYERS and LAYERS[name].per_class else pixels[0]


@dataclass(frozen=True)
class _RemoteRaster:
    """The bands of a raster in object storage, read with the access of the process that needs them."""

    path: str
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, place: tuple[slice | int, slice, slice]) -> NDArray[Any]:
        first = slice(place[0], place[0] + 1) if isinstance(place[0], int) else place[0]
        parts = zip((first, *place[1:]), self.shape, strict=True)
        bands, rows, cols = (range(*part.indices(size)) for part, size in parts)
        window = Window(rows.start, cols.start, len(rows), len(cols))
        with gdal_environment(self.path):
            pixels = read_pixels(open_cached_raster(self.path), [band + 1 for band in bands], window)
        return pixels[0] if isinstance(place[0], int) else pixels


def _make_coordinates(result: PublishedResult) -> dict[str, Any]:
    rows = result.record.classes
    shares = [row.share for row in rows]
    areas = [np.nan if row.area_m2 is None else row.area_m2 for row in rows]
    return {
        **{name: ((name,), *described) for name, described in compute_coordinates(result.grid).items()},
        "class": ("class", [label.name for label in result.classes], {"long_name": "class"}),
        "class_value": ("class", np.array([label.value for label in result.classes], np.uint8)),
        "class_color": ("class", [label.hex for label in result.classes]),
        "class_share": ("class", shares, {"long_name": "share of the valid pixels of the whole scene"}),
        "class_area": ("class", areas, {"long_name": "area of the whole scene", "units": "m2"}),
        GRID_MAPPING: ((), 0, build_grid_mapping(result.grid)),
    }


def _make_attributes(result: PublishedResult) -> dict[str, Any]:
    """Return the Dataset's attributes, of types that netCDF can hold."""
    record, properties = result.record, result.item.properties
    return {
        "title": f"Segmentation of {record.scene}",
        "scene": record.scene,
        "model": record.model,
        "datetime": "unknown" if properties.acquired is None else properties.acquired.to_iso(),
        "source": record.source,
        "folder": str(result.folder.absolute() if isinstance(result.folder, Path) else result.folder),
        "shape": list(result.grid.shape),
    }
