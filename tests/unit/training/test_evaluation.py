"""Scores against definitions written out, and rasters on different grids against rasterio."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio.features import geometry_mask
from rasterio.vrt import WarpedVRT

from seamline.flows.cli.main import app
from seamline.flows.training.evaluation import ClassRules, evaluate_segmentation, write_evaluation
from seamline.model.spec import metrics
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.results.compare import read_label_pairs
from seamline.pipeline.results.open import require_catalog
from seamline.pipeline.results.truth import Truth
from tests.support.small_rasters import UTM, write_geotiff

LABELS = hnp.arrays(np.uint8, (9, 7), elements=st.sampled_from([0, 1, 2, 255]))


@given(LABELS, LABELS)
def test_scores_are_what_their_definitions_say(predicted: np.ndarray, truth: np.ndarray) -> None:
    matrix = metrics.confusion_matrix(predicted, truth, 3)
    known = [(p, t) for p, t in zip(predicted.flat, truth.flat, strict=True) if p < 3 and t < 3]
    assert matrix.sum() == len(known)
    for label in range(3):
        right = sum(p == t == label for p, t in known)
        given_, had = sum(p == label for p, _ in known), sum(t == label for _, t in known)
        expected = {
            "iou": (right, given_ + had - right),
            "precision": (right, given_),
            "recall": (right, had),
            "f1": (2 * right, given_ + had),
        }
        for name, (part, whole) in expected.items():
            score = getattr(metrics, name)(matrix)[label]
            assert np.isnan(score) if whole == 0 else score == pytest.approx(part / whole)
    if known:
        agreed = sum(p == t for p, t in known) / len(known)
        chance = sum(sum(p == k for p, _ in known) * sum(t == k for _, t in known) for k in range(3)) / len(known) ** 2
        assert metrics.accuracy(matrix) == pytest.approx(agreed)
        assert (
            np.isnan(metrics.kappa(matrix))
            if chance == 1
            else metrics.kappa(matrix) == pytest.approx((agreed - chance) / (1 - chance))
        )


@given(LABELS, LABELS, st.integers(0, 3))
def test_boundaries_are_found_by_brute_force(predicted: np.ndarray, truth: np.ndarray, tolerance: int) -> None:
    def edge(labels: np.ndarray, label: int) -> set[tuple[int, int]]:
        rows, cols = labels.shape
        return {
            (r, c)
            for r, c in np.ndindex(rows, cols)
            if labels[r, c] == label
            and any(
                0 <= r + dr < rows and 0 <= c + dc < cols and labels[r + dr, c + dc] not in (label, 255)
                for dr, dc in ((0, 1), (1, 0), (0, -1), (-1, 0))
            )
        }

    def near(ours: set[tuple[int, int]], theirs: set[tuple[int, int]]) -> int:
        return sum(any(np.hypot(r - y, c - x) <= tolerance for y, x in theirs) for r, c in ours)

    found = metrics.count_boundaries(predicted, truth, 3, tolerance, (slice(None), slice(None)))
    for label in range(3):
        ours, theirs = edge(predicted, label), edge(truth, label)
        assert found.predicted[label] == len(ours) and found.true[label] == len(theirs)
        assert found.predicted_near[label] == near(ours, theirs)
        assert found.true_near[label] == near(theirs, ours)
        if ours and theirs:
            right, had = near(ours, theirs) / len(ours), near(theirs, ours) / len(theirs)
            assert found.f1[label] == pytest.approx(2 * right * had / (right + had) if right + had else 0)
        else:
            assert np.isnan(found.f1[label]) if not ours | theirs else found.f1[label] == 0


def blobs(height: int, width: int, seed: int, classes: int = 3) -> np.ndarray:
    noise = np.random.default_rng(seed).random((height // 8 + 1, width // 8 + 1)) * classes
    return np.kron(noise, np.ones((8, 8)))[:height, :width].astype(np.uint8)


def raster(path: Path, labels: np.ndarray, **profile: Any) -> Path:
    return write_geotiff(path, labels[None], **{"nodata": 255, **profile})


def test_blocks_are_the_whole(tmp_path: Path) -> None:
    ours, theirs = blobs(150, 130, 1), blobs(150, 130, 2)
    ours[:20, :30], theirs[100:, 90:] = 255, 255
    prediction, truth = raster(tmp_path / "p.tif", ours), Truth(raster(tmp_path / "t.tif", theirs))
    whole = evaluate_segmentation(prediction, truth)
    matrix, edges = np.zeros((3, 3), int), metrics.BoundaryCounts.zeros(3)
    for pair in read_label_pairs(prediction, truth, margin=3, edge=37):
        matrix += metrics.confusion_matrix(pair.predicted[pair.inner], pair.true[pair.inner], 3)
        edges += metrics.count_boundaries(pair.predicted, pair.true, 3, 2, pair.inner)
    np.testing.assert_array_equal(whole.matrix, matrix)
    np.testing.assert_array_equal(whole.matrix, metrics.confusion_matrix(ours, theirs, 3))
    assert [row.boundary_f1 for row in whole.classes] == edges.f1.tolist()


def test_a_segmentation_is_warped_to_the_grid_of_the_truth(tmp_path: Path) -> None:
    ours, theirs = blobs(120, 100, 1), blobs(80, 70, 2)
    grid = Affine(0.0004, 0, -62.98, 0, -0.0003, 54.16)
    prediction = raster(tmp_path / "p.tif", ours)
    with rasterio.open(prediction) as file:
        here = file.bounds
    west, south, east, north = rasterio.warp.transform_bounds("EPSG:32620", "EPSG:4326", *here)
    grid = Affine((east - west) / 60, 0, west - 0.001, 0, (south - north) / 70, north + 0.001)
    truth = raster(tmp_path / "t.tif", theirs, transform=grid, crs="EPSG:4326")
    with (
        rasterio.open(prediction) as file,
        WarpedVRT(file, crs="EPSG:4326", transform=grid, width=70, height=80, tolerance=1e-9) as vrt,
    ):
        warped = vrt.read(1)
    found = evaluate_segmentation(prediction, Truth(truth)).matrix
    np.testing.assert_array_equal(found, metrics.confusion_matrix(warped, theirs, 3))
    assert 0.5 * theirs.size < found.sum() < theirs.size


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg"])
def test_polygons_are_burnt_into_the_grid_of_the_segmentation(tmp_path: Path, suffix: str) -> None:
    ours = blobs(90, 110, 1, 2)
    prediction = raster(tmp_path / "p.tif", ours)
    rings = [[(5, 5), (60, 12), (50, 70), (5, 5)], [(55, 30), (100, 40), (70, 85), (55, 30)]]
    shapes = [shapely.Polygon([UTM @ corner for corner in ring]) for ring in rings]
    to = rasterio.warp.transform
    degrees = [shapely.Polygon(list(zip(*to("EPSG:32620", "EPSG:4326", *s.exterior.xy), strict=True))) for s in shapes]
    path = tmp_path / f"t{suffix}"
    pyogrio.raw.write(
        path,
        shapely.to_wkb(degrees),
        [np.array(["wood", "lake"], object)],
        ["kind"],
        geometry_type="Polygon",
        crs="EPSG:4326",
        driver="GeoJSON" if suffix == ".geojson" else "GPKG",
    )
    inside = [geometry_mask([shape], ours.shape, UTM, invert=True) for shape in shapes]
    either = (inside[0] | inside[1]).astype(np.uint8)
    expected = metrics.confusion_matrix(ours, either, 2)
    assert (
        np.abs(evaluate_segmentation(prediction, Truth(path)).matrix - expected).sum() <= 4
    )  # a centre on an edge, in degrees
    named = np.where(inside[1], 0, np.where(inside[0], 1, 255)).astype(np.uint8)
    found = evaluate_segmentation(prediction, Truth(path, "kind", {"wood": 1, "lake": 0})).matrix
    assert np.abs(found - metrics.confusion_matrix(ours, named, 2)).sum() <= 4
    own = tmp_path / f"own{suffix}"  # as a run publishes them
    pyogrio.raw.write(
        own,
        shapely.to_wkb(degrees),
        [np.array([1, 0], np.uint8), np.ones(2)],
        ["class", "area_m2"],
        geometry_type="Polygon",
        crs="EPSG:4326",
        driver="GeoJSON" if suffix == ".geojson" else "GPKG",
    )
    np.testing.assert_array_equal(evaluate_segmentation(prediction, Truth(own)).matrix, found)
    with pytest.raises(InputError, match="--attribute: got texts such as 'wood', expected labels"):
        evaluate_segmentation(prediction, Truth(path, "kind"))
    with pytest.raises(InputError, match="got no attribute class, expected one of kind"):
        evaluate_segmentation(prediction, Truth(path, "class"))


def test_values_are_mapped_names_are_read_and_a_report_is_written(tmp_path: Path) -> None:
    ours, theirs = blobs(60, 60, 1, 2), blobs(60, 60, 2, 2)
    prediction = raster(tmp_path / "p.tif", ours)
    with rasterio.open(prediction, "r+") as file:
        file.update_tags(CLASS_0="ground", CLASS_1="building", CLASS_2="never seen")
    truth = write_geotiff(tmp_path / "t.tif", (theirs * 255)[None])
    found = evaluate_segmentation(prediction, Truth(truth, values={"0": 0, "255": 1}))
    np.testing.assert_array_equal(found.matrix[:2, :2], metrics.confusion_matrix(ours, theirs, 2))
    write_evaluation(found, tmp_path / "scores.json", tmp_path / "matrix.png")
    report = json.loads((tmp_path / "scores.json").read_text())
    assert [row["name"] for row in report["classes"]] == ["ground", "building", "never seen"]
    assert report["classes"][2]["iou"] is None and report["pixels"] == 3600
    assert (tmp_path / "matrix.png").stat().st_size > 5000


def test_the_mean_is_that_of_the_classes_of_the_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = np.zeros((40, 40), np.uint8)
    theirs[:, 20:] = 1
    ours = theirs.copy()
    ours[:10] = 2  # in no pixel of the truth
    prediction, truth = raster(tmp_path / "p.tif", ours), raster(tmp_path / "t.tif", theirs)
    with rasterio.open(prediction, "r+") as file:
        file.update_tags(CLASS_0="land", CLASS_1="water", CLASS_2="cloud", CLASS_3="ice")
    found = evaluate_segmentation(prediction, Truth(truth))
    assert found.mean_iou == pytest.approx(0.75) and [row.name for row in found.absent] == ["cloud"]
    assert found.to_dict()["classes_in_mean"] == ["land", "water"]
    app(["evaluate", str(prediction), str(truth)], standalone_mode=False)
    assert "not in the truth, and so not in the mean: cloud\nmean IoU 0.750" in capsys.readouterr().out
    app(["evaluate", str(prediction), str(truth), "--ignore", "cloud"], standalone_mode=False)
    told = capsys.readouterr().out
    assert "1,200 pixels compared" in told and "mean IoU 1.000" in told and "not in the truth" not in told


def test_classes_are_left_out_and_merged_as_in_rasters_without_them(tmp_path: Path) -> None:
    ours, theirs = blobs(60, 60, 1, 4), blobs(60, 60, 2, 4)
    prediction, truth = raster(tmp_path / "p.tif", ours), Truth(raster(tmp_path / "t.tif", theirs))
    with rasterio.open(prediction, "r+") as file:
        file.update_tags(CLASS_0="land", CLASS_1="water", CLASS_2="cloud")
    found = evaluate_segmentation(prediction, truth, rules=ClassRules(("cloud",), {"3": "water"}))
    table = np.array([0, 1, 255, 1], np.uint8)
    plain = [raster(tmp_path / name, table[labels]) for name, labels in (("a.tif", ours), ("b.tif", theirs))]
    expected = evaluate_segmentation(plain[0], Truth(plain[1]))
    np.testing.assert_array_equal(found.matrix[:2, :2], expected.matrix)
    assert found.pixels == expected.pixels and found.mean_iou == pytest.approx(expected.mean_iou)
    assert [row.boundary_f1 for row in found.classes[:2]] == [row.boundary_f1 for row in expected.classes]
    for rules, message in (
        (ClassRules(("snow",)), "--ignore: got 'snow', expected a label, 0 to 254, or one of land, water, cloud"),
        (ClassRules(merged={"255": "land"}), "--merge: got '255'"),
        (ClassRules(merged={"land": "water", "water": "cloud"}), "--merge: got water, which is merged itself"),
        (ClassRules(("3",), {"3": "water"}), "--ignore: got 3, which --merge makes another class of"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate_segmentation(prediction, truth, rules=rules)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    prediction = raster(tmp_path / "p.tif", blobs(40, 40, 1))
    far = raster(tmp_path / "far.tif", blobs(40, 40, 1), transform=UTM @ Affine.translation(5000, 0))
    empty = raster(tmp_path / "empty.tif", np.full((40, 40), 255, np.uint8))
    (tmp_path / "text.tif").write_text("hello")
    cases = {
        tmp_path / "none.tif": "expected a file that GDAL reads",
        tmp_path / "text.tif": "expected a file that GDAL reads",
        tmp_path / "none.gpkg": "expected a file that GDAL reads",
        far: "expected an overlap with the segmentation",
        empty: "got no pixel that both know",
    }
    for path, message in cases.items():
        with pytest.raises(InputError, match=message):
            evaluate_segmentation(prediction, Truth(path))
    with pytest.raises(InputError, match=r"got no segmentation\.tif in it"):
        evaluate_segmentation(tmp_path, Truth(prediction))


def test_a_truth_that_gdal_would_wait_for_or_read_as_zeros_is_refused(tmp_path: Path) -> None:
    labels = blobs(600, 600, 1)
    prediction = raster(tmp_path / "p.tif", labels)
    for name in ("pipe.tif", "pipe.gpkg"):
        os.mkfifo(tmp_path / name)
    picture = tmp_path / "cut.png"
    with rasterio.open(picture, "w", driver="PNG", width=600, height=600, count=1, dtype="uint8") as file:
        file.write(labels, 1)
    os.truncate(picture, picture.stat().st_size // 2)
    virtual = tmp_path / "cut.vrt"
    with rasterio.open(prediction) as file, WarpedVRT(file) as warped:
        rasterio.shutil.copy(warped, virtual, driver="VRT")
    virtual.write_text(virtual.read_text().replace("p.tif", "gone.tif"))
    plain = tmp_path / "cut.bil"
    with rasterio.open(plain, "w", driver="EHdr", width=600, height=600, count=1, dtype="uint8") as file:
        file.write(labels, 1)
    os.truncate(plain, plain.stat().st_size // 2)
    for name in ("pipe.tif", "pipe.gpkg", "cut.png", "cut.vrt", "cut.bil"):
        with pytest.raises(InputError, match=name):
            evaluate_segmentation(prediction, Truth(tmp_path / name))


def test_an_image_is_no_truth(tmp_path: Path) -> None:
    labels = write_geotiff(tmp_path / "labels.tif", np.zeros((1, 20, 20), np.uint8))
    image = write_geotiff(tmp_path / "image.tif", np.ones((4, 20, 20), np.uint16))
    with pytest.raises(InputError, match=r"image.tif: got 4 bands, as an image has, expected one band of labels"):
        evaluate_segmentation(labels, Truth(image))
    with pytest.raises(InputError, match=r"segmentation .*image.tif: got 4 bands"):
        evaluate_segmentation(image, Truth(labels))
    assert evaluate_segmentation(labels, Truth(image, values={"1": 0})).accuracy == 1  # coded in the first band


@pytest.mark.parametrize(("share", "is_refused"), [(0.4, False), (0.6, True)])
def test_truth_of_other_classes_is_refused(tmp_path: Path, share: float, is_refused: bool) -> None:
    labels = write_geotiff(tmp_path / "labels.tif", np.zeros((1, 20, 20), np.uint8))
    with rasterio.open(labels, "r+") as file:
        file.update_tags(CLASS_0="land", CLASS_1="water")
    values = np.zeros((1, 20, 20), np.uint8)
    values[:, : round(share * 20)] = 77
    truth = Truth(write_geotiff(tmp_path / "truth.tif", values))
    if not is_refused:
        assert evaluate_segmentation(labels, truth).accuracy == pytest.approx(0.6)
        return
    with pytest.raises(InputError, match=r"60% of its pixels with labels of no class: 77, .*0 land, 1 water.*--values"):
        evaluate_segmentation(labels, truth)
    assert evaluate_segmentation(labels, truth, rules=ClassRules(merged={"77": "land"})).accuracy == 1


def test_a_folder_that_was_taken_for_another_is_named(tmp_path: Path) -> None:
    scene = tmp_path / "results" / "a"
    scene.mkdir(parents=True)
    for path in (scene / "run.json", scene / "item.json", tmp_path / "results" / "catalog.json"):
        path.write_text("{}")
    truth = Truth(write_geotiff(tmp_path / "truth.tif", np.zeros((1, 20, 20), np.uint8)))
    with pytest.raises(InputError, match=rf"name one of them, such as {scene}"):
        evaluate_segmentation(tmp_path / "results", truth)
    with pytest.raises(InputError, match=rf"name the one that it lies in, {tmp_path / 'results'}$"):
        require_catalog(scene)
