"""Tiles stay invisible in every engine, and runs keep theirs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from distributed import Client

from seamline.flows.runs.measuring import locate_findings, measure
from seamline.flows.runs.observer import RunObserver, RunResult
from seamline.flows.runs.planning import Plan
from seamline.flows.runs.scene_job import open_input
from seamline.flows.runs.segment import segment
from seamline.flows.settings.engine_meter import EngineMeter
from seamline.flows.settings.findings import Correction, read_findings, write_findings
from seamline.flows.settings.folders import get_cache_folder
from seamline.flows.settings.model_folder import Model, get_radiometry
from seamline.flows.settings.options import SegmentOptions
from seamline.model.engines import runtime
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.execution.run_chunks import Totals
from tests.support.engines import CONVERTED, skip_without
from tests.support.run_folders import FIXED_ENGINE
from tests.support.sample_data import MANAUS, find_shared

Cluster = Callable[[int], str]


def run(model: Model, out: Path, **options: object) -> RunResult:
    return segment(find_shared(MANAUS), model.folder, out, SegmentOptions(**options), RunObserver())


def labels_in(result: RunResult) -> np.ndarray:
    with rasterio.open(result.folder / "segmentation.tif") as file:
        return file.read(1)


def test_tiles_cannot_be_seen_in_any_engine(small_model: Model, cluster: Cluster, tmp_path: Path) -> None:
    """Labels could hang on a last bit, since an engine may choose another kernel for another size; here none does."""
    options = {"cluster": cluster(2), "precision": "fp32", "device": "cpu", "batch": 1, "threads": 1}
    torchs = labels_in(run(small_model, tmp_path / "torch", engine="torch", window=256, **options))
    for engine in CONVERTED:
        skip_without(engine)
        results = [run(small_model, tmp_path / f"{engine}{w}", engine=engine, window=w, **options) for w in (256, 192)]
        assert {result.record.settings["engine"] for result in results} == {engine}
        one, other = (labels_in(result) for result in results)
        np.testing.assert_array_equal(one, other)
        assert (one == torchs).mean() >= 0.9999


class Stop(Exception):
    """Ends a run before its time."""


def test_a_resumed_run_keeps_its_engine(small_model: Model, cluster: Cluster, tmp_path: Path) -> None:
    skip_without("openvino")

    def stop(totals: Totals, plan: object) -> None:
        if totals.chunks_done:
            raise Stop

    options = {"cluster": cluster(1), "window": 256, "chunk_tiles": 1, "precision": "fp32"}
    asked = SegmentOptions(engine="openvino", **options)
    with pytest.raises(Stop):
        segment(find_shared(MANAUS), small_model.folder, tmp_path, asked, RunObserver(progress=stop))
    with pytest.raises(InputError, match="got engine openvino, expected engine torch as asked"):
        run(small_model, tmp_path, engine="torch", **options)
    (plan,) = tmp_path.rglob(".run/plan.json")
    now = plan.read_text()
    before = json.loads(now)
    del before["measured"]["settings"]["engine"]
    plan.write_text(json.dumps(before))
    with pytest.raises(InputError, match="a plan of another version"):
        run(small_model, tmp_path, **options)
    plan.write_text(now)
    result = run(small_model, tmp_path, **options)
    assert result.computed and result.record.settings["engine"] == "openvino"
    with pytest.raises(InputError, match="got engine openvino, expected engine onnxruntime as asked"):
        run(small_model, tmp_path, engine="onnxruntime", **options)


@pytest.mark.parametrize(("fixed", "calls_before"), [({"window": 256}, 0), ({}, 1)])
def test_no_network_runs_before_the_first_chunk_where_all_is_fixed(
    small_model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fixed: dict[str, object],
    calls_before: int,
) -> None:
    """With the window left open one is run, so that the calls are seen."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    open_network, calls, before = runtime.open_network, list[object](), list[int]()

    def open_and_count(*arguments: Any) -> Any:
        network = open_network(*arguments)

        def count(x: Any, halo: int) -> Any:
            calls.append(x.shape)
            return network(x, halo)

        return count

    monkeypatch.setattr(runtime, "open_network", open_and_count)
    options = SegmentOptions(**FIXED_ENGINE, **fixed, halo=48)
    observer = RunObserver(planned=lambda plan: before.append(len(calls)))
    result = segment(find_shared(MANAUS), small_model.folder, tmp_path / "out", options, observer)
    assert before[0] >= calls_before and (before[0] == 0) == (calls_before == 0)
    assert len(calls) >= result.record.windows > 0
    assert result.record.peak_memory_bytes < result.record.projected_memory_bytes


def test_a_run_that_ends_corrects_what_was_measured(
    small_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is killed does not, and the one that goes on has the plan of before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = {"window": 192, "chunk_tiles": 1, **FIXED_ENGINE}

    def stop(totals: Totals, plan: object) -> None:
        if totals.chunks_done == 4:
            raise Stop

    def run_to(name: str, observer: RunObserver) -> dict[int, float]:
        plans: list[Plan] = []
        observer = replace(observer, planned=plans.append)
        with suppress(Stop):
            segment(find_shared(MANAUS), small_model.folder, tmp_path / name, SegmentOptions(**options), observer)
        return plans[0].measured.seconds

    begun = run_to("first", RunObserver(progress=stop))
    (path,) = get_cache_folder().glob("*.json")
    known = read_findings(path)
    assert known is not None and known.correction == Correction()
    write_findings(path, replace(known, correction=Correction(seconds=3.0)))
    assert run_to("first", RunObserver()) == begun
    kept = read_findings(path)
    assert kept is not None and kept.correction.seconds not in (1.0, 3.0)
    assert run_to("second", RunObserver()) == kept.corrected.seconds != begun


def test_scenes_that_are_planned_at_once_are_checked_once(
    small_model: Model, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options, said = SegmentOptions(), list[str]()
    scene = open_input(find_shared(MANAUS), small_model, options)
    with Client(cluster(1), set_as_default=False) as client, ThreadPoolExecutor(3) as pool:
        meter = EngineMeter(small_model, get_radiometry(scene), 24, options.engine_request, 1)
        arguments = (client, scene, meter, None, locate_findings(client, meter), lambda costs: 1.0, said.append)
        planned = [pool.submit(measure, *arguments) for _ in range(3)]
        first, *others = [one.result() for one in planned]
    assert all(other == first for other in others)
    assert len(said) == 1


def test_engines_tell_their_makers_nothing(tmp_path: Path) -> None:
    """Who reports first keeps a device's or a client's id in the user's folders."""
    for engine in CONVERTED:
        skip_without(engine)
    folders = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    program = (
        "import torch; from seamline.model.spec.config import EngineSettings, UNetConfig;"
        "from seamline.model.networks.unet import UNet; from seamline.model.networks import onnx_graphs as graphs;"
        "config = UNetConfig(3, 2, depth=1, base_width=2, norm='none');"
        "graph = graphs.export_unet(UNet(config).eval(), config, 0);"
        f"[graphs.load_graph(graph, EngineSettings(engine=name))(torch.rand(1, 3, 64, 64)) for name in {CONVERTED}]"
    )
    subprocess.run([sys.executable, "-c", program], env={**kept, **folders, **nowhere}, check=True, timeout=300)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
