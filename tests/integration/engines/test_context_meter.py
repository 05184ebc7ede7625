"""The plan of a run follows the measured context."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from seamline.flows.runs.observer import RunObserver
from seamline.flows.runs.planning import plan_scene
from seamline.flows.runs.segment import segment
from seamline.flows.settings.model_folder import Model, open_model
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.planning.tilings import choose_halo
from tests.support.small_models import make_random_network, save_model
from tests.support.small_rasters import make_noise, write_geotiff


def unbounded(folder: Path) -> Model:
    folder.mkdir()
    save_model(folder, make_random_network(norm="group", depth=3))
    return open_model(folder)


def test_an_unbounded_plan_follows_the_curve_and_a_bounded_one_is_exact(
    tmp_path: Path, cluster: Callable[[int], str]
) -> None:
    scene = write_geotiff(tmp_path / "scene.tif", make_noise(2, 300, 260), names=("b0", "b1"))
    options = SegmentOptions(cluster=cluster(1), engine="torch", precision="fp32", device="cpu")
    model = unbounded(tmp_path / "unbounded")
    plan = plan_scene(scene, model.folder, options, None)
    curve = plan.measured.changed
    assert plan.tiling.halo == choose_halo(curve, model.reach) and set(curve) >= {8, 16, 32}
    assert (
        set(plan.redundancy_by_halo) == set(curve)
        and plan.redundancy_by_halo[plan.tiling.halo] == plan.tiling.redundancy
    )
    result = segment(scene, model.folder, tmp_path / "out", options, RunObserver())
    assert result.record.plan.halo == plan.tiling.halo
    (tmp_path / "bounded").mkdir()
    spec = save_model(tmp_path / "bounded", make_random_network(depth=3))
    plan = plan_scene(scene, tmp_path / "bounded", options, None)
    assert plan.tiling.halo == spec.exact_halo and plan.measured.changed[plan.tiling.halo] == 0
    assert plan.measured.changed[0] > 0 and plan.redundancy_by_halo[0] < plan.redundancy_by_halo[plan.tiling.halo]
