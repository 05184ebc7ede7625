"""One vector tile (Mapbox Vector Tile 2.1): polygons in whole units as bytes, all of them at once.

A tile is a message of Protocol Buffers. Its layer has features with numbered keys and values; a polygon is a list of
commands: move to the first corner of a ring, draw lines by the differences of corners, close the ring.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from seamline.pipeline.vectors.parquet_parts import encode_varint

Value = str | int | float | None

_MOVE_TO_ONE, _LINE_TO, _CLOSE = 9, 2, 15
_VARINT, _BYTES = 0, 2
"""Wire types."""
_LAYER, _NAME, _FEATURE, _KEY, _VALUE, _EXTENT, _VERSION = 3, 1, 2, 3, 4, 5, 15
"""Fields of a tile and of a layer."""
_ID, _TAGS, _TYPE, _GEOMETRY, _POLYGON = 1, 2, 3, 4, 3
"""Fields of a feature, and its type of geometry."""


@dataclass(frozen=True)
class _Rings:
    """Rings of many polygons, one after the other; the last corner of a ring is not the first one again.

    Attributes:
        points: (n, 2) whole numbers.
        starts: (rings + 1,) where each ring begins.
        polygons: (rings,) index of the polygon that a ring belongs to, ascending.
        is_hole: (rings,) whether it is a hole; the first ring of a polygon is none.
    """

    points: NDArray[np.int64]
    starts: NDArray[np.int64]
    polygons: NDArray[np.int64]
    is_hole: NDArray[np.bool_]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.starts)

    def select_points(self, kept: NDArray[np.bool_]) -> _Rings:
        """Return the rings with some of their points."""
        before = np.concatenate([[0], np.cumsum(kept)])
        return _Rings(self.points[kept], before[self.starts], self.polygons, self.is_hole)

    def select_rings(self, kept: NDArray[np.bool_]) -> _Rings:
        """Return some of the rings."""
        starts = np.concatenate([[0], np.cumsum(self.lengths[kept])])
        return _Rings(self.points[np.repeat(kept, self.lengths)], starts, self.polygons[kept], self.is_hole[kept])

    def find_neighbours(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return for each point the index of the one before and of the one after it in its ring."""
        index = np.arange(len(self.points))
        filled = self.lengths > 0
        first, last = self.starts[:-1][filled], self.starts[1:][filled] - 1
        before, after = index - 1, index + 1
        before[first], after[last] = last, first
        return before, after


def encode_tile(
    name: str,
    polygons: NDArray[np.object_],
    ids: NDArray[np.int64],
    numbers: NDArray[np.int64],
    columns: dict[str, Sequence[Value]],
    extent: int,
) -> bytes:
    """Encode polygons as a tile of one layer.

    Args:
        name: name of the layer.
        polygons: (n,) in units of the tile, y to the south; corners are rounded, and what has no area then is left out.
        ids: (n,) the feature that a polygon belongs to, ascending: an index into ``numbers`` and the columns.
        numbers: (features,) number of each feature, from 0.
        columns: for each key the values of the features. None: the feature has no such key.
        extent: units along the edge of the tile.

    Returns:
        The tile, not compressed; empty without a feature.
    """
    rings = _clean_rings(_flatten_polygons(polygons))
    if not len(rings.polygons):
        return b""
    owners = ids[rings.polygons]
    geometry, bounds = _encode_geometry(rings, owners)
    table = _ValueTable(columns)
    features = []
    for number, feature in enumerate(owners[np.flatnonzero(np.diff(owners, prepend=-1))].tolist()):
        body = _key(_ID, _VARINT) + encode_varint(int(numbers[feature])) + _field(_TAGS, table.encode_tags(feature))
        body += _key(_TYPE, _VARINT) + encode_varint(_POLYGON)
        features.append(_field(_FEATURE, body + _field(_GEOMETRY, geometry[bounds[number] : bounds[number + 1]])))
    layer = _field(_NAME, name.encode()) + b"".join(features) + table.encode()
    layer += _key(_EXTENT, _VARINT) + encode_varint(extent) + _key(_VERSION, _VARINT) + encode_varint(2)
    return _field(_LAYER, layer)


class _ValueTable:
    """Keys and values of a layer, of which each feature names some."""

    def __init__(self, columns: dict[str, Sequence[Value]]) -> None:
        self._columns = columns
        self._values: dict[tuple[type, Value], int] = {}  # 1 and 1.0 are two values

    def encode_tags(self, feature: int) -> bytes:
        """Return which keys and values a feature has."""
        tags = b""
        for number, column in enumerate(self._columns.values()):
            value = column[feature]
            if value is not None:
                tags += encode_varint(number) + encode_varint(
                    self._values.setdefault((type(value), value), len(self._values))
                )
        return tags

    def encode(self) -> bytes:
        """Return keys and values as bytes."""
        keys = b"".join(_field(_KEY, key.encode()) for key in self._columns)
        return keys + b"".join(_field(_VALUE, _encode_value(value)) for _, value in self._values)


def _encode_value(value: Value) -> bytes:
    if isinstance(value, str):
        return _field(1, value.encode())
    if isinstance(value, float):
        return _key(3, 1) + struct.pack("<d", value)
    return _key(5, _VARINT) + encode_varint(value or 0)


def _flatten_polygons(polygons: NDArray[np.object_]) -> _Rings:
    """Return the rings of polygons, with whole coordinates."""
    _, floats, (ring_starts, polygon_starts) = shapely.to_ragged_array(polygons)
    points = np.floor(floats + 0.5).astype(np.int64)
    rings, parts = np.asarray(ring_starts, np.int64), np.asarray(polygon_starts, np.int64)
    is_hole = np.ones(len(rings) - 1, np.bool_)
    is_hole[parts[:-1]] = False
    flat = _Rings(points, rings, np.repeat(np.arange(len(parts) - 1), np.diff(parts)), is_hole)
    closing = np.zeros(len(points), np.bool_)
    closing[rings[1:] - 1] = True
    return flat.select_points(~closing)


def _clean_rings(rings: _Rings) -> _Rings:
    """Return rings without needless points and without flat ones, with the turn that the format asks for."""
    before, _ = rings.find_neighbours()
    rings = rings.select_points((rings.points != rings.points[before]).any(axis=1))
    before, after = rings.find_neighbours()
    into, out = rings.points - rings.points[before], rings.points[after] - rings.points
    bends = (into[:, 0] * out[:, 1] != into[:, 1] * out[:, 0]) | ((into * out).sum(axis=1) < 0)
    _, places = np.unique(rings.points[:, 0] << 32 ^ rings.points[:, 1] & 0xFFFFFFFF, return_inverse=True)
    is_needed = np.bincount(places, bends) > 0  # where another ring has a corner on a side of this one, both keep it
    rings = rings.select_points(is_needed[places])
    areas = _measure_rings(rings)
    kept = (rings.lengths >= 3) & (areas != 0)
    whole = np.zeros(int(rings.polygons[-1]) + 1 if len(rings.polygons) else 0, np.bool_)
    whole[rings.polygons[kept & ~rings.is_hole]] = True
    kept &= whole[rings.polygons]
    turned = (areas[kept] > 0) == rings.is_hole[kept]
    rings = rings.select_rings(kept)
    lengths = rings.lengths
    place = np.arange(len(rings.points)) - np.repeat(rings.starts[:-1], lengths)
    mirrored = np.repeat(rings.starts[:-1] + lengths - 1, lengths) - place
    order = np.where(np.repeat(turned, lengths), mirrored, np.arange(len(rings.points)))
    return _Rings(rings.points[order], rings.starts, rings.polygons, rings.is_hole)


def _measure_rings(rings: _Rings) -> NDArray[np.int64]:
    """Return twice the area of each ring; positive if it turns clockwise with y to the south."""
    _, after = rings.find_neighbours()
    (x, y), (next_x, next_y) = rings.points.T, rings.points[after].T
    sums = np.concatenate([[0], np.cumsum(x * next_y - next_x * y)])
    return np.asarray(sums[rings.starts[1:]] - sums[rings.starts[:-1]])


def _encode_geometry(rings: _Rings, owners: NDArray[np.int64]) -> tuple[bytes, list[int]]:
    """Return the commands of all features as bytes, and where those of each feature begin and end."""
    lengths = rings.lengths
    is_first = np.diff(owners, prepend=-1) != 0
    before = np.concatenate([[[0, 0]], rings.points[:-1]])
    before[rings.starts[:-1][is_first]] = 0
    steps = rings.points - before
    zigzag = (steps << 1) ^ (steps >> 63)
    starts = np.concatenate([[0], np.cumsum(2 * lengths + 3)])
    numbers = np.empty(starts[-1], np.int64)
    numbers[starts[:-1]] = _MOVE_TO_ONE
    numbers[starts[:-1] + 3] = (lengths - 1) << 3 | _LINE_TO
    numbers[starts[1:] - 1] = _CLOSE
    place = np.arange(len(steps)) - np.repeat(rings.starts[:-1], lengths)
    at = np.repeat(starts[:-1], lengths) + 2 * place + 1 + (place > 0)
    numbers[at], numbers[at + 1] = zigzag.T
    encoded, offsets = _encode_varints(numbers)
    return encoded, [*offsets[starts[:-1][is_first]].tolist(), len(encoded)]


def _encode_varints(numbers: NDArray[np.int64]) -> tuple[bytes, NDArray[np.int64]]:
    """Return numbers from 0 as bytes, seven bits in each, and where each number begins."""
    sizes = np.ones(len(numbers), np.int64)
    for bits in range(7, 63, 7):
        sizes += numbers >> bits > 0
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    encoded = np.empty(offsets[-1], np.uint8)
    for byte in range(int(sizes.max(initial=0))):
        has = sizes > byte
        encoded[offsets[:-1][has] + byte] = (numbers[has] >> 7 * byte & 0x7F) | np.where(sizes[has] > byte + 1, 0x80, 0)
    return encoded.tobytes(), offsets


def _field(number: int, content: bytes) -> bytes:
    return _key(number, _BYTES) + encode_varint(len(content)) + content


def _key(number: int, wire: int) -> bytes:
    return encode_varint(number << 3 | wire)
