"""Read a segmentation and the truth block by block on one grid, so that they can be compared.

The grid is that of a raster of truth, to which the segmentation is resampled by nearest neighbour. Truth in polygons is
burnt into the segmentation's grid. Memory does not grow with the rasters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import COG, find_mistaken_folder
from seamline.pipeline.geometry.resample import PixelReader, identity_transform, make_nearest_reader
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.results.label_raster import check_label_raster, open_label_raster, read_labels, read_raster_grid
from seamline.pipeline.results.truth import Truth, check_extent, make_rasterizer

_Labels = NDArray[np.uint8]
_PairReader = Callable[[Window], tuple[_Labels, _Labels]]
"""Reads predicted and true labels (height, width) of a window."""


@dataclass(frozen=True)
class LabelPair:
    """Predicted and true labels of the same block of pixels.

    Attributes:
        predicted: Labels (height, width), ``NODATA`` where either side is unknown.
        true: Labels (height, width), ``NODATA`` at the same pixels.
        inner: Rows and columns of the block without its margin; the margin belongs to other blocks.
    """

    predicted: NDArray[np.uint8]
    true: NDArray[np.uint8]
    inner: tuple[slice, slice]


def _find_label_raster(prediction: Path) -> Path:
    """Return the raster of labels: ``prediction`` itself, or the COG in a scene's folder.

    Raises:
        InputError: There is no such file.
    """
    path = prediction / COG if prediction.is_dir() else prediction
    if not path.is_file():
        raise InputError(
            f"segmentation {prediction}",
            got=f"no {COG} in it" if prediction.is_dir() else "no such file",
            expected="a raster of labels, or the folder of a scene that `seamline segment --outputs cog` wrote",
            fix=find_mistaken_folder(prediction),
        )
    return path


def read_class_names(prediction: Path) -> dict[int, str]:
    """Return the names of the labels from the tags of a published COG; empty for other rasters."""
    with open_label_raster(_find_label_raster(prediction), "segmentation") as file:
        tags = file.tags()
    names = {tag.removeprefix("CLASS_"): name for tag, name in tags.items() if tag.startswith("CLASS_")}
    return {
        int(label): name for label, name in names.items() if re.fullmatch("[0-9]{1,3}", label) and int(label) < NODATA
    }


def read_label_pairs(prediction: Path, truth: Truth, margin: int, edge: int = 2048) -> Iterator[LabelPair]:
    """Read both sets of labels in blocks that together cover the grid.

    Args:
        prediction: A raster of labels, or a scene's folder.
        truth: The true labels.
        margin: Pixels around each block that are read with it.
        edge: Edge of a block in pixels, at most.

    Yields:
        The blocks, row by row.

    Raises:
        InputError: A file cannot be read, only one has a CRS, they do not overlap, or they hold no labels.
    """
    check_label_raster(_find_label_raster(prediction), "segmentation")
    open_pair = _open_vector_pair if truth.is_vector else _open_raster_pair
    with (
        open_label_raster(_find_label_raster(prediction), "segmentation") as dataset,
        open_pair(truth, dataset) as (shape, read_pair),
    ):
        for inner, outer in _iterate_blocks(shape, margin, edge):
            predicted, true = read_pair(outer)
            is_unknown = (predicted == NODATA) | (true == NODATA)
            predicted[is_unknown], true[is_unknown] = NODATA, NODATA
            yield LabelPair(predicted, true, inner.relative_to(outer).to_slices())


def replace_labels(pair: LabelPair, table: NDArray[np.uint8]) -> LabelPair:
    """Return a pair with other labels: that of each label in ``table`` (256,); ``NODATA`` there makes it unknown."""
    predicted, true = table[pair.predicted], table[pair.true]
    is_unknown = (predicted == NODATA) | (true == NODATA)
    predicted[is_unknown], true[is_unknown] = NODATA, NODATA
    return LabelPair(predicted, true, pair.inner)


def _iterate_blocks(shape: tuple[int, int], margin: int, edge: int) -> Iterator[tuple[Window, Window]]:
    """Yield the windows of blocks of a raster (height, width), each without and with its margin."""
    whole = Window(0, 0, *shape)
    for row in range(0, whole.height, edge):
        for col in range(0, whole.width, edge):
            inner = Window(row, col, edge, edge).intersection(whole)
            height, width = inner.height + 2 * margin, inner.width + 2 * margin
            yield inner, Window(inner.row - margin, inner.col - margin, height, width).intersection(whole)


@contextmanager
def _open_raster_pair(truth: Truth, prediction: Any) -> Iterator[tuple[tuple[int, int], _PairReader]]:
    """Yield the shape of a raster of truth, and a reader of both labels on its grid."""
    name = f"segmentation {prediction.name}"
    check_label_raster(truth.path, "truth")
    with open_label_raster(truth.path, "truth") as dataset:
        target, own = read_raster_grid(dataset), read_raster_grid(prediction)
        read_pixels: PixelReader = identity_transform
        if target.pixel_grid != own.pixel_grid:
            check_extent(own, truth.path, dataset.crs and dataset.crs.to_wkt(), dataset.bounds)
            read_pixels = make_nearest_reader(target, prediction.crs, name)

        def read(window: Window) -> tuple[_Labels, _Labels]:
            true = read_labels(dataset, window, truth.values, f"truth {truth.path}")
            return read_labels(prediction, window, {}, name, read_pixels), true

        yield dataset.shape, read


@contextmanager
def _open_vector_pair(truth: Truth, prediction: Any) -> Iterator[tuple[tuple[int, int], _PairReader]]:
    """Yield the shape of the segmentation, and a reader of both labels on its grid."""
    read_truth = make_rasterizer(truth, read_raster_grid(prediction))
    name = f"segmentation {prediction.name}"
    yield prediction.shape, lambda window: (read_labels(prediction, window, {}, name), read_truth(window))
