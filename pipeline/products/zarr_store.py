"""Labels, and layers beside them, in a Zarr store that GDAL, xarray and GeoZarr readers can place.

::

    segmentation.zarr/segmentation           (y, x) uint8
                      probabilities          (class, y, x) uint8, and other layers (``layers.py``), where asked for
                      y, x, spatial_ref      coordinates and CRS (``geozarr.py``)
                      ovr_2x/…, ovr_4x/…     the same at a half, a quarter, … of the resolution (``overviews.py``)

The arrays of a store of several periods have a further dimension, ``time``, in front (``time_store.py``).

A store that is complete is sealed (``seal.py``).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numcodecs import Zlib
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import NODATA, LabelClass
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.geozarr import (
    GRID_MAPPING,
    JSON,
    build_convention_attributes,
    build_crs_attribute,
    build_grid_mapping,
    compute_coordinates,
)
from seamline.pipeline.products.layers import DAYS_DECODING, LAYERS, Layer, get_nodata

LABELS_ARRAY = "segmentation"
"""Name of the array of labels in the group."""


@dataclass(frozen=True)
class ZarrLayout:
    """How the arrays of a store lie on disk.

    GDAL reads shards from 3.13 on, and version 3 of the format from 3.11 on. Older GDAL and QGIS read version 2.

    Attributes:
        chunk: edge of the square Zarr chunks in pixels.
        shard: edge of the square shards in pixels, a multiple of ``chunk``. ``None``: no shards.
        zarr_format: version of the Zarr format. Shards need version 3.
    """

    chunk: int
    shard: int | None = None
    zarr_format: Literal[2, 3] = 3

    def __post_init__(self) -> None:
        if self.shard is not None and (self.shard % self.chunk or self.zarr_format == 2):
            raise ValueError(
                f"shards of {self.shard}: expected whole chunks of {self.chunk}, in version 3 of the format"
            )

    @property
    def write_unit(self) -> int:
        """Edge in pixels of the smallest square that one writer may write alone: a shard or a chunk."""
        return self.shard or self.chunk

    def create_raster(
        self,
        group: zarr.Group,
        name: str,
        dims: Mapping[str, int],
        attributes: Mapping[str, JSON],
        dtype: str = "uint8",
    ) -> zarr.Array[Any]:
        """Create an array of pixels, all of it nodata: the largest number of its type.

        Args:
            group: where it is created.
            name: its name.
            dims: size of each dimension; the last two are y and x, and a chunk has one element of any other.
            attributes: its attributes.
            dtype: type of its numbers, an unsigned one.

        Returns:
            The array.
        """
        leading = (1,) * (len(dims) - 2)
        # Both compressors add a checksum. So a flipped byte is an error and not another label.
        compressors = Zlib(1) if self.zarr_format == 2 else zarr.codecs.ZstdCodec(level=3, checksum=True)
        return self.create_array(
            group,
            name,
            tuple(dims.values()),
            tuple(dims),
            attributes,
            chunks=(*leading, self.chunk, self.chunk),
            shards=None if self.shard is None else (*leading, self.shard, self.shard),
            dtype=dtype,
            fill_value=get_nodata(dtype),
            compressors=compressors,
        )

    def create_array(
        self,
        group: zarr.Group,
        name: str,
        shape: tuple[int, ...],
        dims: tuple[str, ...],
        attributes: Mapping[str, JSON],
        **options: Any,
    ) -> zarr.Array[Any]:
        """Create an array with named dimensions, in the way of this version of the format.

        Args:
            group: where it is created.
            name: its name.
            shape: its shape.
            dims: names of its dimensions.
            attributes: its attributes.
            **options: further arguments of ``zarr.Group.create_array``.

        Returns:
            The array.
        """
        if self.zarr_format == 2:
            attributes = {**attributes, "_ARRAY_DIMENSIONS": list(dims)}
            return group.create_array(name, shape=shape, attributes=dict(attributes), **options)
        return group.create_array(name, shape=shape, attributes=dict(attributes), dimension_names=dims, **options)


def create_store(
    path: Path,
    grid: GeoBox,
    classes: Sequence[LabelClass],
    layout: ZarrLayout,
    *,
    title: str,
    layers: Sequence[str] = (),
    periods: int | None = None,
) -> None:
    """Create a store with labels (y, x) and layers on a grid, every pixel nodata.

    The folder appears whole or not at all.

    Args:
        path: folder of the store.
        grid: grid of the labels.
        classes: classes of the labels.
        layout: how the arrays lie on disk.
        title: title of the dataset.
        layers: names of the layers, keys of ``LAYERS``.
        periods: size of the dimension ``time``, which all arrays then have. ``None``: they have none.

    Raises:
        FileExistsError: the folder exists.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists; remove it to start over, or write to it with write_raster")
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    attributes = {"Conventions": "CF-1.11", "title": title, **build_convention_attributes(grid)}
    group = zarr.create_group(part, attributes=attributes, zarr_format=layout.zarr_format)
    create_level_arrays(group, grid, classes, layout, layers, periods)
    part.rename(path)


def create_level_arrays(
    group: zarr.Group,
    grid: GeoBox,
    classes: Sequence[LabelClass],
    layout: ZarrLayout,
    layers: Sequence[str],
    periods: int | None = None,
) -> None:
    """Create the arrays of one resolution in a group: labels and layers, all nodata, and their georeference.

    Args:
        group: the group of the full resolution or of an overview.
        grid: grid of this resolution.
        classes: classes of the labels.
        layout: how the arrays lie on disk.
        layers: names of the layers, keys of ``LAYERS``.
        periods: size of the dimension ``time``. ``None``: they have none.
    """
    georeference = {
        **build_crs_attribute(grid),
        "grid_mapping": GRID_MAPPING,
        **build_convention_attributes(grid),
    }
    time, space = {} if periods is None else {"time": periods}, dict(zip("yx", grid.shape, strict=True))
    labels_attributes = {"long_name": "segmentation label", **build_class_flags(classes), **georeference}
    layout.create_raster(group, LABELS_ARRAY, time | space, labels_attributes)
    for layer in (LAYERS[name] for name in layers):
        dims = time | ({"class": len(classes)} if layer.per_class else {}) | space
        layer_attributes = {"long_name": layer.title, **_build_decoding(layer), **georeference}
        layout.create_raster(group, layer.name, dims, layer_attributes, layer.dtype)
    layout.create_array(group, GRID_MAPPING, (), (), build_grid_mapping(grid), dtype="int32")
    for name, (values, attributes) in compute_coordinates(grid).items():
        axis = layout.create_array(
            group,
            name,
            values.shape,
            (name,),
            attributes,
            chunks=values.shape,
            dtype="float64",
            fill_value=float("nan"),
        )
        axis[:] = values
    if any(LAYERS[name].per_class for name in layers):
        _create_class_axis(group, classes, layout)


def _build_decoding(layer: Layer) -> dict[str, JSON]:
    """Return the attributes by which readers decode digital numbers to values or dates, and to NaN or NaT."""
    decoding: dict[str, JSON] = {"nodata": layer.nodata, "_FillValue": layer.nodata}
    if layer.scale != 1:
        decoding |= {"scale_factor": layer.scale, "add_offset": 0.0}
    return decoding | (DAYS_DECODING if layer.is_date else {})


def _create_class_axis(group: zarr.Group, classes: Sequence[LabelClass], layout: ZarrLayout) -> None:
    """Create the coordinate of the dimension ``class``: the values of the classes and their names."""
    flags, count = build_class_flags(classes), len(classes)
    attributes = {"long_name": "label", **{key: flags[key] for key in ("flag_values", "flag_meanings")}}
    axis = layout.create_array(
        group, "class", (count,), ("class",), attributes, chunks=(count,), dtype="uint8", fill_value=None
    )
    axis[:] = np.array([label.value for label in classes], np.uint8)


def build_class_flags(classes: Sequence[LabelClass]) -> dict[str, JSON]:
    """Return the CF flag attributes that say what each label means."""
    # No _FillValue: it would make xarray turn uint8 into float32. GDAL reads the fill value of the Zarr array,
    # rioxarray the attribute nodata.
    return {
        "nodata": NODATA,
        "flag_values": [label.value for label in classes],
        "flag_meanings": " ".join(re.sub(r"[^\w.+@-]+", "_", label.name.strip()) for label in classes),
        "flag_colors": " ".join(label.hex for label in classes),
        "valid_range": [0, NODATA - 1],
    }


def open_labels(path: Path) -> zarr.Array[Any]:
    """Open the labels (y, x) uint8 of a store for reading; ``write_labels`` writes them.

    Raises:
        InputError: there is no store.
    """
    return open_store_raster(path, LABELS_ARRAY)


def open_store_raster(path: Path, name: str) -> zarr.Array[Any]:
    """Open the labels (y, x) or a layer, (y, x) or (class, y, x), of a store for reading.

    Raises:
        InputError: there is no store, or no such array in it.
    """
    return _open_array(path, name, "r")


def list_store_rasters(path: Path) -> tuple[str, ...]:
    """Return the names of the labels and layers in the group at ``path``, labels first."""
    return tuple(name for name in (LABELS_ARRAY, *LAYERS) if _is_array(path / name))


def write_labels(path: Path, window: Window, labels: NDArray[np.uint8]) -> None:
    """Write labels (height, width) into a window of a store, as ``write_store_raster`` does.

    Args:
        path: the store.
        window: whole Zarr chunks or shards.
        labels: (height, width) of the window.

    Raises:
        ValueError: the shape is not that of the window, or the window cuts Zarr chunks.
    """
    write_store_raster(path, LABELS_ARRAY, window, labels)


def write_store_raster(path: Path, name: str, window: Window, values: NDArray[Any]) -> None:
    """Write values into a window of the labels or of a layer. Zarr chunks of nothing but nodata take no space.

    Args:
        path: the store.
        name: name of the array.
        window: whole Zarr chunks or shards. Those of the last row and column end with the scene.
        values: (height, width) of the window, or (classes, height, width), of the type of the array.

    Raises:
        ValueError: type or shape is another, or the window cuts Zarr chunks. Two writers of one chunk each read, change
            and write it, and the slower one silently undoes the pixels of the faster one.
    """
    array = _open_array(path, name, "r+")
    shape = (*array.shape[:-2], *window.shape)
    if values.shape != shape or values.dtype != array.dtype:
        raise ValueError(
            f"{window} of {name} takes {array.dtype} of shape {shape}, got {values.dtype} of shape {values.shape}"
        )
    _check_whole_chunks(window, array.shape[-2:], (array.shards or array.chunks)[-2:])
    array[(..., *window.to_slices())] = values


def _is_array(path: Path) -> bool:
    return (path / "zarr.json").is_file() or (path / ".zarray").is_file()


def _open_array(path: Path, name: str, mode: Literal["r", "r+"]) -> zarr.Array[Any]:
    if not _is_array(path / name):
        raise InputError(
            "no segmentation store",
            got=path,
            expected=f"a Zarr group with the variable {name!r}",
            fix="check the path, or segment the scene first",
        )
    return zarr.open_array(path / name, mode=mode)


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
