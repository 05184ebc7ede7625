"""Gauges of a catalogue for Prometheus, read from its folder when they are scraped."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from seamline.flows.collection.ledger import read_entries, read_rejected
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import ITEM, RUN_DIRECTORY
from seamline.pipeline.execution.run_directory import RunDirectory
from seamline.pipeline.geometry.tiling import Tiling

_VALIDITY = 100
"""Metrics are shown again for so many times as long as it took to read them."""


class MetricsCache:
    """The metrics of a catalogue, read again only after a hundred times as long as the reading took.

    So a scraper takes a hundredth of a processor, also of a catalogue of hundreds of thousands of scenes, and metrics
    of a small one are those of the moment.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._lock = root, Lock()
        self._text, self._valid_until = b"", -math.inf

    def render(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        with self._lock:
            started = time.monotonic()
            if started >= self._valid_until:
                self._text = render_metrics(self._root)
                now = time.monotonic()
                self._valid_until = now + _VALIDITY * (now - started)
            return self._text


def render_metrics(root: Path) -> bytes:
    """Return the metrics of the catalogue in ``root`` in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_CatalogueCollector(root))
    return generate_latest(registry)


class _CatalogueCollector(Collector):
    def __init__(self, root: Path) -> None:
        self._root = root

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges; counters are kept by the workers."""
        publishing_times = []
        for item in self._root.glob(f"*/{ITEM}"):
            with suppress(OSError):
                publishing_times.append(item.stat().st_mtime)
        yield _make_gauge("seamline_scenes_published", "Scenes of the catalogue", len(publishing_times))
        last = max(publishing_times, default=0.0)
        yield _make_gauge("seamline_last_published_timestamp_seconds", "When the last scene was published", last)
        chunks_left = list(self._count_chunks_left())
        yield _make_gauge(
            "seamline_runs_unfinished", "Scenes that are worked on, or wait to be gone on with", len(chunks_left)
        )
        yield _make_gauge("seamline_chunks_queued", "Chunks of these that are not inferred yet", sum(chunks_left))
        failed = sum(entry.outcome == "failed" and not entry.is_gone() for entry in read_entries(self._root))
        failed += len([*read_rejected(self._root)])
        yield _make_gauge(
            "seamline_scenes_failed", "Scenes of collections that failed or were refused at the last try", failed
        )

    def _count_chunks_left(self) -> Iterator[int]:
        """Yield the number of chunks without inference of each unfinished run."""
        for folder in self._root.glob(f"*/{RUN_DIRECTORY}"):
            with suppress(OSError, InputError, LookupError, TypeError, ValueError):
                plan = RunDirectory(folder).read_plan()
                if plan is None:
                    continue
                grid = Tiling(**plan["tiling"]).chunk_grid
                done = len(list((folder / plan["start"] / "inferred").glob("[0-9]*.json")))
                yield grid.row * grid.col - done


def _make_gauge(name: str, description: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, description, value=value)
