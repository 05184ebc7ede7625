"""Gauges of a catalogue for Prometheus, kept up to date from its folder when they are scraped."""

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

from seamline.flows.collection.ledger import read_reasons
from seamline.flows.serving.catalogue_watch import CatalogueWatch
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import ITEM, RUN_DIRECTORY
from seamline.pipeline.execution.run_directory import RunDirectory
from seamline.pipeline.geometry.tiling import Tiling

_VALIDITY = 100
"""Metrics are shown again for so many times as long as it took to read them."""


class MetricsCache:
    """The metrics of a catalogue, read again only after a hundred times as long as the reading took.

    So a scraper takes a hundredth of a processor, whatever the file system takes for a look. Only the first reading
    looks at each scene.
    """

    def __init__(self, root: Path) -> None:
        self._registry, self._lock = CollectorRegistry(), Lock()
        self._registry.register(_CatalogueCollector(root))
        self._text, self._valid_until = b"", -math.inf

    def render(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        with self._lock:
            started = time.monotonic()
            if started >= self._valid_until:
                self._text = generate_latest(self._registry)
                now = time.monotonic()
                self._valid_until = now + _VALIDITY * (now - started)
            return self._text


class _CatalogueCollector(Collector):
    """Knows of each scene when it was published and whether a run of it is unfinished."""

    def __init__(self, root: Path) -> None:
        self._root, self._watch = root, CatalogueWatch(root)
        self._published: dict[str, float] = {}
        self._unfinished: set[str] = set()

    def describe(self) -> Iterator[Metric]:
        """Yield nothing: the registry need not read the catalogue to know the names of the gauges."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges; counters are kept by the workers."""
        self._look_again()
        yield _make_gauge("seamline_scenes_published", "Scenes of the catalogue", len(self._published))
        last = max(self._published.values(), default=0.0)
        yield _make_gauge("seamline_last_published_timestamp_seconds", "When the last scene was published", last)
        chunks_left = list(self._count_chunks_left())
        yield _make_gauge(
            "seamline_runs_unfinished", "Scenes that are worked on, or wait to be gone on with", len(chunks_left)
        )
        yield _make_gauge("seamline_chunks_queued", "Chunks of these that are not inferred yet", sum(chunks_left))
        failed = len(read_reasons(self._root))
        yield _make_gauge(
            "seamline_scenes_failed", "Scenes of collections that failed or were refused at the last try", failed
        )

    def _look_again(self) -> None:
        """Look at the scenes that may have changed, and forget those that are gone."""
        due = self._watch.list_due()
        for scene in due:
            self._published.pop(scene, None)
            with suppress(OSError):
                self._published[scene] = (self._root / scene / ITEM).stat().st_mtime
            if (self._root / scene / RUN_DIRECTORY).exists():
                self._unfinished.add(scene)
        gone = self._published.keys() - self._watch.scenes
        for scene in gone:
            del self._published[scene]

    def _count_chunks_left(self) -> Iterator[int]:
        """Yield the number of chunks without inference of each unfinished run."""
        for scene in sorted(self._unfinished):
            folder = self._root / scene / RUN_DIRECTORY
            if not folder.exists():
                self._unfinished.discard(scene)
            with suppress(OSError, InputError, LookupError, TypeError, ValueError):
                plan = RunDirectory(folder).read_plan()
                if plan is None:
                    continue
                grid = Tiling(**plan["tiling"]).chunk_grid
                done = len(list((folder / plan["start"] / "inferred").glob("[0-9]*.json")))
                yield grid.row * grid.col - done


def _make_gauge(name: str, description: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, description, value=value)
