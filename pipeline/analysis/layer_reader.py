"""Read labels and layers of a published result window by window, from its Zarr store or its COG."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from rasterio.windows import Window as RasterWindow

from seamline.pipeline.common.layout import ZARR
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.zarr_store import open_store_raster
from seamline.pipeline.raster_io.gdal import gdal_environment
from seamline.pipeline.results.label_raster import open_label_raster
from seamline.pipeline.results.open import PublishedResult, catch_damage


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
    def _path(self) -> Path:
        return self.result.arrays[self.name]

    @cached_property
    def _array(self) -> zarr.Array[Any]:
        return open_store_raster(self._path, self.name)

    def read(self, window: Window) -> NDArray[Any]:
        """Return the digital numbers (height, width) of a window that lies in the raster.

        Raises:
            InputError: The file is damaged.
        """
        with catch_damage(self.result.folder, self._path.name):
            if self._path.name == ZARR:
                return np.asarray(self._array[window.to_slices()])
            with gdal_environment(str(self._path)), open_label_raster(self._path, self.name) as file:
                place = RasterWindow(window.col, window.row, window.width, window.height)
                return np.asarray(file.read(1, window=place))
