"""Trace the labels of one window as polygons: its pieces, which ``regions.py`` joins across windows.

A piece is a set of pixels of one label in one window that touch at their sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import shapes
from scipy import ndimage

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.geometry.pixel_area import AreaArray, iter_row_bands
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.storage.atomic import atomic_write, open_npz
from seamline.pipeline.vectors.simplify import Simplification

SIDES: dict[str, Any] = {"top": np.s_[0], "bottom": np.s_[-1], "left": np.s_[:, 0], "right": np.s_[:, -1]}
"""Index of the pixels along each border of a window."""


@dataclass(frozen=True)
class Pieces:
    """The polygons of one window, with sums over their pixels.

    Arrays other than ``edges`` have one element for each piece.

    Attributes:
        window: the window in the scene.
        edges: for each of ``SIDES`` the number of the piece of every pixel along that border. Pieces are numbered
            from 1; 0 stands for nodata.
        labels: label of each piece.
        geometries: polygon of each piece, in pixels (column, row) of the scene.
        pixels: number of pixels of each piece.
        area: sum of the areas of its pixels.
        confidence: sum of the confidences of its pixels.
    """

    window: Window
    edges: dict[str, NDArray[np.int32]]
    labels: NDArray[np.uint8]
    geometries: NDArray[np.object_]
    pixels: NDArray[np.int64]
    area: NDArray[np.float64]
    confidence: NDArray[np.float64]

    @property
    def inner(self) -> NDArray[np.bool_]:
        """For each piece, whether it touches no border of the window."""
        inner = np.ones(len(self.labels) + 1, np.bool_)
        for edge in self.edges.values():
            inner[edge] = False
        return inner[1:]

    def select(self, chosen: NDArray[np.bool_]) -> Pieces:
        """Return some of the pieces, numbered anew; the pixels of the others count as nodata."""
        numbers = np.concatenate([[0], np.where(chosen, np.cumsum(chosen), 0)]).astype(np.int32)
        edges = {side: numbers[edge] for side, edge in self.edges.items()}
        sums = self.pixels[chosen], self.area[chosen], self.confidence[chosen]
        return Pieces(self.window, edges, self.labels[chosen], self.geometries[chosen], *sums)

    def save(self, path: Path) -> None:
        """Write the pieces to an ``.npz`` file, which appears whole or not at all."""
        points: NDArray[np.float64] = np.zeros((0, 2))
        rings: NDArray[Any] = np.zeros(1, np.int64)
        polygons: NDArray[Any] = np.zeros(1, np.int64)
        if len(self.geometries):
            _, points, (rings, polygons) = shapely.to_ragged_array(self.geometries)
        with atomic_write(path, shared=True) as part, part.open("wb") as file:
            np.savez(
                file,
                points=points.astype(np.int32),
                rings=rings,
                polygons=polygons,
                labels=self.labels,
                pixels=self.pixels,
                area=self.area,
                confidence=self.confidence,
                **pack_window(self.window, self.edges),
            )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read pieces from a file that ``save`` wrote."""
        with open_npz(path) as file:
            geometries = np.empty(0, object)
            if len(file["labels"]):
                points = file["points"].astype(np.float64)
                offsets = file["rings"], file["polygons"]
                geometries = shapely.from_ragged_array(shapely.GeometryType.POLYGON, points, offsets)
            window, edges = unpack_window(file)
            sums = file["pixels"], file["area"], file["confidence"]
            return cls(window, edges, file["labels"], geometries, *sums)


def pack_window(window: Window, edges: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Return a window and the numbers along its borders as arrays for an ``.npz`` file."""
    return {"window": [window.row, window.col, window.height, window.width], **edges}


def unpack_window(arrays: Mapping[str, NDArray[Any]]) -> tuple[Window, dict[str, NDArray[Any]]]:
    """Return the window and the numbers along its borders that ``pack_window`` packed."""
    return Window(*arrays["window"].tolist()), {side: arrays[side] for side in SIDES}


def trace_pieces(
    window: Window,
    labels: NDArray[np.uint8],
    area: AreaArray,
    confidence: NDArray[np.number[Any]] | None = None,
    simplification: Simplification | None = None,
) -> Pieces:
    """Trace the pieces of a window.

    Args:
        window: where the labels lie in the scene.
        labels: (height, width), ``NODATA`` for none.
        area: (height, width), the area of each pixel.
        confidence: (height, width). ``None``: 1 everywhere.
        simplification: how to simplify the polygons of this window. ``None``: every corner of a pixel is kept.

    Returns:
        The pieces of all labels but nodata, ordered by label.
    """
    numbers, piece_labels = number_pieces(labels)
    count = int(np.count_nonzero(piece_labels != NODATA))  # pieces of nodata come last
    geometries = _trace_outlines(numbers, count if simplification is None else len(piece_labels), window)
    if simplification is not None:
        geometries = simplification.simplify_polygons(geometries, window)[:count]
    numbers[numbers > count] = 0
    pixels, areas, confidences = sum_over_pieces(numbers, count, area, confidence)
    edges = {side: numbers[index].copy() for side, index in SIDES.items()}
    return Pieces(window, edges, piece_labels[:count], geometries, pixels, areas, confidences)


def number_pieces(labels: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Number the pieces of a window, those of nodata included.

    Args:
        labels: (height, width).

    Returns:
        The number of each pixel's piece (height, width), and the label of each piece (n,). Pieces are numbered from 1,
        by label and then by place, so that those of nodata come last.
    """
    numbers = np.zeros(labels.shape, np.int32)
    piece_labels: list[NDArray[np.uint8]] = []
    count = 0
    for label in np.unique(labels):
        # Pixels that only touch at a corner are not connected, as in GDAL's polygonize.
        components, found = ndimage.label(labels == label)
        np.add(components, count, out=numbers, where=components > 0)
        piece_labels.append(np.full(found, label, np.uint8))
        count += found
    return numbers, np.concatenate(piece_labels) if piece_labels else np.zeros(0, np.uint8)


def sum_over_pieces(
    numbers: NDArray[np.int32],
    count: int,
    area: AreaArray,
    confidence: NDArray[np.number[Any]] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Sum pixels, areas and confidences over pieces.

    Args:
        numbers: number of each pixel's piece (height, width); 0 is left out.
        count: number of pieces.
        area: (height, width), the area of each pixel.
        confidence: (height, width). ``None``: 1 everywhere.

    Returns:
        Number of pixels, sum of areas and sum of confidences, (count,) each.
    """
    pixels = np.zeros(count + 1, np.int64)
    areas, confidences = np.zeros((2, count + 1))
    for rows in iter_row_bands(*numbers.shape):
        flat = numbers[rows].ravel()
        pixels += np.bincount(flat, minlength=count + 1)
        areas += np.bincount(flat, area[rows].ravel(), count + 1)
        if confidence is not None:
            confidences += np.bincount(flat, confidence[rows].ravel(), count + 1)
    if confidence is None:
        confidences = pixels.astype(np.float64)
    return pixels[1:], areas[1:], confidences[1:]


def _trace_outlines(numbers: NDArray[np.int32], count: int, window: Window) -> NDArray[np.object_]:
    """Return the polygons of pieces 1 to ``count``, in pixels (column, row) of the scene."""
    rings: list[list[list[tuple[float, float]]]] = [[] for _ in range(count)]
    to_scene = Affine.translation(window.col, window.row)
    for shape, number in shapes(numbers, mask=(numbers > 0) & (numbers <= count), connectivity=4, transform=to_scene):
        rings[int(number) - 1] = shape["coordinates"]
    lengths = [len(ring) for polygon in rings for ring in polygon]
    points = np.fromiter(
        chain.from_iterable(chain.from_iterable(chain.from_iterable(rings))), np.float64, 2 * sum(lengths)
    )
    offsets = _compute_offsets(lengths), _compute_offsets([len(polygon) for polygon in rings])
    polygons = shapely.from_ragged_array(shapely.GeometryType.POLYGON, points.reshape(-1, 2), offsets)
    return np.asarray(polygons, object)


def _compute_offsets(lengths: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
