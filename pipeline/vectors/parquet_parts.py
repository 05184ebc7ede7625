"""Parquet files of one schema, joined to one without a look at their values.

A Parquet file is its row groups, one after the other, and behind them a footer that says where each column of each of
them lies::

    PAR1 │ row group │ row group │ … │ footer │ length of the footer │ PAR1

Row groups that different processes have encoded become one file when the places in the footer are written anew. It is
encoded by the compact protocol of Thrift: structures of numbered, typed fields.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from seamline.pipeline.storage.atomic import append_bytes

Structure = dict[int, tuple[int, Any]]
"""Number of each field → its type and its value. A list is the type of its elements and their values."""

_MAGIC = b"PAR1"
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _BINARY, _LIST, _STRUCT = 1, 2, 3, 4, 5, 6, 8, 9, 12
"""Types of Thrift's compact protocol that footers have."""
_INTEGERS = (_I16, _I32, _I64)
_ROWS, _GROUPS, _METADATA = 3, 4, 5
"""Fields of the footer: number of rows, row groups, pairs of a key and a value."""
_COLUMNS, _GROUP_OFFSET, _ORDINAL = 1, 5, 7
"""Fields of a row group: its columns, where it begins, and which it is."""
_COLUMN_OFFSETS, _COLUMN_METADATA, _PAGE_OFFSETS = (2, 4, 6), 3, (9, 10, 11, 14)
"""Fields of a column: where it and its indexes begin, and its metadata, with fields that say where its pages begin."""


def join_parquet(parts: Iterable[Path], target: BinaryIO, metadata: Mapping[str, str]) -> None:
    """Write the row groups of Parquet files, in their order, to one.

    Args:
        parts: the files, at least one; all have the same schema.
        target: the file to write, empty.
        metadata: key-value metadata of the file, beside those of the first part.

    Raises:
        ValueError: there is no part, or one is no Parquet file.
        OSError: the disk is full.
    """
    whole: Structure = {}
    groups: list[Structure] = []
    rows = 0
    target.write(_MAGIC)
    for part in parts:
        footer, end = _read_footer(part)
        target.flush()  # since the kernel appends the row groups
        shift = target.tell() - len(_MAGIC)
        append_bytes(part, len(_MAGIC), end - len(_MAGIC), target)
        target.seek(0, 2)  # Python does not know that the kernel went on
        for group in footer[_GROUPS][1][1]:
            _move_group(group, shift)
            groups.append(group)
        rows += footer[_ROWS][1]
        whole = whole or footer
    if not whole:
        raise ValueError("no part, and so no schema")
    pairs: list[Structure] = [
        {1: (_BINARY, key.encode()), 2: (_BINARY, value.encode())} for key, value in metadata.items()
    ]
    kept = whole[_METADATA][1][1] if _METADATA in whole else []
    changed = {_ROWS: (_I64, rows), _GROUPS: (_LIST, (_STRUCT, groups)), _METADATA: (_LIST, (_STRUCT, kept + pairs))}
    encoded = _encode_structure({**whole, **changed})
    target.write(encoded + struct.pack("<I", len(encoded)) + _MAGIC)


def _read_footer(path: Path) -> tuple[Structure, int]:
    """Return the footer of a Parquet file and where it begins."""
    with path.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(max(0, end - 8))
        tail = file.read()
        start = end - 8 - int.from_bytes(tail[:4], "little")
        if len(tail) < 8 or tail[4:] != _MAGIC or start < len(_MAGIC):
            raise ValueError(f"{path} is no Parquet file")
        file.seek(start)
        return _Reader(file.read(end - 8 - start)).read_structure(), start


def _move_group(group: Structure, shift: int) -> None:
    """Change the places in a row group by so many bytes."""
    _move_fields(group, (_GROUP_OFFSET,), shift)
    group.pop(_ORDINAL, None)  # optional, and too narrow for the numbers of many groups
    for column in group[_COLUMNS][1][1]:
        _move_fields(column, _COLUMN_OFFSETS, shift)
        _move_fields(column[_COLUMN_METADATA][1], _PAGE_OFFSETS, shift)


def _move_fields(fields: Structure, numbers: Iterable[int], shift: int) -> None:
    for number in numbers:
        if number in fields and fields[number][1]:  # 0 is no place, but deprecated
            kind, place = fields[number]
            fields[number] = kind, place + shift


@dataclass
class _Reader:
    """Reads values of Thrift's compact protocol one after the other.

    Attributes:
        data: the encoded values.
        at: where the next one begins.
    """

    data: bytes
    at: int = 0

    def read_structure(self) -> Structure:
        fields: Structure = {}
        number = 0
        while (head := self._read_byte()) != 0:
            step, kind = divmod(head, 16)
            number = number + step if step else self._read_integer()
            fields[number] = kind, self._read_value(kind)
        return fields

    def _read_value(self, kind: int) -> Any:
        if kind in (_TRUE, _FALSE):  # the type is the value
            return None
        if kind == _BYTE:
            return self._read_byte()
        if kind in _INTEGERS:
            return self._read_integer()
        if kind == _BINARY:
            return self._read_bytes(self._read_varint())
        if kind == _LIST:
            return self._read_list()
        if kind == _STRUCT:
            return self.read_structure()
        raise ValueError(f"type {kind} is in no footer of Parquet")

    def _read_list(self) -> tuple[int, list[Any]]:
        count, kind = divmod(self._read_byte(), 16)
        if count == 15:
            count = self._read_varint()
        of_element = _BYTE if kind in (_TRUE, _FALSE) else kind  # in a list a truth value has a byte
        return kind, [self._read_value(of_element) for _ in range(count)]

    def _read_bytes(self, count: int) -> bytes:
        self.at += count
        return self.data[self.at - count : self.at]

    def _read_byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _read_varint(self) -> int:
        value = shift = 0
        while (byte := self._read_byte()) & 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
        return value | byte << shift

    def _read_integer(self) -> int:
        value = self._read_varint()
        return (value >> 1) ^ -(value & 1)


def _encode_structure(fields: Structure) -> bytes:
    parts, last = [], 0
    for number, (kind, value) in sorted(fields.items()):
        step = number - last
        head = bytes([step << 4 | kind]) if 0 < step < 16 else bytes([kind]) + _encode_integer(number)
        parts += [head, _encode_value(kind, value)]
        last = number
    return b"".join(parts) + b"\0"


def _encode_value(kind: int, value: Any) -> bytes:
    if kind in (_TRUE, _FALSE):
        return b""
    if kind == _BYTE:
        return bytes([value])
    if kind in _INTEGERS:
        return _encode_integer(value)
    if kind == _BINARY:
        return encode_varint(len(value)) + bytes(value)
    if kind == _STRUCT:
        return _encode_structure(value)
    element, values = value
    count = len(values)
    head = bytes([count << 4 | element]) if count < 15 else bytes([0xF0 | element]) + encode_varint(count)
    of_element = _BYTE if element in (_TRUE, _FALSE) else element  # in a list a truth value has a byte
    return head + b"".join(_encode_value(of_element, one) for one in values)


def _encode_integer(value: int) -> bytes:
    return encode_varint(value << 1 if value >= 0 else ~(value << 1))


def encode_varint(value: int) -> bytes:
    """Return a number from 0 as bytes of seven bits each, the lowest first, as Thrift and Protocol Buffers have it."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
