"""Metrics: what workers and catalogue say is what was done, and what dashboard and alerts ask for is there."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from distributed import Client
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from seamline.flows.collection.ledger import Ledger
from seamline.flows.collection.scene_ref import RejectedSource, SceneRef
from seamline.flows.runs.observer import RunObserver, RunResult
from seamline.flows.runs.segment import segment
from seamline.flows.serving import metrics
from seamline.flows.serving.app import create_app
from seamline.flows.serving.metrics import MetricsCache
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.common.errors import BadBlockError
from seamline.pipeline.execution.chunk_context import Reading
from seamline.pipeline.execution.predictor import PredictorPlugin
from seamline.pipeline.geometry.tiling import Tiling
from tests.support.processes import run_scheduler_and_worker
from tests.support.small_rasters import BAND_NAMES, damage_block, make_noise, write_geotiff, write_tiled

MONITORING = Path(__file__).parents[3] / "deploy" / "monitoring"
MEMORY_LIMIT = "3000000000"
CONTEXT: Any = SimpleNamespace(reading=Reading(), tiling=Tiling(64, 64, 64, 0, 0, 1, 16))
"""The run that the plugin holds, which has no chunks."""


def values(text: str) -> dict[str, float]:
    """By name and labels, such as ``seamline_chunks_total{outcome=inferred}``."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def scraped(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return values(answer.read().decode())


@dataclass(frozen=True)
class Watched:
    """A run with feathered tiles on a cluster of its own, then one that fails on a block, and what was shown."""

    result: RunResult
    born: dict[str, float]
    """By the worker, before it got a chunk."""
    worker: dict[str, float]
    failed: dict[str, float]
    """By the worker, after the second run."""
    scheduler: dict[str, float]
    map: dict[str, float]


@pytest.fixture(scope="module")
def watched(small_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    folder = tmp_path_factory.mktemp("metrics")
    sources = [
        write_tiled(folder / f"{name}.tif", make_noise(6, 400, 500), names=BAND_NAMES, nodata=0)
        for name in ("whole", "broken")
    ]
    damage_block(sources[1], 1, 0, 0)
    with (
        run_scheduler_and_worker(folder, "--memory-limit", MEMORY_LIMIT) as (address, _, _),
        Client(address, set_as_default=False) as client,
    ):
        (worker,) = client.scheduler_info(n_workers=-1)["workers"].values()
        ports = worker["services"]["dashboard"], client.scheduler_info()["services"]["dashboard"]
        client.register_plugin(PredictorPlugin(dict, CONTEXT, client.id))
        born = scraped(ports[0])
        options = SegmentOptions(cluster=address, window=192, halo=48, overlap=32, chunk_tiles=2)
        result = segment(sources[0], small_model.folder, folder / "out", options, RunObserver())
        after = scraped(ports[0])
        with pytest.raises(BadBlockError):
            segment(sources[1], small_model.folder, folder / "out", options, RunObserver())
        served = TestClient(create_app(folder / "out")).get("/metrics")
        return Watched(result, born, after, scraped(ports[0]), scraped(ports[1]), values(served.text))


def test_workers_count_what_the_record_says(watched: Watched) -> None:
    record, shown = watched.result.record, watched.worker
    assert shown["seamline_pixels_inferred_total"] == record.pixels_inferred
    assert shown["seamline_chunks_total{outcome=inferred}"] == record.chunks
    assert shown["seamline_chunks_total{outcome=written}"] == record.chunks
    for stage in ("read", "infer", "blend", "write"):
        assert shown[f"seamline_stage_seconds_total{{stage={stage}}}"] == pytest.approx(record.seconds[stage])


def test_every_counter_is_born_at_zero(watched: Watched) -> None:
    """Otherwise Prometheus takes the first failure for what was always there."""
    born = counters(watched.born)
    assert set(born.values()) == {0}
    assert set(born) == set(counters(watched.failed))
    assert watched.worker["seamline_chunks_total{outcome=failed}"] == 0
    assert watched.failed["seamline_chunks_total{outcome=failed}"] == 1


def counters(shown: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in shown.items() if re.match(r"seamline_\w+_total\b", name)}


def test_a_worker_shows_the_limit_of_its_memory(watched: Watched) -> None:
    assert watched.born["seamline_worker_memory_limit_bytes"] == float(MEMORY_LIMIT)


def test_the_catalogue_says_what_is_published_left_and_failed(
    small_model: Model, cluster: Callable[[int], str], tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop(totals: object, plan: object) -> None:
        if totals.chunks_done == 2:
            raise Stop

    options = SegmentOptions(cluster=cluster(1), window=160, halo=48, chunk_tiles=1)
    out = tmp_path / "out"
    for name, watcher in (("whole", RunObserver()), ("half", RunObserver(progress=stop))):
        source = write_geotiff(tmp_path / f"{name}.tif", make_noise(6, 300, 300), names=BAND_NAMES, nodata=0)
        with suppress(Stop):
            done = segment(source, small_model.folder, out, options, watcher)
    Ledger(out, "m", "o").record_outcome(SceneRef("a", "a", "1"), "failed", "broken")
    other = Ledger(out, "m", "o")
    other.record_rejected(
        "/in", [RejectedSource("/in/x.tif", "x", "broken"), RejectedSource("/in/y.tif", "y", "broken")]
    )
    other.record_rejected("/elsewhere", [RejectedSource("/elsewhere/z.tif", "z", "broken")])
    other.record_rejected("/in", [RejectedSource("/in/x.tif", "x", "broken")])
    other.record_rejected("/links", [RejectedSource("a", "a", "broken")])  # the one that failed before
    other.record_rejected("/elsewhere", [])
    shown, inferred = show_settled(out)
    assert shown == {
        "seamline_scenes_published": 1,
        "seamline_last_published_timestamp_seconds": (done.folder / "item.json").stat().st_mtime,
        "seamline_runs_unfinished": 1,
        "seamline_chunks_queued": 25 - inferred,
        "seamline_scenes_failed": 2,  # one that failed, one that was refused
    }
    assert values(MetricsCache(tmp_path / "nowhere").render().decode())["seamline_scenes_published"] == 0


def show_settled(out: Path) -> tuple[dict[str, float], int]:
    """What is shown of a catalogue, and chunks inferred in it; not while the worker ends a chunk of a stopped run."""
    while True:
        before = count_inferred(out)
        shown = values(MetricsCache(out).render().decode())
        if before == count_inferred(out):
            return shown, before


def count_inferred(out: Path) -> int:
    return len(list(out.glob("half/.run/*/inferred/[0-9]*.json")))


def test_a_scrape_takes_a_hundredth_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading takes two seconds of a clock of our own."""
    clock, read = [0.0], []

    def generate(registry: object) -> bytes:
        clock[0] += 2
        read.append(registry)
        return str(clock[0]).encode()

    monkeypatch.setattr(metrics, "generate_latest", generate)
    monkeypatch.setattr(metrics.time, "monotonic", lambda: clock[0])
    cache = metrics.MetricsCache(tmp_path)
    shown = []
    for clock[0] in (0, 10, 201, 202, 210):
        shown.append(cache.render())
    assert shown == [b"2", b"2", b"2", b"204", b"204"] and len(read) == 2


def expressions() -> list[str]:
    dashboard = json.loads((MONITORING / "grafana.json").read_text())
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return asked + [rule["expr"] for rule in rules]


@pytest.mark.parametrize("expression", expressions())
def test_dashboard_and_alerts_ask_for_what_is_there(expression: str, watched: Watched) -> None:
    """Names, and the values of labels; ``up`` is Prometheus' own."""
    shown = watched.worker | watched.scheduler | watched.map
    asked = set(re.findall(r"\b(?:seamline|dask)_\w+", expression))
    assert asked <= {name.partition("{")[0] for name in shown}
    for name, label, wanted in re.findall(r"\b((?:seamline|dask)_\w+)\{(\w+)[=!~]+\"([^\"]+)\"\}", expression):
        assert {f"{name}{{{label}={value}}}" for value in wanted.split("|")} <= set(shown)
