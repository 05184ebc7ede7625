"""Read labels and layers of a published result window by window, from its Zarr store or its COG."""

from __future__ import annotations

import posixpath
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from seamline.pipeline.common.layout import ZARR
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.raster_io.gdal import gdal_environment, open_cached_raster, read_pixels
from seamline.pipeline.results.open import PublishedResult, catch_damage
from seamline.pipeline.results.stored_results import open_raster_array
from seamline.pipeline.storage.s3_access import translate_errors


@dataclass(frozen=True)
class LayerReader:
    """Reads one array (y, x) of a result.

    Attributes:
        result: The result.
        name: Name of the array, a key of ``result.arrays``.
    """

    result: PublishedResult
    name: str

    @property
    def _address(self) -> str:
        return self.result.arrays[self.name]

    @cached_property
    def _array(self) -> zarr.Array[Any]:
        return open_raster_array(self._address, self.name)

    def read(self, window: Window) -> NDArray[Any]:
        """Return the digital numbers (height, width) of a window that lies in the raster.

        Raises:
            InputError: The file is damaged.
        """
        name = posixpath.basename(self._address)
        with self._name_server(), catch_damage(self.result.folder, name):
            if name == ZARR:
                return np.asarray(self._array[window.to_slices()])
            with gdal_environment(self._address):
                return np.asarray(read_pixels(open_cached_raster(self._address), [1], window)[0])

    def _name_server(self) -> AbstractContextManager[None]:
        """Turn errors of object storage into those that name the bucket."""
        folder = self.result.folder
        return nullcontext() if isinstance(folder, Path) else translate_errors(folder.bucket, folder.access)
