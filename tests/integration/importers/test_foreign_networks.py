"""Real networks of other people, from file to labels: as good as in their authors' own program, or better."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from seamline.flows.runs.observer import RunObserver, RunResult
from seamline.flows.runs.segment import segment
from seamline.flows.settings.options import SegmentOptions
from seamline.flows.training.evaluation import evaluate_segmentation
from seamline.flows.training.importing import ModelDescription, import_model
from seamline.model.spec import metrics
from seamline.pipeline.results.truth import Truth
from tests.support.sample_data import MANAUS, find_shared
from tests.support.small_rasters import BAND_NAMES, UTM, write_geotiff

csmask = pytest.importorskip("ukis_csmask.mask", reason="ukis-csmask, with its networks, is not installed")

CLASSES = ("clear", "cloud", "cloud shadow")
ANALYSTS = {0: 2, 1: 0, 3: 0, 4: 1}
"""Their labels on the chips: 0 shadow, 1 water, 3 land, 4 cloud."""


def imported(name: str, folder: Path) -> Path:
    """A model folder of one of the networks that ukis-csmask brings; its JSON tells what they were trained on."""
    home = Path(csmask.__file__).parent
    data: dict[str, Any] = json.loads((home / f"{name}.json").read_text())["data"]
    mean, std = data["dataset_statistics"]["img"]
    described = ModelDescription(
        tuple(data["dataset_statistics"]["band_names"]),
        CLASSES,
        name.replace("_", "-"),
        mean=tuple(mean),
        std=tuple(std),
        license="Apache-2.0",
    )
    spec = import_model(home / f"{name}.onnx", described, folder)
    assert spec.receptive_radius is None  # squeeze and excitation looks at the whole window
    assert spec.network.to_dict()["window"] == 256
    return folder


def run(scene: Path, model: Path, out: Path, address: str) -> RunResult:
    return segment(scene, model, out, SegmentOptions(cluster=address, engine="onnxruntime", batch=1), RunObserver())


def chip(sensor: str, folder: Path) -> tuple[np.ndarray, Path, np.ndarray, Path]:
    """A labelled chip: its image (height, width, bands) and labels, and both as rasters."""
    arrays = np.load(find_shared(f"ukis-csmask/{sensor}.npz"))
    image, mask = arrays["img"], arrays["msk"][..., 0]
    truth = np.full(mask.shape, 255, np.uint8)
    for theirs, ours in ANALYSTS.items():
        truth[mask == theirs] = ours
    scene = write_geotiff(folder / f"{sensor}.tif", np.moveaxis(image, -1, 0), transform=UTM, names=BAND_NAMES)
    return image, scene, truth, write_geotiff(folder / f"{sensor}-truth.tif", truth[None], transform=UTM, nodata=255)


@pytest.mark.parametrize(("bands", "sensors"), [(4, ("landsat5",)), (6, ("landsat5", "landsat7"))])
def test_kappa_on_labelled_chips_is_that_of_the_authors_program(
    tmp_path: Path, cluster: Any, bands: int, sensors: tuple[str, ...]
) -> None:
    model = imported(f"model_{bands}b_l1c", tmp_path / "model")
    ours, theirs = np.zeros((3, 3), int), np.zeros((3, 3), int)
    for sensor in sensors:
        image, scene, truth, labels = chip(sensor, tmp_path)
        result = run(scene, model, tmp_path / "out", cluster(2))
        plan = result.record.plan
        assert (plan.window, plan.overlap) == (256, 32) and plan.halo in (16, 32, 64)
        found = evaluate_segmentation(result.folder, Truth(labels))
        own = csmask.CSmask(image.copy()[..., :bands], list(BAND_NAMES[:bands]), product_level="l1c").csm[..., 0]
        matrix = metrics.confusion_matrix(own, truth, 3)
        print(f"{sensor}, {bands} bands: kappa {found.kappa:.4f}, their own program {metrics.kappa(matrix):.4f}")
        ours, theirs = ours + found.matrix, theirs + matrix
    print(f"all, {bands} bands: kappa {metrics.kappa(ours):.4f}, their own program {metrics.kappa(theirs):.4f}")
    assert metrics.kappa(ours) >= metrics.kappa(theirs)


def test_a_real_scene_is_segmented(tmp_path: Path, cluster: Any) -> None:
    result = run(find_shared(MANAUS), imported("model_6b_l2a", tmp_path / "model"), tmp_path / "out", cluster(2))
    with rasterio.open(result.folder / "segmentation.tif") as file, rasterio.open(find_shared(MANAUS)) as scene:
        labels = file.read(1)
        assert (file.transform, file.crs) == (scene.transform, scene.crs)
        np.testing.assert_array_equal(labels == 255, scene.read().max(0) == 0)
    assert (labels == 0).mean() > 0.8  # a clear day
