"""The labels of a scene, and layers beside them, as a Zarr store that GDAL, xarray and GeoZarr readers find on the map.

::

    segmentation.zarr/segmentation           (y, x) uint8
                      probabilities          (class, y, x) uint8, and other layers, where asked for
                      y, x, spatial_ref      where it lies (``conventions.py``)
                      ovr_2x/…, ovr_4x/…     the same at a half, a quarter, … of the resolution (``overviews.py``)
"""

from __future__ import annotations

import re
import shutil
import warnings
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
from seamline.pipeline.products.layers import LAYER_SCALE, LAYERS

LABELS_ARRAY = "segmentation"
"""The name of the array of labels in the group."""

_SEAL = "seamline"


@dataclass(frozen=True)
class ZarrLayout:
    """How arrays lie on disk: square Zarr chunks of ``chunk`` pixels, in shards of ``shard`` pixels or in none.

    GDAL reads shards from 3.13 on, version 3 of the format from 3.11 on; older GDAL and QGIS read version 2.
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
    def unit(self) -> int:
        """Edge of what one writer writes at once, or a divisor of it."""
        return self.shard or self.chunk

    def raster(
        self, group: zarr.Group, name: str, shape: tuple[int, ...], attributes: Mapping[str, JSON]
    ) -> zarr.Array[Any]:
        """Create a uint8 array (…, height, width), all of it nodata."""
        front = (1,) * (len(shape) - 2)
        return self.array(
            group, name, shape, ("class", "y", "x")[-len(shape) :], attributes,
            chunks=(*front, self.chunk, self.chunk),
            shards=None if self.shard is None else (*front, self.shard, self.shard),
            dtype="uint8", fill_value=NODATA,
            # Both with a checksum, so that a flipped byte is an error and not another label.
            compressors=Zlib(1) if self.zarr_format == 2 else zarr.codecs.ZstdCodec(level=3, checksum=True),
        )  # fmt: skip

    def array(
        self,
        group: zarr.Group,
        name: str,
        shape: tuple[int, ...],
        dims: tuple[str, ...],
        attributes: Mapping[str, JSON],
        **layout: Any,
    ) -> zarr.Array[Any]:
        """Create an array whose dimensions have names, as this version of the format writes them."""
        if self.zarr_format == 2:
            attributes = {**attributes, "_ARRAY_DIMENSIONS": list(dims)}
            return group.create_array(name, shape=shape, attributes=dict(attributes), **layout)
        return group.create_array(name, shape=shape, attributes=dict(attributes), dimension_names=dims, **layout)


def create_store(
    path: Path,
    grid: GeoBox,
    classes: Sequence[LabelClass],
    storage: ZarrLayout,
    *,
    title: str,
    layers: Sequence[str] = (),
) -> None:
    """Write the template: ``segmentation`` (y, x) uint8 and layers on ``grid``, every pixel nodata.

    The folder appears whole or not at all. Raises ``FileExistsError`` where it exists.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists; remove it to start over, or write to it with write_raster")
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    attributes = {"Conventions": "CF-1.11", "title": title, **build_convention_attributes(grid)}
    group = zarr.create_group(part, attributes=attributes, zarr_format=storage.zarr_format)
    create_level_arrays(group, grid, classes, storage, layers)
    part.rename(path)


def create_level_arrays(
    group: zarr.Group, grid: GeoBox, classes: Sequence[LabelClass], storage: ZarrLayout, layers: Sequence[str]
) -> None:
    """Write the arrays of one resolution into a group: labels and layers, empty, and where they lie."""
    placed = {**build_crs_attribute(grid), "grid_mapping": GRID_MAPPING, **build_convention_attributes(grid)}
    flags, (height, width) = build_class_flags(classes), grid.shape
    storage.raster(group, LABELS_ARRAY, (height, width), {"long_name": "segmentation label", **flags, **placed})
    for layer in (LAYERS[name] for name in layers):
        shape = layer.shape(len(classes), height, width)
        storage.raster(group, layer.name, shape, {"long_name": layer.title, **_LAYER_DECODING, **placed})
    storage.array(group, GRID_MAPPING, (), (), build_grid_mapping(grid), dtype="int32")
    for name, (values, attributes) in compute_coordinates(grid).items():
        axis = storage.array(
            group, name, values.shape, (name,), attributes,
            chunks=values.shape, dtype="float64", fill_value=float("nan"),
        )  # fmt: skip
        axis[:] = values
    if any(LAYERS[name].per_class for name in layers):
        named = {"long_name": "label", **{key: flags[key] for key in ("flag_values", "flag_meanings")}}
        count = len(classes)
        labels = storage.array(
            group, "class", (count,), ("class",), named, chunks=(count,), dtype="uint8", fill_value=None
        )
        labels[:] = np.array([label.value for label in classes], np.uint8)


def open_labels(path: Path) -> zarr.Array[Any]:
    """The labels (y, x) of the store at ``path``, uint8, to read; to write use ``write_labels``.

    Raises ``InputError`` where there is no store.
    """
    return open_store_raster(path, LABELS_ARRAY)


def open_store_raster(path: Path, name: str) -> zarr.Array[Any]:
    """The labels (y, x) or a layer, (y, x) or (class, y, x), uint8, to read. Raises ``InputError`` if there is none."""
    return _open_array(path, name, "r")


def list_store_rasters(path: Path) -> tuple[str, ...]:
    """The names of the labels and layers in the group at ``path``."""
    return tuple(name for name in (LABELS_ARRAY, *LAYERS) if _is_array(path / name))


def write_labels(path: Path, window: Window, labels: NDArray[np.uint8]) -> None:
    """``write_store_raster`` of the labels (height, width)."""
    write_store_raster(path, LABELS_ARRAY, window, labels)


def write_store_raster(path: Path, name: str, window: Window, values: NDArray[np.uint8]) -> None:
    """Write ``values`` (…, height, width) into ``window``; chunks of nothing but nodata take no space.

    The window covers whole Zarr chunks or shards, the scene's last row and column of them as far as the scene goes.
    Raises ``ValueError`` otherwise: two writers of one chunk read, change and write it back, and the slower
    one undoes the faster one's pixels without an error.
    """
    array = _open_array(path, name, "r+")
    if values.shape != (*array.shape[:-2], *window.shape) or values.dtype != np.uint8:
        raise ValueError(f"{window} takes uint8 labels of shape {window.shape}, got {values.dtype} {values.shape}")
    _check_whole_chunks(window, array.shape[-2:], (array.shards or array.chunks)[-2:])
    array[(..., *window.to_slices())] = values


def seal(path: Path, attributes: Mapping[str, JSON]) -> None:
    """Mark the store complete, after all labels: the group's attribute ``seamline`` holds ``attributes``.

    Consolidates the metadata on the way, once, so that remote readers open the store with one request. The
    seal is the last write.
    """
    with warnings.catch_warnings():
        # Readers use it although the v3 specification does not have it yet.
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        group = zarr.consolidate_metadata(str(path))
        group.update_attributes({_SEAL: {**attributes, "sealed": True}})


def is_sealed(path: Path) -> bool:
    """True where the store at ``path`` exists and was sealed."""
    if not any((path / name).is_file() for name in ("zarr.json", ".zgroup")):
        return False
    mark = zarr.open_group(path, mode="r", use_consolidated=False).attrs.get(_SEAL)
    return isinstance(mark, Mapping) and mark.get("sealed") is True


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


def build_class_flags(classes: Sequence[LabelClass]) -> dict[str, JSON]:
    """The attributes that tell of the labels' meaning, in the words of CF."""
    # No _FillValue: xarray would turn uint8 into float32. GDAL reads the fill value of Zarr itself, rioxarray
    # the attribute nodata.
    return {
        "nodata": NODATA,
        "flag_values": [label.value for label in classes],
        "flag_meanings": " ".join(re.sub(r"[^\w.+@-]+", "_", label.name.strip()) for label in classes),
        "flag_colors": " ".join(label.hex for label in classes),
        "valid_range": [0, NODATA - 1],
    }


_LAYER_DECODING: dict[str, JSON] = {
    "nodata": NODATA,
    "_FillValue": NODATA,
    "scale_factor": LAYER_SCALE,
    "add_offset": 0.0,
}
"""What makes readers see values in [0, 1] and NaN."""
