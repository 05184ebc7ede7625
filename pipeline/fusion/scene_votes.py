"""Read what scenes published, on disk or in object storage, and fuse it to a part of a map."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import NODATA, LabelClass
from seamline.pipeline.common.errors import DamagedSceneError, InputError, RunError
from seamline.pipeline.common.layout import COG, ITEM, RECORD, ZARR
from seamline.pipeline.fusion.fusing import (
    CERTAIN,
    MOST_OBSERVATIONS,
    TAPER_WIDTH,
    UNKNOWN_DATE,
    ChunkFusion,
    FusedChunk,
    ScenePixels,
    compute_taper,
)
from seamline.pipeline.geometry.map_grid import MapGrid
from seamline.pipeline.geometry.warp import NOWHERE, POSITION_PARTS, locate_pixels
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.mosaic.map_record import MapScene
from seamline.pipeline.products.layers import PROBABILITIES
from seamline.pipeline.products.zarr_store import LABELS_ARRAY
from seamline.pipeline.raster_io.gdal import describe_error, gdal_environment, open_cached_raster, read_pixels
from seamline.pipeline.results.stored_results import open_raster_array
from seamline.pipeline.storage.damage import READ_ERRORS
from seamline.pipeline.storage.digests import describe_file
from seamline.pipeline.storage.object_store import ObjectFolder, is_object_url, split_object_url
from seamline.pipeline.storage.s3_access import translate_errors

_MOST_PIXELS = 2**22
"""Pixels of a scene that are read at once for a part of a map. Of a scene that is much finer than the map, more windows
are read."""
_PROBABILITIES_COG = f"{PROBABILITIES}.tif"


@dataclass(frozen=True)
class SceneSource:
    """Published results of a scene, which are read window by window. It holds no open files and can be pickled.

    Attributes:
        id: the scene's id.
        folder: path of the folder that the files lie in, or its ``s3://`` address.
        labels: name of the file that has the labels: the Zarr store or the COG.
        probabilities: name of the file that has the probabilities. ``None``: labels vote alone.
        grid: grid of the labels.
        values: labels of the classes, in the order of the probabilities.
        day: when the scene was taken, the middle of that time, in days since 1970-01-01. ``None``: unknown.
        version: checksum of the record of the run, as the item has it.
        pointer: in object storage the ETag of the item that leads to the folder.
    """

    id: str
    folder: str
    labels: str
    probabilities: str | None
    grid: GeoBox
    values: tuple[int, ...]
    day: int | None
    version: str
    pointer: str | None = None

    def __post_init__(self) -> None:
        if self.day is not None and not 0 <= self.day < UNKNOWN_DATE:
            raise ValueError(f"scene {self.id}: day {self.day} is not in 0..{UNKNOWN_DATE - 1}")
        if self.grid.crs is None:
            raise InputError(
                f"scene {self.id}",
                got="no CRS",
                expected="results that lie somewhere on Earth",
                fix="leave the scene out, or segment it again with a CRS",
            )

    def read(self, window: Window) -> ScenePixels:
        """Read a window and how far its pixels are from others without data.

        Args:
            window: pixels; those beyond the scene are left out.

        Raises:
            DamagedSceneError: a file is damaged or gone.
            RunError: the scene was replaced since it was opened, or the server does not answer.
        """
        whole = Window(0, 0, *self.grid.shape)
        window = window.intersection(whole)
        margin = Window(0, 0, window.height + 2 * TAPER_WIDTH, window.width + 2 * TAPER_WIDTH)
        around = margin.shift(window.row - TAPER_WIDTH, window.col - TAPER_WIDTH)
        readable = around.intersection(whole)
        known = np.full(around.shape, NODATA, np.uint8)
        try:
            known[readable.relative_to(around).to_slices()] = self._read_labels(readable)
            labels = known[window.relative_to(around).to_slices()]
            has_votes = self.probabilities is not None and bool((labels != NODATA).any())
            probabilities = self._read_probabilities(window, labels) if has_votes else None
        except DamagedSceneError:
            self._check_version()  # then the files are gone because the scene was replaced
            raise
        self._check_version()
        return ScenePixels(labels, probabilities, compute_taper(known != NODATA), window.row, window.col)

    def _read_labels(self, window: Window) -> NDArray[np.uint8]:
        with self._name_damage(self.labels):
            labels: NDArray[np.uint8] = self._read_raster(self.labels, LABELS_ARRAY, 1, window)[0]
            counts = np.bincount(labels.ravel(), minlength=NODATA + 1)
            if unknown := set(np.flatnonzero(counts)) - {*self.values, NODATA}:
                raise ValueError(f"label {min(unknown)} in {window}, which is none of the classes")
        return labels

    def _read_probabilities(self, window: Window, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        assert self.probabilities is not None
        with self._name_damage(self.probabilities):
            probabilities = self._read_raster(self.probabilities, PROBABILITIES, len(self.values), window)
            is_empty = labels == NODATA
            # A chunk that is lost reads as nodata, and nobody else would notice.
            if any(((layer > CERTAIN) != is_empty).any() for layer in probabilities):
                raise ValueError(f"there are not both a label and its probabilities everywhere in {window}")
        return probabilities

    def _read_raster(self, file: str, name: str, bands: int, window: Window) -> NDArray[np.uint8]:
        """Read a window of the array ``name``, (bands, height, width), which is all that a file has if it is a COG."""
        path = f"{self.folder}/{file}"
        expected = bands, *self.grid.shape
        if file == ZARR:
            array = open_raster_array(path, name)
            shape, dtype = (1, *array.shape)[-3:], str(array.dtype)
            if (shape, dtype) == (expected, "uint8"):
                return np.asarray(array[..., *window.to_slices()], np.uint8).reshape(bands, *window.shape)
        else:
            with gdal_environment(path):
                raster = open_cached_raster(path)
                shape, dtype = (len(raster.dtypes), *raster.grid.shape), raster.dtypes[0]
                if (shape, dtype) == (expected, "uint8"):
                    return np.asarray(read_pixels(raster, list(range(1, bands + 1)), window), np.uint8)
        raise ValueError(f"{dtype} of shape {shape}, expected uint8 of shape {expected}")

    def _check_version(self) -> None:
        """Raise ``RunError`` if the scene was published anew or removed."""
        if is_object_url(self.folder):
            is_same = split_object_url(self.folder)[0].get_version(ITEM) == self.pointer
        else:
            record = Path(self.folder, RECORD)
            is_same = record.is_file() and describe_file(record)["file:checksum"] == self.version
        if not is_same:
            raise _replaced_error(self.id)

    @contextmanager
    def _name_damage(self, file: str) -> Iterator[None]:
        """Turn what readers raise on damaged bytes into an error that names the scene and the file."""
        with ExitStack() as stack:
            if is_object_url(self.folder):
                place = split_object_url(self.folder)[0]
                stack.enter_context(translate_errors(place.bucket, place.access))
            try:
                yield
            except (*READ_ERRORS, InputError) as error:
                problem = f"{self.folder}/{file} cannot be read ({describe_error(error)})"
                raise DamagedSceneError(self.id, problem) from error


def open_map_scene(scene: MapScene, classes: Sequence[LabelClass]) -> SceneSource:
    """Return the results of a scene of a map, as they were when it was selected; no pixel is read.

    Args:
        scene: the scene.
        classes: classes of the map, which are those of the scene.

    Raises:
        RunError: the scene was replaced or removed in object storage since.
    """
    is_zarr = scene.storage == "zarr"
    return SceneSource(
        id=scene.id,
        folder=scene.folder,
        labels=ZARR if is_zarr else COG,
        probabilities=None if scene.votes == "labels" else ZARR if is_zarr else _PROBABILITIES_COG,
        grid=scene.grid.geobox,
        values=tuple(label.value for label in classes),
        day=scene.day if scene.day is not None and scene.day < UNKNOWN_DATE else None,
        version=scene.version,
        pointer=_find_pointer(scene) if is_object_url(scene.folder) else None,
    )


def _find_pointer(scene: MapScene) -> str:
    """Return the ETag of the item in object storage, which must lead to the folder of the scene."""
    place, version = ObjectFolder.from_url(scene.folder.rpartition("/")[0]), scene.folder.rpartition("/")[2]
    found = place.get(ITEM)
    if found is None or f"{version}/{RECORD}" not in found.data.decode("utf-8", "replace"):
        raise _replaced_error(scene.id)
    return found.version


def _replaced_error(scene: str) -> RunError:
    return RunError(f"scene {scene} was replaced or removed while the map was made; run the same command again")


def fuse_window(
    grid: MapGrid, window: Window, scenes: Sequence[SceneSource], classes: Sequence[LabelClass], unseen: Collection[int]
) -> FusedChunk:
    """Fuse all scenes in a window of a map.

    Args:
        grid: grid of the map.
        window: pixels of the map.
        scenes: the scenes of a period, in any order. Those that do not meet the window are not read.
        classes: classes of all scenes.
        unseen: positions of those classes that say that the ground was not seen.

    Returns:
        The layers of the window; no observations where no scene is.

    Raises:
        DamagedSceneError: a scene is damaged.
        InputError: there are too many scenes.
        RunError: a scene was replaced since it was opened, or a server does not answer.
    """
    if len(scenes) > MOST_OBSERVATIONS:
        raise InputError(
            "scenes at one place of the map",
            got=f"{len(scenes)} scenes",
            expected=f"at most {MOST_OBSERVATIONS} in a period",
            fix="choose shorter periods, or leave out scenes with --where",
        )
    fusion = ChunkFusion(classes, unseen, window.shape)
    for scene in scenes:
        positions = locate_pixels(grid, window, scene.grid)
        for needed, rows, cols in _split_positions(*positions, scene.grid.shape):
            fusion.add(scene.read(needed), rows, cols, scene.day)
    return fusion.finish()


def _split_positions(
    rows: NDArray[np.int32], cols: NDArray[np.int32], shape: tuple[int, int]
) -> Iterator[tuple[Window, NDArray[np.int32], NDArray[np.int32]]]:
    """Yield windows of a scene of at most about ``_MOST_PIXELS`` pixels with the positions that need them.

    Args:
        rows: positions of the map's pixels in the scene.
        cols: the other coordinates.
        shape: (height, width) of the scene.

    Yields:
        A window that holds the four nearest pixels of some positions, and these positions; ``NOWHERE`` for others.
    """
    found = rows != NOWHERE
    if not found.any():
        return
    needed = _find_window(rows[found], cols[found]).intersection(Window(0, 0, *shape))
    if needed.pixel_count <= _MOST_PIXELS or found.sum() == 1:
        yield needed, rows, cols
        return
    # Quarters of the rectangle of the map that meets the scene.
    middle = [(int(at.min()) + int(at.max()) + 1) // 2 for at in np.nonzero(found)]
    is_lower, is_right = (np.arange(size) >= cut for size, cut in zip(rows.shape, middle, strict=True))
    for down, right in product((False, True), repeat=2):
        is_out = np.logical_or.outer(is_lower != down, is_right != right)
        own_rows, own_cols = (np.where(is_out, np.int32(NOWHERE), at) for at in (rows, cols))
        yield from _split_positions(own_rows, own_cols, shape)


def _find_window(rows: NDArray[np.int32], cols: NDArray[np.int32]) -> Window:
    """Return the window of the four nearest pixels of all positions."""
    half = POSITION_PARTS // 2
    (row, col), (last_row, last_col) = (
        [(int(at) - half) // POSITION_PARTS for at in ends]
        for ends in ((rows.min(), cols.min()), (rows.max(), cols.max()))
    )
    return Window(row, col, last_row + 2 - row, last_col + 2 - col)
