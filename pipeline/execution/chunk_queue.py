"""Decide which chunk of a run comes next. Holds state only: touches no files and no cluster."""

from __future__ import annotations

from collections.abc import Collection

from seamline.pipeline.geometry.tiling import Index, Tiling

_STRIPE = 12288
"""Width in pixels of a stripe of chunks. Scenes of most satellites are narrower."""


class ChunkQueue:
    """The chunks of a run that are still to be inferred and written.

    Chunks are inferred row by row, so that the votes that wait for a neighbour are those of about one row. Of a wide
    scene one stripe of some columns is inferred after the other, so that the decoded blocks that wait for the next row
    are few.
    """

    def __init__(self, tiling: Tiling, inferred: Collection[Index], written: Collection[Index]) -> None:
        """Start from what earlier runs have done.

        Args:
            tiling: the tiling of the run.
            inferred: chunks whose tiles are inferred already, and whose votes are there if somebody waits for them.
            written: chunks whose pixels are in the store already. Those that are not inferred are inferred again, for
                their votes.
        """
        self._tiling = tiling
        self._written = set(written)
        self._inferred = set(inferred)
        columns = max(1, _STRIPE // tiling.chunk_size)
        chunks = sorted(tiling.chunks(), key=lambda chunk: (chunk.col // columns, chunk))
        self._to_infer = [chunk for chunk in chunks if chunk not in self._inferred]
        self._to_infer.reverse()
        self._handed_out: set[Index] = set()
        # Chunks that may have become writable: those whose votes, or whose voters' votes, came since the last look.
        self._candidates = self._inferred - self._written

    @property
    def done(self) -> int:
        """Number of chunks that are written."""
        return len(self._written)

    def take_next_to_infer(self) -> Index | None:
        """Return the next chunk to infer and remove it from the queue; None if there is none."""
        return self._to_infer.pop() if self._to_infer else None

    def take_writable(self) -> list[Index]:
        """Return the chunks whose votes are complete and that are not written; each chunk is returned once."""
        ready = sorted(chunk for chunk in self._candidates if self._is_writable(chunk))
        self._handed_out.update(ready)
        self._candidates.clear()
        return ready

    def _is_writable(self, chunk: Index) -> bool:
        is_open = chunk in self._inferred and chunk not in self._written and chunk not in self._handed_out
        return is_open and self._inferred.issuperset(self._tiling.voters_of(chunk))

    def mark_inferred(self, chunk: Index) -> None:
        """Record that a chunk's tiles are inferred; without overlap its pixels are written then, too."""
        self._inferred.add(chunk)
        self._candidates.update((chunk, *self._tiling.receivers_of(chunk)))
        if not self._tiling.overlap:
            self._written.add(chunk)

    def mark_written(self, chunk: Index) -> list[Index]:
        """Record that a chunk's pixels are written; return the chunks whose votes are no longer needed."""
        self._written.add(chunk)
        return [voter for voter in (chunk, *self._tiling.voters_of(chunk)) if self._can_drop_votes(voter)]

    def _can_drop_votes(self, chunk: Index) -> bool:
        return chunk in self._written and self._written.issuperset(self._tiling.receivers_of(chunk))
