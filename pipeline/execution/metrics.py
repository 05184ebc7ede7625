"""Prometheus counters of a worker process. Dask's workers serve them at /metrics beside their own."""

from __future__ import annotations

from prometheus_client import Counter

from seamline.pipeline.execution.run_directory import Report

_CHUNKS = Counter("seamline_chunks", "Chunks that this process worked on, by what became of them", ["outcome"])
_PIXELS = Counter("seamline_pixels_inferred", "Network input pixels, halos and all")
_SECONDS = Counter("seamline_stage_seconds", "Seconds of work on chunks by stage; stages overlap", ["stage"])


def count_chunk(outcome: str, report: Report) -> None:
    """Count a step of a chunk: ``outcome`` is "inferred" or "written"."""
    _CHUNKS.labels(outcome).inc()
    _PIXELS.inc(report.pixels_inferred)
    for stage, seconds in report.seconds.items():
        _SECONDS.labels(stage).inc(seconds)


def count_failure() -> None:
    """Count a chunk that failed."""
    _CHUNKS.labels("failed").inc()
