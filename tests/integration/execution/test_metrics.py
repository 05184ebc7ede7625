"""Metrics: what workers and catalogue say is what was done, and what dashboard and alerts ask for is there."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from distributed import Client, LocalCluster
from prometheus_client.parser import text_string_to_metric_families

from seamline.flows.collection.ledger import Ledger
from seamline.flows.collection.scene_ref import RejectedSource, SceneRef
from seamline.flows.runs.observer import RunObserver, RunResult
from seamline.flows.runs.segment import segment
from seamline.flows.serving.metrics import render_metrics
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff

MONITORING = Path(__file__).parents[3] / "deploy" / "monitoring"


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


@pytest.fixture(scope="module")
def watched(small_model: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, dict[str, float]]:
    """A run with feathered tiles on a cluster of its own, and all that is shown after it."""
    folder = tmp_path_factory.mktemp("metrics")
    source = write_geotiff(folder / "scene.tif", make_noise(6, 400, 500), names=BAND_NAMES, nodata=0)
    with (
        LocalCluster(n_workers=1, threads_per_worker=3, dashboard_address=":0", worker_dashboard_address=":0") as local,
        Client(local, set_as_default=False) as client,
    ):
        options = {"cluster": local.scheduler_address, "window": 192, "halo": 48, "overlap": 32, "chunk_tiles": 2}
        result = segment(source, small_model.folder, folder / "out", SegmentOptions(**options), RunObserver())
        (worker,) = client.scheduler_info(n_workers=-1)["workers"].values()
        # The scheduler runs in this process, which has counters of its own.
        shown = scraped(client.scheduler_info()["services"]["dashboard"]) | scraped(worker["services"]["dashboard"])
    return result, shown | values(render_metrics(folder / "out").decode())


def test_workers_count_what_the_record_says(watched: tuple[RunResult, dict[str, float]]) -> None:
    result, shown = watched
    record = result.record
    assert shown["seamline_pixels_inferred_total"] == record.pixels_inferred
    assert shown["seamline_chunks_total{outcome=inferred}"] == record.chunks
    assert shown["seamline_chunks_total{outcome=written}"] == record.chunks
    for stage in ("read", "infer", "blend", "write"):
        assert shown[f"seamline_stage_seconds_total{{stage={stage}}}"] == pytest.approx(record.seconds[stage])


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
    other.record_rejected("/elsewhere", [])
    shown = values(render_metrics(out).decode())
    inferred = len(list((out / "half" / ".run").glob("*/inferred/[0-9]*.json")))
    assert shown == {
        "seamline_scenes_published": 1,
        "seamline_last_published_timestamp_seconds": (done.folder / "item.json").stat().st_mtime,
        "seamline_runs_unfinished": 1,
        "seamline_chunks_queued": 25 - inferred,
        "seamline_scenes_failed": 2,  # one that failed, one that was refused
    }
    assert values(render_metrics(tmp_path / "nowhere").decode())["seamline_scenes_published"] == 0


def expressions() -> list[str]:
    dashboard = json.loads((MONITORING / "grafana.json").read_text())
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return asked + [rule["expr"] for rule in rules]


@pytest.mark.parametrize("expression", expressions())
def test_dashboard_and_alerts_ask_for_what_is_there(
    expression: str, watched: tuple[RunResult, dict[str, float]]
) -> None:
    there = {name.partition("{")[0] for name in watched[1]}
    asked = set(re.findall(r"\b(?:seamline|dask)_\w+", expression))
    assert asked and asked <= there
    assert expression.count("(") == expression.count(")")


def test_every_alarm_stands_in_the_runbook() -> None:
    runbook = (MONITORING.parent / "RUNBOOK.md").read_text()
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
    assert [rule["alert"] for rule in rules if f"`{rule['alert']}`" not in runbook] == []
