"""A scene: one or more rasters and bands, seen as one array on one grid, and reading windows of it."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from math import isfinite
from typing import Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from seamline.pipeline.geometry.window import Window, mirror_indices
from seamline.pipeline.raster_io.content import hash_content
from seamline.pipeline.raster_io.window_reader import BadBlock, read_file_window


@dataclass(frozen=True)
class Band:
    """One band of one file. The value of a pixel is its number × ``scale`` + ``offset``.

    ``name`` is the model's band name (STAC common names: blue, nir, swir16, …), ``path`` what rasterio opens,
    ``index`` counts from 1. A pixel equal to ``nodata`` has no data in this band (None: nothing is compared).
    ``version`` is the ETag of an object, another one for other content: no other object is read in its place.
    """

    name: str
    path: str
    index: int
    scale: float
    offset: float
    nodata: float | None
    version: str | None = None

    def __post_init__(self) -> None:
        if self.index < 1:
            raise ValueError(f"band {self.name!r}: indexes count from 1, got {self.index}")
        if not (isfinite(self.scale) and isfinite(self.offset) and self.scale != 0):
            raise ValueError(f"band {self.name!r}: scale {self.scale} and offset {self.offset} give no values")


@dataclass(frozen=True)
class Scene:
    """What is segmented: bands in the model's order on one ``grid``.

    ``id`` is safe as a folder name; ``dtype`` is numpy's name for the type of the raw pixels; ``datetime``
    the acquisition (UTC) if known; ``aoi`` WKT polygons in the CRS of the grid, None for everywhere;
    ``source`` the address of what the user named. Picklable and small: it holds no open file.
    """

    id: str
    grid: GeoBox
    bands: tuple[Band, ...]
    dtype: str
    datetime: datetime | None
    aoi: str | None
    warnings: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.id):
            raise ValueError(f"{self.id!r} is not safe as the name of a folder")
        if not self.bands:
            raise ValueError(f"scene {self.id}: no bands")
        if self.datetime is not None and self.datetime.tzinfo is None:
            raise ValueError(f"scene {self.id}: {self.datetime} has no time zone")
        np.dtype(self.dtype)

    def compute_digest(self) -> str:
        """SHA-256 (hex) of the content and its interpretation: files, bands, scales, nodata, grid, AOI.

        Independent of the scene's name and place. Large and remote files are sampled, see ``hash_content``.
        """
        indexes: dict[tuple[str, str | None], list[int]] = {}
        for band in self.bands:
            indexes.setdefault((band.path, band.version), []).append(band.index)
        contents = {path: hash_content(path, of_file, version) for (path, version), of_file in indexes.items()}
        meaning = {
            "bands": [
                (b.name, contents[b.path], b.index, repr(b.scale), repr(b.offset), repr(b.nodata)) for b in self.bands
            ],
            "grid": (
                tuple(self.grid.shape),
                [repr(float(v)) for v in self.grid.transform[:6]],
                str(self.grid.crs),
            ),
            "aoi": self.aoi,
            "dtype": self.dtype,
        }
        return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Block:
    """The pixels of a window: ``pixels`` (bands, height, width) raw; ``valid`` (height, width), True = data.

    ``wanted`` (height, width) is what of the valid pixels lies in the area of interest: these get a label, while the
    network sees the others around them. Where the window overhangs the scene all are mirrored at its edge. ``bad``
    lists what could not be read.
    """

    pixels: NDArray[Any]
    valid: NDArray[np.bool_]
    label_mask: NDArray[np.bool_]
    bad_blocks: tuple[BadBlock, ...]


def read_block(scene: Scene, window: Window, on_bad_block: Literal["fail", "nodata"] = "fail") -> Block:
    """Read a window, which may overhang the scene on any side; one request to GDAL for each file.

    A pixel is valid where any band has data, as in GDAL, and no file fails there; wanted if its centre lies in the
    AOI, too.
    A block of a file that cannot be read raises ``BadBlockError``; with ``on_bad_block="nodata"`` it is
    listed and its pixels are not valid (not for remote files, where an outage would pass for missing data).
    Safe to call from several threads.
    """
    if window.pixel_count == 0:
        raise ValueError(f"{window} holds no pixels")
    rows = mirror_indices(window.row, window.stop_row, scene.grid.shape[0])
    cols = mirror_indices(window.col, window.stop_col, scene.grid.shape[1])
    top, left = int(rows.min()), int(cols.min())
    inside = Window(top, left, int(rows.max()) + 1 - top, int(cols.max()) + 1 - left)

    pixels = np.empty((len(scene.bands), *inside.shape), dtype=scene.dtype)
    valid, lost = np.zeros(inside.shape, dtype=bool), np.zeros(inside.shape, dtype=bool)
    bad: list[BadBlock] = []
    for (path, version, nodata), positions in _group_by_file(scene.bands).items():
        indexes = [scene.bands[p].index for p in positions]
        value = None if nodata is None else float(nodata)
        keep_going = on_bad_block == "nodata"
        part = read_file_window(path, indexes, value, scene.grid, inside, keep_going=keep_going, version=version)
        pixels[positions] = part.pixels
        valid |= part.has_data.any(axis=0)
        lost |= part.unreadable
        bad += part.bad_blocks
    valid &= ~lost
    wanted = valid if scene.aoi is None else valid & _aoi_mask(scene.aoi, scene.grid, inside)
    if inside != window:
        rows, cols = rows - top, cols - left
        pixels = pixels.take(rows, axis=1).take(cols, axis=2)
        valid, wanted = (mask.take(rows, axis=0).take(cols, axis=1) for mask in (valid, wanted))
    return Block(pixels, valid, wanted, tuple(bad))


def _group_by_file(bands: tuple[Band, ...]) -> dict[tuple[str, str | None, str | None], list[int]]:
    """Positions of the bands that one request can read; nodata as text, since NaN equals nothing."""
    groups: dict[tuple[str, str | None, str | None], list[int]] = {}
    for position, band in enumerate(bands):
        key = band.path, band.version, None if band.nodata is None else repr(band.nodata)
        groups.setdefault(key, []).append(position)
    return groups


def _aoi_mask(aoi: str, grid: GeoBox, window: Window) -> NDArray[np.bool_]:
    """(height, width): whether the centre of each pixel lies in the AOI, the same for every window."""
    area = _prepare_aoi(aoi, threading.get_ident())
    corners = [(window.col, window.row), (window.stop_col, window.row)]
    corners += [(window.stop_col, window.stop_row), (window.col, window.stop_row)]
    box = shapely.Polygon([grid.transform @ corner for corner in corners])
    if shapely.contains(area, box):
        return np.ones(window.shape, dtype=bool)
    if not shapely.intersects(area, box):
        return np.zeros(window.shape, dtype=bool)
    a, b, c, d, e, f = grid.transform[:6]
    inside = np.empty(window.shape, dtype=bool)
    col = np.arange(window.col, window.stop_col) + 0.5
    for number in range(window.height):  # row by row: coordinates take sixteen times the memory of what they decide
        row = window.row + number + 0.5
        inside[number] = shapely.contains_xy(area, a * col + b * row + c, d * col + e * row + f)
    return inside


@lru_cache(maxsize=32)
def _prepare_aoi(aoi: str, thread: int) -> shapely.Geometry:
    # One for each thread: the index of a prepared geometry is built on first use.
    area = shapely.from_wkt(aoi)
    shapely.prepare(area)
    return area
