"""Which chunks of an unfinished run need not be done again: those whose files are as their reports say.

A run reads again what an earlier, killed one wrote: votes, quicklooks, and the chunks of the store, which are
published. What was lost or changed since then is found by the digests in the reports, and inferred again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from seamline.pipeline.execution.chunk_context import ChunkContext
from seamline.pipeline.execution.run_directory import Report
from seamline.pipeline.geometry.tiling import Index

log = logging.getLogger("seamline.run")

_READERS = 8
"""Threads that read files. Hashing leaves Python's lock to the others."""

Reports = Mapping[Index, Report]


@dataclass(frozen=True)
class DoneChunks:
    """What is done of a run.

    Attributes:
        inferred: reports of the chunks that are inferred, and whose votes are there if a neighbour waits for them.
        written: reports of the chunks whose pixels are in the store. One that is not inferred has lost its votes or
            its quicklook.
    """

    inferred: Reports
    written: Reports


def find_done_chunks(context: ChunkContext) -> DoneChunks:
    """Return what is done of a run. Chunks of which something is lost or changed are to be inferred again.

    Args:
        context: the run, begun now or by an earlier, killed one.

    Returns:
        The reports of chunks whose files are as they were written.
    """
    directory, tiling = context.directory, context.tiling
    reported = directory.read_inferred()
    inferred = written = _select(reported, directory.has_files_of)
    if tiling.overlap:
        written = _select(directory.read_written(), directory.has_files_of)
        waits = {chunk for chunk in inferred if not written.keys() >= {chunk, *tiling.receivers_of(chunk)}}
        inferred = _select(inferred, lambda report: report.chunk not in waits or directory.has_votes_of(report))
    damaged = reported.keys() - inferred.keys()
    for chunk in damaged:
        directory.forget_inferred(chunk)
    if damaged:
        log.warning("files of %d chunks are lost or damaged: these are inferred again", len(damaged))
    return DoneChunks(inferred, written)


def _select(reports: Reports, is_intact: Callable[[Report], bool]) -> dict[Index, Report]:
    """Return the reports for which ``is_intact`` is true; files of several chunks are read at once."""
    with ThreadPoolExecutor(_READERS) as pool:
        intact = pool.map(is_intact, reports.values())
        return {chunk: report for (chunk, report), whole in zip(reports.items(), intact, strict=True) if whole}
