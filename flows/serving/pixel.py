"""Look up the results of a scene at one location."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from pyproj import CRS, Transformer
from pyproj.enums import TransformDirection
from rasterio.io import DatasetReader
from rasterio.windows import Window

from seamline.flows.serving.results import LAYER_FILES, PROBABILITIES_FILE, NotFound, ServedResults
from seamline.flows.serving.tiles import open_geotiff
from seamline.pipeline.common.layout import COG
from seamline.pipeline.products.layers import LAYERS, PROBABILITIES, Layer
from seamline.pipeline.results.result_item import ResultItem

PIXEL_FILES = [*(file for name, file in LAYER_FILES.items() if name in LAYERS), PROBABILITIES_FILE]
"""Files beside the labels whose pixels are told."""


class PixelLocator:
    """Finds the pixels of rasters at locations. It keeps PROJ's transformers, so it is for one thread only."""

    def __init__(self) -> None:
        self._transformers: dict[str, Transformer] = {}

    def locate(
        self, crs: str, transform: Affine, shape: tuple[int, int], lon: float, lat: float
    ) -> tuple[int, int] | None:
        """Return row and column of the pixel of a grid at a location, or None where it has none.

        Args:
            crs: CRS of the grid, as WKT or code.
            transform: From column and row to coordinates.
            shape: Rows and columns.
            lon: Longitude in degrees (WGS 84); values beyond ±180 wrap.
            lat: Latitude in degrees (WGS 84).
        """
        to_grid = self._find_transformer(crs)
        for turn in (0, -360, 360):  # a grid in degrees may reach beyond ±180
            x, y = to_grid.transform((lon + 180) % 360 - 180 + turn, lat)
            col, row = ~transform @ (x, y)
            if 0 <= row < shape[0] and 0 <= col < shape[1]:  # False for NaN, which PROJ returns outside of its area
                return int(row), int(col)
        return None

    def find_centre(self, crs: str, transform: Affine, row: int, col: int) -> tuple[float, float]:
        """Return longitude and latitude in degrees of the centre of a pixel.

        Args:
            crs: CRS of the grid, as WKT or code.
            transform: From column and row to coordinates.
            row: Row of the pixel.
            col: Column of the pixel.
        """
        x, y = transform @ (col + 0.5, row + 0.5)
        lon, lat = self._find_transformer(crs).transform(x, y, direction=TransformDirection.INVERSE)
        return float(lon), float(lat)

    def _find_transformer(self, crs: str) -> Transformer:
        if crs not in self._transformers:
            self._transformers[crs] = Transformer.from_crs("OGC:CRS84", crs, always_xy=True)
        return self._transformers[crs]

    def locate_in_file(self, file: DatasetReader, lon: float, lat: float) -> tuple[int, int] | None:
        """Return row and column of a file's pixel at a location, or None where it has none.

        Args:
            file: A raster.
            lon: Longitude in degrees (WGS 84); values beyond ±180 wrap.
            lat: Latitude in degrees (WGS 84).

        Raises:
            NotFound: The file has no CRS.
        """
        if file.crs is None:
            raise NotFound("this scene has no place on Earth")
        return self.locate(file.crs.to_wkt(), file.transform, file.shape, lon, lat)


def describe_pixel(results: ServedResults, scene: str, lon: float, lat: float) -> dict[str, Any]:
    """Describe the pixel at a location.

    Args:
        results: The catalogue.
        scene: Id of the scene.
        lon: Longitude in degrees (WGS 84); values beyond ±180 wrap.
        lat: Latitude in degrees (WGS 84).

    Returns:
        Scene, row, column, ``outline`` (a ring of [lon, lat] that is not cut at the antimeridian), label ``value``,
        ``class``, and the other layers that the scene has: shares and counts as numbers, days in ISO 8601, and
        ``probabilities`` by class. Class and layers are None where there is no data.

    Raises:
        NotFound: The location is outside of the scene, or there is no such scene.
        DamagedResult: A result is damaged.
    """
    item, files = results.find_files(scene, [COG, *PIXEL_FILES])
    if COG not in files:
        raise NotFound(f"scene {scene} has no {COG}")
    with open_geotiff(files[COG]) as file:
        place = PixelLocator().locate_in_file(file, lon, lat)
        if place is None:
            raise NotFound(f"{lon:.5f}, {lat:.5f} lies beside the scene")
        outline = compute_outline(file, *place)
    row, col = place
    description = {"scene": scene, "row": row, "col": col, "outline": outline}
    return description | read_layers(item, files, row, col)


def read_layers(item: ResultItem, files: Mapping[str, Path], row: int, col: int) -> dict[str, Any]:
    """Return ``value``, ``class`` and the other layers of a pixel, as ``describe_pixel`` does.

    Args:
        item: The item of the scene.
        files: Files of the scene by their names: its labels, and layers.
        row: Row of the pixel.
        col: Column of the pixel.
    """
    label = read_label(files[COG], row, col)
    names = {entry.value: entry.name for entry in item.properties.classes}
    description: dict[str, Any] = {"value": label, "class": names.get(label)}
    for name, file in LAYER_FILES.items():
        if name in LAYERS and file in files:
            description[name] = _read_values(files[file], row, col, LAYERS[name])[0]
    if PROBABILITIES_FILE in files:
        values = _read_values(files[PROBABILITIES_FILE], row, col, LAYERS[PROBABILITIES])
        description["probabilities"] = dict(zip(names.values(), values, strict=False))
    return description


def read_label(path: Path, row: int, col: int) -> int:
    """Return the label of a pixel.

    Args:
        path: File of labels.
        row: Row of the pixel.
        col: Column of the pixel.
    """
    return _read_numbers(path, row, col)[0]


def compute_outline(file: DatasetReader, row: int, col: int) -> list[list[float]]:
    """Return the corners of a pixel as a closed ring of [lon, lat]; longitudes may exceed 180 to keep it in one piece.

    Args:
        file: A raster with a CRS.
        row: Row of the pixel.
        col: Column of the pixel.
    """
    corners = [file.transform @ (col + right, row + down) for right, down in ((0, 0), (1, 0), (1, 1), (0, 1), (0, 0))]
    to_degrees = Transformer.from_crs(CRS.from_wkt(file.crs.to_wkt()), "OGC:CRS84", always_xy=True)
    lon, lat = to_degrees.transform(*np.transpose(corners))
    ring: list[list[float]] = np.round(np.stack([np.unwrap(lon, period=360), lat], 1), 8).tolist()
    return ring


def _read_numbers(path: Path, row: int, col: int) -> list[int]:
    """Return the digital number of a pixel in each band."""
    with open_geotiff(path) as file:
        return [int(number) for number in file.read(window=Window(col, row, 1, 1)).ravel()]


def _read_values(path: Path, row: int, col: int, layer: Layer) -> list[float | str | None]:
    """Return the value of a pixel in each band of a layer, None for nodata."""
    return [layer.decode(number) for number in _read_numbers(path, row, col)]
