"""A scene: bands of one or more rasters, seen as one array on one grid, and reading windows of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.background import call_in_background
from seamline.pipeline.common.time_span import TimeSpan
from seamline.pipeline.geometry.area_mask import mask_area
from seamline.pipeline.geometry.window import Window, find_mirrored, mirror_pixels
from seamline.pipeline.raster_io.block_cache import BlockCache
from seamline.pipeline.raster_io.content import hash_content
from seamline.pipeline.raster_io.file_stamp import FileStamp, describe_changed_file
from seamline.pipeline.raster_io.window_reader import BadBlock, FileWindow, read_file_window
from seamline.pipeline.storage.confinement import Confinement, confine

_RGB = ("red", "green", "blue")


@dataclass(frozen=True)
class Band:
    """One band of one file. The value of a pixel is its number × ``scale`` + ``offset``.

    Attributes:
        name: Name in the model: a STAC common name such as blue, nir, swir16.
        path: What rasterio opens.
        index: Index of the band in the file, counted from 1.
        scale: Factor from numbers to values.
        offset: Summand from numbers to values.
        nodata: Number of pixels without data in this band; None if there is none.
        version: ETag of the object at ``path``, whose other versions are not read; None outside of object storage.
        stamps: What the local files at ``path`` were when the scene was opened; others are not read.
    """

    name: str
    path: str
    index: int
    scale: float
    offset: float
    nodata: float | None
    version: str | None = None
    stamps: tuple[FileStamp, ...] = ()

    def __post_init__(self) -> None:
        if self.index < 1:
            raise ValueError(f"band {self.name!r}: indexes count from 1, got {self.index}")
        if not (isfinite(self.scale) and isfinite(self.offset) and self.scale != 0):
            raise ValueError(f"band {self.name!r}: scale {self.scale} and offset {self.offset} give no values")


@dataclass(frozen=True)
class Scene:
    """What is segmented: bands in the order of the model, on one grid. Picklable and small; holds no open file.

    Attributes:
        id: Name of the scene, safe as the name of a folder.
        grid: Grid of the scene; files on other grids are interpolated to it.
        bands: Bands in the order of the model.
        dtype: numpy's name of a type that holds the pixels of all bands.
        acquired: When it was taken, if known.
        aoi: Polygons as WKT in the CRS of the grid; None for the whole scene.
        warnings: What was assumed while the scene was opened.
        source: Address of what the user named.
        radiometry: What the numbers of the bands mean and what says so, in words.
        confinement: What its files may be, wherever they are opened; None if they may be any.
    """

    id: str
    grid: GeoBox
    bands: tuple[Band, ...]
    dtype: str
    acquired: TimeSpan | None
    aoi: str | None
    warnings: tuple[str, ...]
    source: str
    radiometry: str = ""
    confinement: Confinement | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.id):
            raise ValueError(f"{self.id!r} is not safe as the name of a folder")
        if not self.bands:
            raise ValueError(f"scene {self.id}: no bands")
        np.dtype(self.dtype)

    @property
    def datetime(self) -> datetime | None:
        """When it was taken in UTC, or when that began; None if unknown."""
        return None if self.acquired is None else self.acquired.start

    def list_local_files(self) -> list[Path]:
        """Return the files on disk that the scene is read from."""
        return list(dict.fromkeys(Path(stamp.path) for band in self.bands for stamp in band.stamps))

    def describe_change(self) -> str | None:
        """Return in words what happened to a local file since the scene was opened on this machine; None if nothing."""
        stamps = dict.fromkeys(stamp for band in self.bands for stamp in band.stamps)
        return describe_changed_file(stamps, same_machine=True)

    def compute_digest(self) -> str:
        """Return the SHA-256 (hex) of content and interpretation: files, bands, scales, nodata values, grid and AOI.

        It does not depend on the name and the place of the scene. Several files are read at once, all of each; remote
        ones are sampled, see ``hash_content``.
        """
        indexes: dict[tuple[str, str | None], list[int]] = {}
        for band in self.bands:
            indexes.setdefault((band.path, band.version), []).append(band.index)

        def hash_file(key: tuple[str, str | None]) -> str:
            path, version = key
            with confine(self.confinement):  # of this thread
                return hash_content(path, indexes[key], version)

        running = {path: call_in_background(hash_file, (path, version)) for path, version in indexes}
        contents = {path: digest.result() for path, digest in running.items()}
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
    """The pixels of a window. Where the window overhangs the scene, all arrays are mirrored at the edge of the scene.

    Attributes:
        pixels: Raw pixels, shape (bands, height, width). Floats without data in a band are NaN.
        valid: True = data, shape (height, width).
        label_mask: True where a valid pixel lies in the area of interest and gets a label, shape (height, width). The
            network sees the other pixels as context.
        bad_blocks: Blocks of files that could not be read.
    """

    pixels: NDArray[Any]
    valid: NDArray[np.bool_]
    label_mask: NDArray[np.bool_]
    bad_blocks: tuple[BadBlock, ...]


def read_block(
    scene: Scene, window: Window, on_bad_block: Literal["fail", "nodata"] = "fail", cache: BlockCache | None = None
) -> Block:
    """Read a window of a scene. May be called from several threads.

    A pixel is valid where any band has data, as in GDAL, and every file can be read. It gets a label if its centre also
    lies in the area of interest.

    Args:
        scene: The scene.
        window: Pixels to read; may overhang the scene on any side.
        on_bad_block: What happens where a block of a file cannot be read: "fail" raises, "nodata" lists the block and
            makes its pixels invalid. Blocks of remote files always raise, because an outage of the network must not
            pass for missing data.
        cache: Decoded blocks of the windows of a run; None for a window that is read alone.

    Returns:
        Pixels (bands, height, width) as digital numbers with masks (height, width). What overhangs is mirrored.

    Raises:
        BadBlockError: A block cannot be read, or a file is not the one that was opened.
    """
    if window.pixel_count == 0:
        raise ValueError(f"{window} holds no pixels")
    inside = find_mirrored(window, scene.grid.shape)
    is_within = inside.intersection(window) == inside
    whole = np.empty((len(scene.bands), *(window if is_within else inside).shape), scene.dtype)
    pixels = whole[:, *inside.relative_to(window).to_slices()] if is_within else whole
    valid, unreadable = np.zeros(inside.shape, dtype=bool), np.zeros(inside.shape, dtype=bool)
    bad: list[BadBlock] = []
    for positions in _group_by_file(scene.bands).values():
        target = pixels[positions[0] : positions[-1] + 1] if positions == sorted(positions) else None
        part = _read_bands(scene, positions, inside, on_bad_block == "nodata", cache, target)
        if part.pixels is not target:
            pixels[positions] = part.pixels
        valid |= part.has_data.any(axis=0)
        unreadable |= part.unreadable
        bad += part.bad_blocks
    valid &= ~unreadable
    label_mask = valid if scene.aoi is None else valid & mask_area(scene.aoi, scene.grid, inside)
    pixels = mirror_pixels(pixels, inside, window, scene.grid.shape, whole if is_within else None)
    valid, label_mask = (mirror_pixels(mask, inside, window, scene.grid.shape) for mask in (valid, label_mask))
    return Block(pixels, valid, label_mask, tuple(bad))


def _read_bands(
    scene: Scene,
    positions: list[int],
    window: Window,
    keep_going: bool,
    cache: BlockCache | None,
    out: NDArray[Any] | None,
) -> FileWindow:
    """Read the bands at these positions, which one request can read, as ``read_file_window`` does."""
    first = scene.bands[positions[0]]
    with confine(scene.confinement):
        return read_file_window(
            first.path,
            [scene.bands[position].index for position in positions],
            None if first.nodata is None else float(first.nodata),
            scene.grid,
            window,
            keep_going=keep_going,
            version=first.version,
            stamps=first.stamps,
            cache=cache,
            out=out,
        )


def _group_by_file(bands: tuple[Band, ...]) -> dict[tuple[str, str | None, str | None], list[int]]:
    """Return the positions of the bands that one request can read, by (path, version, nodata).

    The nodata value is a text in the key, because NaN does not equal itself.
    """
    groups: dict[tuple[str, str | None, str | None], list[int]] = {}
    for position, band in enumerate(bands):
        key = band.path, band.version, None if band.nodata is None else repr(band.nodata)
        groups.setdefault(key, []).append(position)
    return groups


def choose_display_bands(names: Sequence[str]) -> list[int]:
    """Return the positions of three bands to show: red, green and blue if all exist, otherwise the first bands."""
    if has_true_color(names):
        return [names.index(name) for name in _RGB]
    return [min(position, len(names) - 1) for position in range(3)]


def has_true_color(names: Sequence[str]) -> bool:
    """Return whether the bands of these names include red, green and blue."""
    return set(_RGB) <= set(names)
