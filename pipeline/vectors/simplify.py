"""Simplify the polygons of a window without gaps: both sides of a border keep the same points.

The pieces of a window, those of nodata included, share out all of it. They are a coverage, whose borders GEOS
simplifies once for both sides (Visvalingam and Whyatt, 1993: the corner that spans the smallest triangle is removed
first). So no gap opens and nothing overlaps. The borders of the window stay as they are, and with them the points where
regions cross them. So windows that were simplified separately fit together, and their pieces can be joined. Which
corners are left depends on where the windows lie, and on nothing else.

Both sides of a border must have the same points. A polygon of pixels has one at each of its corners. Where three pieces
meet, the border of one of them may be straight; it gets a point there (a node).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from seamline.pipeline.geometry.window import Window


@dataclass(frozen=True)
class Simplification:
    """How to simplify the polygons of one window.

    Attributes:
        tolerance: in pixels; corners are removed whose triangle is smaller than the square of it.
        padded_labels: labels (height + 2, width + 2) of the window and of one pixel more on every side, nodata outside
            of the scene.
    """

    tolerance: float
    padded_labels: NDArray[np.uint8]

    @property
    def nodes(self) -> NDArray[np.bool_]:
        """For each corner of a pixel (height + 1, width + 1), whether three or more labels meet there."""
        padded = self.padded_labels
        a, b, c, d = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
        others = (b != a).astype(np.uint8) + ((c != a) & (c != b)) + ((d != a) & (d != b) & (d != c))
        return np.asarray(others >= 2)

    def simplify_polygons(self, polygons: NDArray[np.object_], window: Window) -> NDArray[np.object_]:
        """Return the polygons with fewer corners. Corners are removed; none is moved.

        Args:
            polygons: (n,), in pixels (column, row) of the scene; together they cover the window.
            window: the window in the scene.

        Returns:
            The simplified polygons (n,), in the same order.
        """
        with_nodes = _insert_nodes(polygons, self.nodes, window)
        return np.asarray(shapely.coverage_simplify(with_nodes, self.tolerance, simplify_boundary=False))


def _insert_nodes(polygons: NDArray[np.object_], nodes: NDArray[np.bool_], window: Window) -> NDArray[np.object_]:
    """Return the same polygons with a point at every node that lies on their rings."""
    _, floats, (rings, parts) = shapely.to_ragged_array(polygons)
    points = floats.astype(np.int64)
    steps = np.diff(points, axis=0, append=points[-1:])
    steps[rings[1:] - 1] = 0  # the last point of a ring is not connected to the first of the next ring
    lengths = np.maximum(np.abs(steps).sum(axis=1), 1)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    # Every corner of a pixel that a ring passes, and how far it is from the last point of the ring before it.
    distance = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
    passed = np.repeat(points, lengths, axis=0) + distance[:, None] * np.repeat(np.sign(steps), lengths, axis=0)
    kept = (distance == 0) | nodes[passed[:, 1] - window.row, passed[:, 0] - window.col]
    kept_before = np.concatenate([[0], np.cumsum(kept)])
    offsets = kept_before[starts[rings]], parts
    return np.asarray(shapely.from_ragged_array(shapely.GeometryType.POLYGON, passed[kept].astype(np.float64), offsets))
