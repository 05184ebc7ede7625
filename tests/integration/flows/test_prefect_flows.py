"""The Prefect flow: a real flow run on a real (temporary) server, its task, its artifacts, its failures."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
import rasterio
import yaml
from PIL import Image
from prefect.client.orchestration import get_client

from seamline.flows.segment_scene import segment_scene
from seamline.flows.settings.model_folder import Model, open_model
from seamline.flows.settings.options import SegmentOptions
from seamline.flows.train_model import train_model_flow
from seamline.pipeline.common.errors import InputError
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff
from tests.support.small_recipes import SMALL_RECIPE


def test_a_flow_run_segments_a_scene_and_leaves_its_artifacts(
    prefect: None, small_model: Model, cluster: Callable[[int], str], tmp_path: Path
) -> None:
    source = write_geotiff(tmp_path / "scene.tif", make_noise(6, 300, 400), names=BAND_NAMES, nodata=0)
    options = SegmentOptions(cluster=cluster(2), window=192, halo=48)
    state = segment_scene(str(source), str(small_model.folder), tmp_path / "out", options, return_state=True)
    outcome = state.result()
    assert outcome["computed"]
    with rasterio.open(Path(outcome["folder"]) / "segmentation.tif") as file:
        assert file.shape == (300, 400)
    of_it = {"flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}}}
    with get_client(sync_client=True) as client:
        artifacts = client.request("POST", "/artifacts/filter", json=of_it).json()
        tasks = client.request("POST", "/task_runs/filter", json=of_it).json()
    assert state.is_completed()
    assert {run["name"].split()[0] for run in tasks} == {"segment", "check", "plan", "infer", "publish"}
    assert {run["state_name"] for run in tasks} == {"Completed"}
    assert {artifact["type"] for artifact in artifacts} == {"progress", "markdown", "image"}
    (progress,) = (artifact["data"] for artifact in artifacts if artifact["type"] == "progress")
    assert progress == 100
    (preview,) = (artifact["data"] for artifact in artifacts if artifact["type"] == "image")
    with Image.open(BytesIO(base64.b64decode(preview.removeprefix("data:image/jpeg;base64,")))) as picture:
        assert picture.width <= 900 and len(preview) < 400_000
    summary = next(artifact["data"] for artifact in artifacts if artifact["type"] == "markdown")
    assert "network pixels per scene pixel" in summary
    assert not segment_scene(str(source), str(small_model.folder), tmp_path / "out", options)["computed"]


def test_a_flow_run_trains_a_model(prefect: None, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(SMALL_RECIPE))
    outcome = train_model_flow(tmp_path / "recipe.yaml", tmp_path, tmp_path / "model", changes=["network.depth=1"])
    spec = open_model(tmp_path / "model").spec
    assert (spec.name, spec.divisor) == (outcome["name"], 2) == ("small", 2)
    with pytest.raises(InputError, match="name sources of the recipe"):
        train_model_flow(tmp_path / "recipe.yaml", tmp_path, tmp_path / "other", ["nowhere"])


def test_bad_input_fails_the_flow_run_with_its_message(prefect: None, small_model: Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="check the path"):
        segment_scene(str(tmp_path / "none.tif"), str(small_model.folder), tmp_path / "out")


def test_parameters_are_checked_before_the_run(prefect: None, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="window"):
        segment_scene("x.tif", "land-water-cloud", tmp_path, {"window": "large"})


def test_the_run_form_describes_every_option() -> None:
    schema = segment_scene.parameters.model_dump()
    assert {"source", "model", "out", "options"} <= set(schema["properties"])
    fields = schema["definitions"]["SegmentOptions"]["properties"]
    assert all(field.get("description") for field in fields.values())


def test_a_run_starts_without_what_only_its_end_needs() -> None:
    """Torch takes seconds to import, the others a third of a second and more, which every run would pay."""
    slow = {"torch", "prefect", "pandas", "geopandas", "pyogrio", "scipy", "matplotlib", "xarray"}
    code = f"import sys, seamline.flows.runs.segment; print(*sorted({slow} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert answer.stdout.split() == []
