"""Changes of the bytes of a file: flips, cuts, repetitions, zeros, and numbers that are the largest of their kind."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

Choice = TypeVar("Choice")


class Chance:
    """The random choices of one mutation; they depend on its kind and number alone."""

    def __init__(self, kind: str, number: int) -> None:
        self._rng = np.random.default_rng([zlib.crc32(kind.encode()), number])

    def below(self, count: int) -> int:
        return int(self._rng.integers(count)) if count > 0 else 0

    def of(self, choices: Sequence[Choice]) -> Choice:
        return choices[self.below(len(choices))]

    def happens(self, share: float) -> bool:
        return bool(self._rng.random() < share)

    def some_bytes(self, count: int) -> bytes:
        return self._rng.bytes(count)


Mutate = Callable[[bytes, Chance], bytes]
"""Returns the changed content of a file."""


def damage_bytes(content: bytes, chance: Chance) -> bytes:
    """Damage a file as disks, networks and strangers do, in one to four places."""
    for _ in range(1 + chance.below(4)):
        content = chance.of(_DAMAGES)(content, chance)
    return content


def in_header(mutate: Mutate, size: int) -> Mutate:
    """Return a mutation of the first bytes of a file, where its sizes and offsets stand."""
    return lambda content, chance: mutate(content[:size], chance) + content[size:]


def choose(*mutations: Mutate) -> Mutate:
    """Return a mutation that is any of these."""
    return lambda content, chance: chance.of(mutations)(content, chance)


def in_members(mutate: Mutate) -> Mutate:
    """Return a mutation of one member of a ZIP archive, whose checksums are right again afterwards."""

    def mutate_member(content: bytes, chance: Chance) -> bytes:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
        victim, written = chance.below(len(members)), io.BytesIO()
        with zipfile.ZipFile(written, "w") as archive:
            for place, (name, member) in enumerate(members):
                archive.writestr(name, mutate(member, chance) if place == victim else member)
        return written.getvalue()

    return mutate_member


def _span(content: bytes, chance: Chance) -> tuple[int, int]:
    start = chance.below(len(content))
    return start, start + 1 + chance.below(min(len(content) - start, chance.of((4, 64, 4096))))


def _flip(content: bytes, chance: Chance) -> bytes:
    changed = bytearray(content)
    for _ in range(min(1 + chance.below(8), len(content))):
        changed[chance.below(len(changed))] ^= 1 << chance.below(8)
    return bytes(changed)


def _overwrite(content: bytes, chance: Chance) -> bytes:
    start, stop = _span(content, chance)
    new = chance.of((b"\0" * (stop - start), b"\xff" * (stop - start), chance.some_bytes(stop - start), *_NUMBERS))
    return content[:start] + new + content[start + len(new) :]


def _cut_end(content: bytes, chance: Chance) -> bytes:
    return content[: chance.below(len(content) + 1)]


def _cut_out(content: bytes, chance: Chance) -> bytes:
    start, stop = _span(content, chance)
    return content[:start] + content[stop:]


def _repeat(content: bytes, chance: Chance) -> bytes:
    start, stop = _span(content, chance)
    return content[:stop] + content[start:stop] * (1 + chance.below(3)) + content[stop:]


def _insert(content: bytes, chance: Chance) -> bytes:
    start = chance.below(len(content) + 1)
    return content[:start] + chance.some_bytes(1 + chance.below(64)) + content[start:]


def _swap_halves(content: bytes, chance: Chance) -> bytes:
    start = chance.below(len(content) + 1)
    return content[start:] + content[:start]


_DAMAGES: tuple[Mutate, ...] = (
    _flip,
    _flip,
    _overwrite,
    _overwrite,
    _cut_end,
    _cut_out,
    _repeat,
    _insert,
    _swap_halves,
)
_NUMBERS = tuple(
    number.to_bytes(size, order)
    for size, numbers in ((2, (1, 0x7FFF, 0xFFFF)), (4, (1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)), (8, (1, 2**63 - 1)))
    for number in numbers
    for order in ("little", "big")
)
