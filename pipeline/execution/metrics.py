"""Prometheus metrics of a worker process. Dask's workers serve them at /metrics beside their own.

The plugin of a run imports this module on every worker, before the worker gets a chunk. All counters then start at 0,
for every label, so that Prometheus sees the first failure as an increase.
"""

from __future__ import annotations

import psutil
from distributed import Worker
from prometheus_client import Counter, Gauge

from seamline.pipeline.execution.run_directory import Report

_CHUNKS = Counter("seamline_chunks", "Chunks that this process worked on, by what became of them", ["outcome"])
_PIXELS = Counter("seamline_pixels_inferred", "Network input pixels, halos and all")
_SECONDS = Counter("seamline_stage_seconds", "Seconds of work on chunks by stage; stages overlap", ["stage"])
_MEMORY_LIMIT = Gauge("seamline_worker_memory_limit_bytes", "Memory that this worker may take; 0 before its first run")

for _outcome in ("inferred", "written", "failed"):
    _CHUNKS.labels(_outcome)
for _stage in ("read", "infer", "blend", "write"):
    _SECONDS.labels(_stage)


def show_memory_limit(worker: Worker) -> None:
    """Show the memory limit of this process's worker; without a limit, the memory of the machine."""
    _MEMORY_LIMIT.set(worker.memory_manager.memory_limit or psutil.virtual_memory().total)


def count_chunk(outcome: str, report: Report) -> None:
    """Count a step of a chunk: ``outcome`` is "inferred" or "written"."""
    _CHUNKS.labels(outcome).inc()
    _PIXELS.inc(report.pixels_inferred)
    for stage, seconds in report.seconds.items():
        _SECONDS.labels(stage).inc(seconds)


def count_failure() -> None:
    """Count a chunk that failed."""
    _CHUNKS.labels("failed").inc()
