"""Which chunks of an unfinished run need not be done again: those whose files are as their reports say.

A run reads again what an earlier, killed one wrote: votes, quicklooks, and the chunks of the store, which are
published. What was lost or changed since then is found by the digests in the reports, and inferred again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from seamline.pipeline.common.errors import RunError
from seamline.pipeline.execution.chunk_context import ChunkContext
from seamline.pipeline.execution.run_directory import Report
from seamline.pipeline.geometry.tiling import Index
from seamline.pipeline.storage.digests import Digests, compute_digests

log = logging.getLogger("seamline.run")

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

    def is_wanted(report: Report) -> bool:  # an earlier start of the run may have taken unreadable blocks for nodata
        return context.on_bad_block == "nodata" or not report.bad_blocks

    inferred = written = _select(reported, lambda report: is_wanted(report) and directory.has_files_of(report))
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


def refuse_lost_chunks(context: ChunkContext, stored: Digests | None = None) -> None:
    """Check that what is to be published of a run is what its workers wrote.

    Args:
        context: a run whose chunks are all written.
        stored: digests of the files of the store that exist, by their paths below it. ``None``: they are computed.

    Raises:
        RunError: files of a chunk are lost or changed; the same command infers it again.
    """
    directory = context.directory
    reports = directory.read_written() if context.tiling.overlap else directory.read_inferred()
    below = directory.store.relative_to(directory.files).as_posix()
    known = None if stored is None else {f"{below}/{name}": digest for name, digest in stored.items()}
    names = [name for report in reports.values() for name in report.files]
    left = names if known is None else [name for name in names if not name.startswith(f"{below}/")]
    found = {**(known or {}), **compute_digests(directory.files, left)}
    intact = _select(reports, lambda report: all(found.get(name) == was for name, was in report.files.items()))
    lost = set(context.tiling.chunks()) - intact.keys()
    if lost:
        raise RunError(
            f"scene {context.scene.id}: files of {len(lost)} chunks in {context.directory.path} were lost or changed "
            "while the run went on; run the same command again to infer them anew"
        )


def _select(reports: Reports, is_intact: Callable[[Report], bool]) -> dict[Index, Report]:
    return {chunk: report for chunk, report in reports.items() if is_intact(report)}
