"""Look up the results of a scene at one location."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pyproj import CRS, Transformer
from rasterio.io import DatasetReader
from rasterio.windows import Window

from seamline.flows.serving.results import LAYER_FILES, PROBABILITIES_FILE, NotFound, ServedResults
from seamline.flows.serving.tiles import open_geotiff
from seamline.pipeline.common.layout import COG
from seamline.pipeline.products.layers import LAYERS, PROBABILITIES, Layer


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
    item = results.open_item(scene)
    with open_geotiff(results.find_file(scene, COG)) as file:
        row, col = _find_pixel(file, lon, lat)
        outline = _compute_outline(file, row, col)
    label = _read_numbers(results.find_file(scene, COG), row, col)[0]
    names = {entry.value: entry.name for entry in item.properties.classes}
    description: dict[str, Any] = {
        "scene": scene,
        "row": row,
        "col": col,
        "outline": outline,
        "value": label,
        "class": names.get(label),
    }
    for name in (name for name in LAYER_FILES if name in LAYERS):
        if results.has_file(scene, LAYER_FILES[name]):
            description[name] = _read_values(results.find_file(scene, LAYER_FILES[name]), row, col, LAYERS[name])[0]
    if results.has_file(scene, PROBABILITIES_FILE):
        values = _read_values(results.find_file(scene, PROBABILITIES_FILE), row, col, LAYERS[PROBABILITIES])
        description["probabilities"] = dict(zip(names.values(), values, strict=False))
    return description


def _find_pixel(file: DatasetReader, lon: float, lat: float) -> tuple[int, int]:
    """Return row and column of the pixel at a location."""
    if file.crs is None:
        raise NotFound("this scene has no place on Earth")
    to_grid = Transformer.from_crs("OGC:CRS84", CRS.from_wkt(file.crs.to_wkt()), always_xy=True)
    for turn in (0, -360, 360):  # a grid in degrees may reach beyond ±180
        col, row = ~file.transform @ to_grid.transform((lon + 180) % 360 - 180 + turn, lat)
        if 0 <= row < file.height and 0 <= col < file.width:  # False for NaN, which PROJ returns outside of its area
            return int(row), int(col)
    raise NotFound(f"{lon:.5f}, {lat:.5f} lies beside the scene")


def _compute_outline(file: DatasetReader, row: int, col: int) -> list[list[float]]:
    """Return the pixel's corners as a closed ring of [lon, lat]; longitudes may exceed 180 to keep it in one piece."""
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
