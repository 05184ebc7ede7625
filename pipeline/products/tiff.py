"""TIFF files at the level of their bytes: the directory of a small one read, the header of a COG written.

A TIFF file has a directory (IFD) of numbered fields for each image in it. ``TileOffsets`` and ``TileByteCounts`` say
where its compressed blocks lie, so blocks that different processes compressed become one file when these two are
written anew.

The header that ``encode_header`` writes is laid out as GDAL's COG driver does it::

    8 or 16 bytes      byte order, version (classic TIFF or BigTIFF), offset of the first directory
    structure          GDAL's text that says how the blocks lie
    directories        full resolution, then ever smaller overviews; the values of each behind it
    blocks             smallest overview first; each block between its size and a copy of its last bytes

By the sizes and copies around the blocks GDAL reads a block of a remote file with one request.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SUBFILE_TYPE, _WIDTH, _LENGTH = 254, 256, 257
"""Tags of fields: the first is 1 for an overview, the others are the size of an image in pixels."""
_TILE_OFFSETS, _TILE_BYTE_COUNTS = 324, 325
"""Tags of fields: place and size of the blocks in bytes."""
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8, 17: 8, 18: 8}
"""Bytes of a value of each type of field."""
_LONG, _LONG8 = 4, 16
"""Types of fields: unsigned integers of 4 and of 8 bytes; those of 8 bytes are in BigTIFF only."""
_OVERVIEW_FIELDS = (258, 259, 262, 277, 284, 317, 320, 322, 323, 338, 339, 42113)
"""Tags of the fields that an overview shares with the full resolution: how pixels are encoded, their colours and nodata
value; not what they mean and where they lie."""
_MOST_CLASSIC_BYTES = 2**32 - 1
"""Size of the largest file that classic TIFF can address."""

_LAYOUT = (
    b"LAYOUT=IFDS_BEFORE_DATA\n"
    b"BLOCK_ORDER=ROW_MAJOR\n"
    b"BLOCK_LEADER=SIZE_AS_UINT4\n"
    b"BLOCK_TRAILER=LAST_4_BYTES_REPEATED\n"
    b"KNOWN_INCOMPATIBLE_EDITION=NO\n "  # the blank is room for YES, which GDAL writes when it changes the file
)
_STRUCTURE = b"GDAL_STRUCTURAL_METADATA_SIZE=%06d bytes\n" % len(_LAYOUT) + _LAYOUT + b"\0"
"""With a byte at the end after which the first directory begins at an even one."""
_AROUND_BLOCK = 4
"""Bytes before a block, and as many behind it."""


@dataclass(frozen=True)
class TiffField:
    """A field of a directory.

    Attributes:
        kind: type of its values, as TIFF numbers them.
        data: the values as they lie in a file, little endian.
    """

    kind: int
    data: bytes

    @classmethod
    def from_integers(cls, values: Sequence[int] | NDArray[np.int64], kind: int = _LONG) -> TiffField:
        """Return a field of unsigned integers."""
        return cls(kind, np.asarray(values, np.int64).astype("<u8" if kind == _LONG8 else "<u4").tobytes())

    @property
    def count(self) -> int:
        """Number of values."""
        return len(self.data) // _TYPE_SIZES[self.kind]

    def to_integers(self) -> list[int]:
        """Return the values of a field of unsigned integers."""
        return [int(value) for value in np.frombuffer(self.data, f"<u{_TYPE_SIZES[self.kind]}")]


TiffDirectory = Mapping[int, TiffField]
"""The fields of an image by their tags."""


def read_directory(file: bytes) -> dict[int, TiffField]:
    """Return the first directory of a classic, little-endian TIFF file.

    Raises:
        ValueError: it is another kind of file.
    """
    if file[:4] != b"II*\0":
        raise ValueError("no classic, little-endian TIFF file")
    (start,) = struct.unpack_from("<I", file, 4)
    (count,) = struct.unpack_from("<H", file, start)
    fields = {}
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from("<HHI", file, entry)
        size = values * _TYPE_SIZES[kind]
        place = entry + 8 if size <= 4 else struct.unpack_from("<I", file, entry + 8)[0]
        fields[tag] = TiffField(kind, file[place : place + size])
    return fields


def resize_fields(fields: TiffDirectory, level: int, shape: tuple[int, ...]) -> dict[int, TiffField]:
    """Return the fields of a level of an image.

    Args:
        fields: fields of the full resolution, which is level 0.
        level: number of the level; those from 1 on are overviews.
        shape: (height, width) of the level.
    """
    height, width = shape
    size = {_WIDTH: TiffField.from_integers([width]), _LENGTH: TiffField.from_integers([height])}
    if level == 0:
        return {**fields, **size}
    shared = {tag: fields[tag] for tag in _OVERVIEW_FIELDS if tag in fields}
    return {_SUBFILE_TYPE: TiffField.from_integers([1]), **shared, **size}


def read_blocks(file: bytes) -> list[bytes]:
    """Return the compressed blocks of the first image of a classic, little-endian, tiled TIFF file, row by row.

    Raises:
        ValueError: a block was not written.
    """
    fields = read_directory(file)
    places = zip(fields[_TILE_OFFSETS].to_integers(), fields[_TILE_BYTE_COUNTS].to_integers(), strict=True)
    blocks = [file[start : start + size] for start, size in places if start and size]
    if len(blocks) != fields[_TILE_OFFSETS].count:
        raise ValueError("a block was not written")
    return blocks


def frame_block(block: bytes) -> bytes:
    """Return a compressed block as it lies in a COG, between its size and a copy of its last bytes."""
    return len(block).to_bytes(_AROUND_BLOCK, "little") + block + block[-_AROUND_BLOCK:]


def compute_framed_sizes(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many bytes of a COG blocks take that have so many bytes."""
    return sizes + 2 * _AROUND_BLOCK


def encode_header(directories: Sequence[TiffDirectory], sizes: Sequence[NDArray[np.int64]]) -> bytes:
    """Encode all of a COG that comes before its blocks. It is a BigTIFF only where the blocks do not fit otherwise.

    Args:
        directories: fields of the full resolution and of ever smaller overviews, without the places of their blocks.
        sizes: bytes of the blocks of each of these images, row by row, without what ``frame_block`` adds.

    Returns:
        The first bytes of the file. The blocks of the smallest overview follow them, those of the full resolution end
        the file.
    """
    total = sum(int(compute_framed_sizes(blocks).sum()) for blocks in sizes)
    variant = _Variant(big=False)
    if len(variant.encode(directories, sizes, 0)) + total > _MOST_CLASSIC_BYTES:
        variant = _Variant(big=True)
    return variant.encode(directories, sizes, len(variant.encode(directories, sizes, 0)))


@dataclass(frozen=True)
class _Variant:
    """Classic TIFF or BigTIFF: how wide the numbers are by which a file refers to itself.

    Attributes:
        big: whether it is BigTIFF.
    """

    big: bool

    @property
    def _word(self) -> str:
        """Format of an offset."""
        return "Q" if self.big else "I"

    def encode(self, directories: Sequence[TiffDirectory], sizes: Sequence[NDArray[np.int64]], start: int) -> bytes:
        """Encode the header for blocks that begin at the byte ``start``; its length does not depend on ``start``."""
        intro = struct.calcsize(f"<4s{self._word}") + (4 if self.big else 0)
        first = intro + len(_STRUCTURE)
        version = struct.pack("<HHHQ", 43, 8, 0, first) if self.big else struct.pack("<HI", 42, first)
        header = b"II" + version + _STRUCTURE
        offsets = _compute_offsets(sizes, start)
        for number, (fields, blocks, places) in enumerate(zip(directories, sizes, offsets, strict=True), 1):
            located = {
                **fields,
                _TILE_OFFSETS: TiffField.from_integers(places, _LONG8 if self.big else _LONG),
                _TILE_BYTE_COUNTS: TiffField.from_integers(blocks),
            }
            header += self._encode_directory(located, len(header), is_last=number == len(directories))
        return header

    def _encode_directory(self, fields: TiffDirectory, at: int, *, is_last: bool) -> bytes:
        """Encode a directory that begins at the byte ``at``, and behind it the values that have no room in it."""
        room = struct.calcsize(f"<{self._word}")
        count = "Q" if self.big else "H"
        values_at = at + struct.calcsize(f"<{count}") + len(fields) * (4 + 2 * room) + room
        entries, values = b"", b""
        for tag, field in sorted(fields.items()):
            inline = field.data
            if len(field.data) > room:
                inline = struct.pack(f"<{self._word}", values_at + len(values))
                values += field.data + b"\0" * (len(field.data) % 2)  # every value begins at an even byte
            entries += struct.pack(f"<HH{self._word}", tag, field.kind, field.count) + inline.ljust(room, b"\0")
        following = 0 if is_last else values_at + len(values)
        return struct.pack(f"<{count}", len(fields)) + entries + struct.pack(f"<{self._word}", following) + values


def _compute_offsets(sizes: Sequence[NDArray[np.int64]], start: int) -> list[NDArray[np.int64]]:
    """Return where the blocks of each image begin; the last image begins at the byte ``start``."""
    offsets = []
    for blocks in reversed(sizes):
        ends = start + np.cumsum(compute_framed_sizes(blocks))
        offsets.append(ends - blocks - _AROUND_BLOCK)
        start = int(ends[-1])
    return offsets[::-1]
