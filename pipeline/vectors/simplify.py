"""Polygons with fewer corners and without gaps: neighbours keep one and the same border.

The pieces of a window, those of nodata included, share all of it out among themselves: a coverage, whose borders GEOS
simplifies once for both sides (Visvalingam and Whyatt, 1993: the corner that spans the smallest triangle goes first),
so that no gap opens and nothing overlaps. The borders of the window stay as they are, and with them the places where
regions cross them. So windows that were simplified alone fit together, pieces can be joined as if nothing had
happened, and which corners are left depends on where the windows lie, but on nothing else.

Both sides of a border must have the same points. A polygon of pixels has one at each of its corners; where three
pieces meet, a border of one of them may go straight on, and gets a point there (a node).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from seamline.pipeline.geometry.window import Window


@dataclass(frozen=True)
class Simplification:
    """How to simplify one window.

    Args:
        tolerance: in pixels; corners go whose triangle is smaller than its square.
        around: labels (height + 2, width + 2) of the window and one pixel more on every side, nodata outside of the
            scene.
    """

    tolerance: float
    around: NDArray[np.uint8]

    @property
    def nodes(self) -> NDArray[np.bool_]:
        """At which corners of pixels (height + 1, width + 1) three labels or more meet."""
        a, b, c, d = self.around[:-1, :-1], self.around[:-1, 1:], self.around[1:, :-1], self.around[1:, 1:]
        others = (b != a).astype(np.uint8) + ((c != a) & (c != b)) + ((d != a) & (d != b) & (d != c))
        return np.asarray(others >= 2)

    def simplify_polygons(self, polygons: NDArray[np.object_], window: Window) -> NDArray[np.object_]:
        """``polygons``, which share out the whole window, with fewer corners. Corners only go, none is moved."""
        noded = _insert_nodes(polygons, self.nodes, window)
        return np.asarray(shapely.coverage_simplify(noded, self.tolerance, simplify_boundary=False))


def _insert_nodes(polygons: NDArray[np.object_], nodes: NDArray[np.bool_], window: Window) -> NDArray[np.object_]:
    """The same polygons with a point at every node that lies on their rings."""
    _, floats, (rings, parts) = shapely.to_ragged_array(polygons)
    points = floats.astype(np.int64)
    steps = np.diff(points, axis=0, append=points[-1:])
    steps[rings[1:] - 1] = 0  # from the last point of a ring nothing leads on
    lengths = np.maximum(np.abs(steps).sum(axis=1), 1)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    along = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
    passed = np.repeat(points, lengths, axis=0) + along[:, None] * np.repeat(np.sign(steps), lengths, axis=0)
    kept = (along == 0) | nodes[passed[:, 1] - window.row, passed[:, 0] - window.col]
    before = np.concatenate([[0], np.cumsum(kept)])
    offsets = before[starts[rings]], parts
    return np.asarray(shapely.from_ragged_array(shapely.GeometryType.POLYGON, passed[kept].astype(np.float64), offsets))
