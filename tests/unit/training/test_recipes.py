"""Training by a recipe: what is wrong with recipe, data or folder is said in one line, before any training."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import torch
from affine import Affine

from seamline.flows.training import train_from_recipe as training
from seamline.flows.training.recipe_documents import read_recipe
from seamline.flows.training.train_from_recipe import train_from_recipe
from seamline.model.spec.document import read_model_spec
from seamline.model.spec.errors import ModelError
from seamline.model.training.data import IGNORE, LabelledImage, split_into_blocks
from seamline.model.training.normalisation import Normalisation
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.synthetic.simulate import Simulation
from seamline.pipeline.synthetic.simulation_files import write_simulation
from tests.support.small_rasters import BAND_NAMES, UTM, make_noise, write_geotiff
from tests.support.small_recipes import SMALL_RECIPE, ignore_progress, make_recipe, write_recipe


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_recipe_becomes_a_model(tmp_path: Path, padding: str) -> None:
    path = write_recipe(
        tmp_path,
        network={"depth": 2, "base_width": 4, "padding": padding},
        sources=[*SMALL_RECIPE["sources"], {"kind": "simulated", "size": 50, "seeds": [2], "name": "held"}],
        holdout=["held"],
        schedule={**SMALL_RECIPE["schedule"], "window": 64},
        unseen=["cloud", "shadow"],
    )
    spec = train_from_recipe(read_recipe(path), tmp_path, tmp_path / "model", ignore_progress)
    assert spec.network.padding == padding and spec.unseen == ("cloud", "shadow")
    assert read_model_spec(tmp_path / "model") == spec
    assert not (tmp_path / "model" / "checkpoint.pt").exists()


def test_unseen_classes_of_a_recipe_are_classes() -> None:
    with pytest.raises(ValueError, match="unseen: no class is called 'fog'"):
        make_recipe(unseen=["fog"])
    assert make_recipe().unseen is None and make_recipe(unseen=[]).unseen == []


@pytest.mark.parametrize("labels", ["raster", "coarse raster", "polygons"])
def test_images_are_labelled_by_rasters_and_polygons_on_any_grid(tmp_path: Path, labels: str) -> None:
    pixels = make_noise(6, 90, 120)
    write_geotiff(tmp_path / "image.tif", pixels, names=BAND_NAMES)
    truth = np.zeros((90, 120), np.uint8)
    truth[30:60, 40:80] = 200
    if labels == "raster":
        write_geotiff(tmp_path / "labels.tif", truth[None])
    elif labels == "coarse raster":
        write_geotiff(tmp_path / "labels.tif", truth[None, 5::10, 5::10], transform=UTM @ Affine.scale(10))
    else:
        square = shapely.Polygon([UTM @ corner for corner in ((40, 30), (80, 30), (80, 60), (40, 60))])
        pyogrio.raw.write(
            tmp_path / "labels.gpkg",
            shapely.to_wkb([square]),
            [np.array([200])],
            ["kind"],
            geometry_type="Polygon",
            crs="EPSG:32620",
            driver="GPKG",
        )
    source = {
        "kind": "labelled",
        "name": "middle",
        "image": "image.tif",
        "part": (0.25, 0.1, 1, 0.9),
        "labels": "labels.gpkg" if labels == "polygons" else "labels.tif",
        "values": {200: 1, 0: 0},
        "attribute": "kind" if labels == "polygons" else "",
    }
    ((image,), _) = make_recipe(sources=[source]).load(tmp_path)
    part = np.s_[9:81, 30:120]
    expected = np.where(truth == 200, 1, 255 if labels == "polygons" else 0)[part]
    (whole,) = split_into_blocks(image.shape)
    np.testing.assert_array_equal(image.labels(whole), expected)
    found = image.pixels(whole)
    np.testing.assert_allclose(found, pixels[:, *part] * (found / pixels[:, *part]).flat[0], rtol=1e-5)


# --- the recipe ------------------------------------------------------------------------------------------

FILES: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "got No such file or directory, expected a YAML file"),
    "list": (b"- a\n- b\n", "got a list, expected a YAML file with the fields of a recipe"),
    "text": (b"hello", "got a str, expected a YAML file with the fields"),
    "empty": (b"", "got nothing, expected a YAML file with the fields"),
    "broken": (b"a: [1,\nb", "got while parsing .*, expected a YAML file"),
    "binary": (b"\xff\xfe\x00\x80", "got .*, expected a YAML file"),
    "null byte": (b"a: \x00", "got .*, expected a YAML file"),
    "no date": (b"name: 2024-13-45", "got month must be in 1..12, expected a YAML file"),
    "code": (b"!!python/object:os.system {}", "got could not determine a constructor .*, expected a YAML file"),
}


@pytest.mark.parametrize("case", FILES)
def test_what_is_no_recipe_is_refused(case: str, tmp_path: Path) -> None:
    content, message = FILES[case]
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"recipe .*recipe\.yaml: {message}"):
        read_recipe(path)


def test_a_recipe_is_a_file_that_ends(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "recipe.yaml")
    for path in (tmp_path / "recipe.yaml", Path("/dev/zero")):
        with pytest.raises(InputError, match="a pipe, socket or device"):
            read_recipe(path)


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got Is a directory, expected a YAML file"):
        read_recipe(tmp_path)


BANDS, CLASSES = SMALL_RECIPE["bands"], SMALL_RECIPE["classes"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": []}, "sources: List should have at least 1 item"),
        ({"bands": []}, "bands: List should have at least 1 item"),
        ({"classes": CLASSES[:1]}, "classes: List should have at least 2 items"),
        ({"classes": [*CLASSES, CLASSES[0]]}, "classes: two are called 'land'"),
        ({"bands": [*BANDS, BANDS[0]]}, "bands: two are called 'blue'"),
        ({"name": "A b"}, "name: String should match"),
        ({"network": {"depth": 2, "base_width": 12, "norm": "group"}}, "norm group: got 12, expected up to 8 or n · 8"),
        ({"schedule": {"window": 33}}, "schedule: window 33 must be a multiple of 16, the network's divisor, "),
        ({"schedule": {"window": 16}}, "schedule: window 16 must be .* at least 32"),
        ({"network": {"depth": 2, "padding": "valid"}}, "schedule: window 32 must be .* at least 48"),
        ({"schedule": {"rate": -1}}, "rate of a training: got -1.0, expected"),
        ({"schedule": {"rate": float("nan")}}, "schedule.rate: Input should be a finite number"),
        ({"schedule": {"warmup": 2}}, "warmup of a training: got 2.0, expected"),
        ({"schedule": {"weight_decay": -1}}, "weight_decay of a training: got -1.0, expected"),
        ({"schedule": {"seed": -1}}, "seed of a training: got -1, expected"),
        ({"jitter": {"gain": -1}}, "jitter: gain of a jitter: got -1.0, expected at least 0"),
        ({"jitter": {"dropout": 3}}, "jitter: dropout of a jitter: got 3.0, expected at most 1"),
        ({"sources": [{"kind": "simulated", "size": 64, "seeds": []}]}, "seeds: List should have at least 1 item"),
        ({"sources": [{"kind": "simulated", "size": 64, "seeds": [-1]}]}, "seeds.0: Input should be greater"),
        ({"sources": [{"kind": "simulated", "size": 2**40, "seeds": [1]}]}, "size: Input should be less"),
        ({"sources": [{"kind": "water-index", "path": "x", "scale": 0}]}, "scale: Input should be a number other than"),
    ],
)
def test_recipes_that_cannot_be_trained_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    changes = {"network": {}, **changes}
    with pytest.raises(InputError, match=message) as error:
        read_recipe(write_recipe(tmp_path, **changes))
    assert "Value error" not in str(error.value)


# --- the data --------------------------------------------------------------------------------------------

IMAGE = np.random.default_rng(0).random((40, 40, 6), dtype=np.float32)
MASK = (np.arange(1600).reshape(40, 40) % 4).astype(np.uint8)


def chip(folder: Path, image: Any = IMAGE, mask: Any = MASK, **changes: Any) -> dict[str, Any]:
    np.savez(folder / "chip.npz", image=image, mask=mask)
    labels = {value: value for value in range(4)}
    source = {"kind": "chip", "path": "chip.npz", "image_key": "image", "mask_key": "mask", "labels": labels}
    return {**source, **changes}


def junk(folder: Path, content: bytes) -> dict[str, Any]:
    (folder / "junk.npz").write_bytes(content)
    return chip(folder, path="junk.npz")


def bare_array(folder: Path) -> dict[str, Any]:
    np.save(folder / "bare.npy", IMAGE)
    return chip(folder, path="bare.npy")


def scene(folder: Path) -> dict[str, Any]:
    write_geotiff(folder / "scene.tif", make_noise(3, 40, 40), names=BAND_NAMES[:3], nodata=0)
    return {"kind": "water-index", "path": "scene.tif"}


CHIPS: dict[str, tuple[Callable[[Path], dict[str, Any]], str]] = {
    "missing": (lambda d: chip(d, path="none.npz"), "No such file or directory"),
    "folder": (lambda d: chip(d, path="."), "Is a directory"),
    "empty": (lambda d: junk(d, b""), "expected an .npz file"),
    "text": (lambda d: junk(d, b"hello"), "expected an .npz file"),
    "cut off": (lambda d: junk(d, b"PK\x03\x04" + bytes(100)), "expected an .npz file"),
    "one array": (bare_array, "expected an .npz file"),
    "another key": (lambda d: chip(d, image_key="img"), "'img.*expected an .npz file below .* with img and mask"),
    "objects": (lambda d: chip(d, image=np.array([{}], dtype=object)), "expected an .npz file"),
    "words": (lambda d: chip(d, image=np.full((40, 40, 6), "a")), "expected an .npz file"),
    "flat": (lambda d: chip(d, image=IMAGE[..., 0]), r"got \(40, 40\) and \(40, 40\), expected \(height, width, 6\)"),
    "few bands": (lambda d: chip(d, image=IMAGE[..., :3]), r"got \(40, 40, 3\) and \(40, 40\), expected"),
    "two sizes": (lambda d: chip(d, mask=MASK[:9]), r"got \(40, 40, 6\) and \(9, 40\), expected"),
    "no data": (lambda d: chip(d, image=IMAGE * np.nan), "got no pixel that has data in all bands"),
    "no data in a band": (lambda d: chip(d, image=IMAGE * ([np.nan] + [1] * 5)), "got no pixel that has data in all"),
    "no labels": (lambda d: chip(d, labels={}), "got no labelled pixel"),
    "other labels": (
        lambda d: chip(d, mask=MASK.astype("i4") + 1000),
        "got the values 1000, 1001, 1002, 1003, expected pixels of 0 or 1 or 2 or 3",
    ),
    "no class": (lambda d: chip(d, labels={0: 4}), "got the label 4, expected 0 to 3, the classes of the recipe"),
}


@pytest.mark.parametrize("case", CHIPS)
def test_data_that_cannot_be_learned_from_is_refused(case: str, tmp_path: Path) -> None:
    make, message = CHIPS[case]
    with pytest.raises((InputError, ModelError), match=message) as error:
        train_from_recipe(make_recipe(sources=[make(tmp_path)]), tmp_path, tmp_path / "model", ignore_progress)
    assert "source '" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("holdout", [0, 0.5])
@pytest.mark.parametrize(
    ("mask", "found"),
    [
        (MASK, "the values 0, 1, 2, 3"),
        (np.arange(1600, dtype="i4").reshape(40, 40) + 300, r"the values 300, 301, .* 311 and \d+ more"),
        ((MASK == 1) * 0.5, "the values 0, 0.5"),
    ],
)
def test_labels_none_of_whose_values_is_named_are_refused_with_those_that_were_found(
    tmp_path: Path, mask: Any, found: str, holdout: float
) -> None:
    write_geotiff(tmp_path / "image.tif", make_noise(6, 40, 40), names=BAND_NAMES)
    write_geotiff(tmp_path / "mask.tif", np.asarray(mask)[None])
    source = {"kind": "labelled", "name": "x", "image": "image.tif", "labels": "mask.tif", "holdout": holdout}
    named = {"7": 0, "255": 1}
    with pytest.raises(InputError, match=f"labels of source 'x': got {found}, expected pixels of 7 or 255"):
        make_recipe(sources=[{**source, "values": named}]).load(tmp_path)
    box = shapely.box(*rasterio.open(tmp_path / "image.tif").bounds)
    columns = {"geometry": [shapely.to_wkb(box)], "field_data": [np.array(["forest"], object)], "fields": ["kind"]}
    pyogrio.raw.write(tmp_path / "mask.gpkg", **columns, geometry_type="Polygon", crs="EPSG:32620")
    polygons = {**source, "labels": "mask.gpkg", "attribute": "kind", "values": {"wood": 1}}
    with pytest.raises(InputError, match="labels of source 'x': got the values forest, expected pixels of wood"):
        make_recipe(sources=[polygons]).load(tmp_path)


def test_masks_may_be_of_any_numbers(tmp_path: Path) -> None:
    for mask, labels in (
        (MASK.astype("f4"), {1: 2}),
        (MASK.astype("i4") - 1000, {-999: 2}),
        (MASK.astype("i4") + 1000, {1001: 2}),
    ):
        (image,), _ = make_recipe(sources=[chip(tmp_path, mask=mask, labels=labels)]).load(tmp_path)
        np.testing.assert_array_equal(image.labels(np.s_[:, :]), np.where(MASK == 1, 2, 255))


def test_sources_of_other_bands_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="source 'simulated-1' of the recipe: got 6 bands, expected 3"):
        make_recipe(bands=BANDS[:3]).load(tmp_path)
    with pytest.raises(InputError, match="got the bands blue, green, red, expected blue, green, nir, swir16"):
        make_recipe(bands=BANDS[:3], sources=[scene(tmp_path)]).load(tmp_path)


def test_something_must_be_left_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holdout: got every source, expected"):
        make_recipe(holdout=["simulated"]).load(tmp_path)


def test_bands_of_one_value_are_refused() -> None:
    flat = LabelledImage("flat", np.ones((2, 8, 8), np.float32), np.zeros((8, 8), np.uint8))
    with pytest.raises(ModelError, match="band 1 of the training images: got a mean of 1 and a deviation of 0"):
        Normalisation.from_images([flat])


# --- the folder ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["file", "file/model", "/proc/none/model"])
def test_a_folder_that_cannot_be_written_is_refused_at_once(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "train", lambda *arguments: pytest.fail("trained"))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--out .*: got .*, expected a folder that can be written to; choose another"):
        train_from_recipe(make_recipe(), tmp_path, tmp_path / out, ignore_progress)


def test_a_result_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(InputError, match=r"--out .*: got .*directory.*, expected room for the model"):
        train_from_recipe(make_recipe(), tmp_path, tmp_path, ignore_progress)


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04", None])
def test_a_checkpoint_of_something_else_is_refused(content: bytes | None, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    if content is None:
        torch.save({"epoch": 1, "network": {"x": torch.zeros(1)}}, checkpoint)
    else:
        checkpoint.write_bytes(content)
    with pytest.raises(ModelError, match=r"checkpoint .*checkpoint\.pt: got .*, expected .* remove it") as error:
        train_from_recipe(make_recipe(), tmp_path, tmp_path, ignore_progress)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_checkpoint_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(state: object, path: Path) -> None:
        path.write_bytes(b"PK")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ModelError, match=r"checkpoint .*checkpoint\.pt: got .*unexpected pos.*, expected room"):
        train_from_recipe(make_recipe(), tmp_path, tmp_path, ignore_progress)
    assert not list(tmp_path.iterdir())


GROUNDS = {  # reflectance in six bands; labels by the rules as they are, strict ones, and strict ones without cloud
    "clear water": ((0.06, 0.05, 0.03, 0.01, 0.005, 0.003), (1, 1, 1)),
    "muddy water": ((0.10, 0.13, 0.14, 0.09, 0.02, 0.01), (1, 1, 1)),
    "lava in haze": ((0.110, 0.083, 0.078, 0.075, 0.063, 0.046), (1, 0, 0)),
    "burn scar": ((0.05, 0.06, 0.065, 0.075, 0.11, 0.10), (IGNORE, 0, 0)),
    "wet meadow": ((0.09, 0.11, 0.09, 0.16, 0.07, 0.03), (1, IGNORE, IGNORE)),
    "wood": ((0.03, 0.05, 0.03, 0.30, 0.15, 0.07), (0, 0, 0)),
    "roof": ((0.30, 0.31, 0.32, 0.35, 0.35, 0.30), (IGNORE, IGNORE, 0)),
    "shadow of a cloud": ((0.05, 0.04, 0.03, 0.06, 0.03, 0.015), (1, IGNORE, IGNORE)),
}


@pytest.mark.parametrize("ground", GROUNDS)
def test_the_rules_of_weak_labels(ground: str, tmp_path: Path) -> None:
    reflectance, labels = GROUNDS[ground]
    pixels = np.broadcast_to(np.array(reflectance, np.float32)[:, None, None], (6, 4, 4))
    write_geotiff(tmp_path / "scene.tif", pixels, names=BAND_NAMES)
    ways = ({}, {"strict": True}, {"strict": True, "cloudless": True})
    sources = [{"kind": "water-index", "path": "scene.tif", "scale": 1.0, **way} for way in ways]
    images = [make_recipe(sources=[source]).load(tmp_path).training[0] for source in sources]
    assert tuple(int(image.labels(np.s_[:, :])[2, 2]) for image in images) == labels


def test_a_real_scene_is_learned_from(tmp_path: Path) -> None:
    write_simulation(Simulation(200, 200), tmp_path / "scene.tif")
    (image,), _ = make_recipe(sources=[{"kind": "water-index", "path": "scene.tif"}]).load(tmp_path)
    assert image.shape == (200, 200) and (image.labels(np.s_[:, :]) < 2).any()
