"""Training from folders of images and from recipes: what is refused, kept and gone on with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from seamline.flows.cli.main import app
from seamline.flows.terminal import progress
from seamline.flows.training.recipe_documents import apply_changes, read_recipe
from seamline.flows.training.recipes import Recipe
from seamline.flows.training.train_from_recipe import train_from_recipe
from seamline.model.spec.document import read_model_spec
from seamline.model.spec.errors import ModelError
from seamline.model.training.loop import EpochReport
from seamline.pipeline.common.errors import InputError
from tests.support.sample_data import find_shared
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff
from tests.support.small_recipes import ignore_progress, make_recipe, write_recipe

HELD: dict[str, Any] = {
    "sources": [
        {"kind": "simulated", "size": 96, "seeds": [1, 2]},
        {"kind": "simulated", "size": 64, "seeds": [3], "name": "held"},
    ],
    "holdout": ["held"],
    "network": {"depth": 2, "base_width": 4, "dropout": 0.3},
    "schedule": {"epochs": 6, "steps": 12, "batch": 2, "window": 48, "averaged": 5},
    "warp": {"elastic": 3, "rotation": 15},
}


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(progress: EpochReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_from_recipe(make_recipe(**HELD), tmp_path, tmp_path / "model", stop)
    other = {**HELD, "schedule": {**HELD["schedule"], "rate": 0.5}}
    with pytest.raises(ModelError, match=r"got a training by another recipe or on other images, expected .* remove it"):
        train_from_recipe(make_recipe(**other), tmp_path, tmp_path / "model", ignore_progress)


def _chips(folder: Path, count: int) -> None:
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    for number in range(count):
        pixels = make_noise(3, 64, 64 + 8 * number, seed=number)
        write_geotiff(folder / "images" / f"chip{number}.tif", pixels, names=BAND_NAMES[:3])
        mask = (pixels[:1] > np.median(pixels[0])).astype(np.uint8) * 255
        write_geotiff(folder / "labels" / f"chip{number}.tif", mask)


def _train(*arguments: object) -> None:
    app([str(argument) for argument in ("train", *arguments)], standalone_mode=False)


SMALL = (
    *("--set", "network.depth=1", "--set", "network.base_width=2"),
    *("--set", "schedule.epochs=1", "--set", "schedule.steps=1", "--set", "schedule.window=32"),
    *("--bands", "blue,green,red", "--classes", "dark,bright", "--values", "0=0,255=1"),
)


def test_folders_of_images_are_trained_on_without_a_recipe(tmp_path: Path) -> None:
    _chips(tmp_path, 5)
    _train("--images", tmp_path / "images", "--labels", tmp_path / "labels", "--out", tmp_path / "model", *SMALL)
    spec = read_model_spec(tmp_path / "model")
    assert [entry.name for entry in spec.classes] == ["dark", "bright"]
    written_down = read_recipe(tmp_path / "model" / "recipe.yaml")
    training, validation = written_down.load(tmp_path)
    assert len(training) + len(validation) == 5
    held = sum(np.prod(image.shape) for image in validation) / sum(np.prod(i.shape) for i in [*training, *validation])
    assert 0.2 <= held < 0.5
    assert not {image.name for image in training} & {image.name for image in validation}


def test_an_image_is_held_out_by_area(tmp_path: Path) -> None:
    _chips(tmp_path, 1)
    images, labels = tmp_path / "images" / "chip0.tif", tmp_path / "labels" / "chip0.tif"
    _train("--images", images, "--labels", labels, "--out", tmp_path / "model", "--share", "0.25", *SMALL)
    (west,), (east,) = read_recipe(tmp_path / "model" / "recipe.yaml").load(tmp_path)
    assert (west.shape, east.shape) == ((64, 48), (64, 16))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "seamline train: got neither a recipe nor images"),
        ("recipe.yaml --images a.tif", "seamline train: got a recipe and --images"),
        ("--images a.tif", "--labels: got nothing, expected"),
        ("--images a.tif --labels b.tif", "--bands: got nothing, expected"),
        ("--images a.tif --labels b.tif --bands red", "--classes: got nothing, expected"),
        ("--images a.tif --labels b.tif --bands red --classes a,b --share 1", "holdout: Input should be less"),
        ("recipe.yaml --set schedule.epochs=" + "[" * 3000, "--set: got schedule.epochs"),
        ("recipe.yaml --set epochs", "--set: got epochs, expected FIELD=VALUE"),
        ("recipe.yaml --set schedule.epoch=2", "schedule.epoch: Unexpected"),
        ("recipe.yaml --set sources.7.weight=2", "--set: got sources.7.weight=2"),
        ("recipe.yaml --set schedule.patience=2", "recipe's schedule.patience: got 2 without a hold-out"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        _train(*arguments.split(), "--out", "model")


def test_pictures_without_a_place_are_trained_on(tmp_path: Path) -> None:
    folder = find_shared("isbi2012")
    source = {"kind": "labelled-folder", "name": "slices", "images": "image", "labels": "label", "holdout": 0.25}
    found = make_recipe(
        bands=[{"name": "grey"}],
        classes=[{"name": "membrane"}, {"name": "cell"}],
        sources=[{**source, "values": {"0": 0, "255": 1}}],
    ).load(folder)
    assert (len(found.training), len(found.validation)) == (6, 2)
    for image in [*found.training, *found.validation]:
        oracle = np.asarray(Image.open(folder / "image" / f"{image.name.removeprefix('slices/')}.png"))
        np.testing.assert_allclose(image.pixels(np.s_[:, :])[0], oracle / 255, atol=1e-6)
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "small.png")
    odd = {
        **source,
        "kind": "labelled",
        "image": str(folder / "image" / "0.png"),
        "labels": str(tmp_path / "small.png"),
    }
    del odd["images"]
    with pytest.raises(InputError, match=r"truth .*small.png: got \(9, 9\) pixels, expected \(512, 512\)"):
        make_recipe(bands=[{"name": "grey"}], sources=[odd]).load(tmp_path)


def test_images_without_labels_are_named(tmp_path: Path) -> None:
    _chips(tmp_path, 3)
    (tmp_path / "labels" / "chip1.tif").unlink()
    with pytest.raises(InputError, match=r"got 1 images without labels in .*, the first chip1, expected"):
        _train("--images", tmp_path / "images", "--labels", tmp_path / "labels", "--out", tmp_path / "m", *SMALL)
    with pytest.raises(InputError, match="got no images in "):
        found = make_recipe(sources=[{"kind": "labelled-folder", "name": "x", "images": "none", "labels": "labels"}])
        found.load(tmp_path)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    _chips(tmp_path, 2)
    (tmp_path / "images" / "chip0.tif").rename(tmp_path / "images" / "chip1.png")
    with pytest.raises(InputError, match=r"folder .*images: got chip1\.png and chip1\.tif, expected one"):
        _train("--images", tmp_path / "images", "--labels", tmp_path / "labels", "--out", tmp_path / "m", *SMALL)


def test_one_scale_is_assumed_of_a_folder(tmp_path: Path) -> None:
    _chips(tmp_path, 2)
    bright = make_noise(3, 64, 64).astype(np.uint16) % 1000 + 30_000
    bright[:, :16] -= 29_000  # a quarter is dark, so these are no numbers with an offset
    write_geotiff(tmp_path / "images" / "chip1.tif", bright, names=BAND_NAMES[:3])
    write_geotiff(tmp_path / "labels" / "chip1.tif", np.zeros((1, 64, 64), np.uint8))
    arguments = ("--images", tmp_path / "images", "--labels", tmp_path / "labels", "--out", tmp_path / "m", *SMALL)
    with pytest.raises(InputError, match=r"got numbers × 0\.0001 in .*chip0, × 1\.5.*e-05 in .*chip1"):
        _train(*arguments)
    _train(*arguments, "--set", "sources.0.scale=0.0001")


def test_training_and_model_agree_on_what_is_no_data(tmp_path: Path) -> None:
    """Black pixels of a file that declares nothing are data, unless the recipe says otherwise; then for both."""
    _chips(tmp_path, 1)
    image = tmp_path / "images" / "chip0.tif"
    pixels = make_noise(3, 64, 64)
    pixels[:, 20:40] = 0
    write_geotiff(image, pixels, names=BAND_NAMES[:3])
    arguments = ("--images", image, "--labels", tmp_path / "labels" / "chip0.tif", *SMALL)
    for assumed, there in ((None, 0.0), (0, 20 / 64)):
        out = tmp_path / f"model-{assumed}"
        _train(*arguments, "--out", out, *([] if assumed is None else ["--set", f"assumed_nodata={assumed}"]))
        assert read_model_spec(out).assumed_nodata == assumed
        (west, *_), _ = read_recipe(out / "recipe.yaml").load(tmp_path)
        assert np.isnan(west.pixels(np.s_[:, :])).mean() == there


CHANGED = {
    "values": ["--set", "sources.0.values={'0': 1, '255': 0}"],
    "bands": ["--bands", "red,green,blue"],
    "scale": ["--set", "sources.0.scale=0.001"],
    "pixels": [],
}


@pytest.mark.parametrize("what", CHANGED)
def test_a_training_goes_on_with_nothing_else(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _chips(tmp_path, 1)
    image = tmp_path / "images" / "chip0.tif"
    arguments = ["--images", image, "--labels", tmp_path / "labels" / "chip0.tif", "--out", tmp_path / "m", *SMALL]

    def stop(progress: EpochReport, names: Sequence[str]) -> None:
        raise RuntimeError

    monkeypatch.setattr(progress, "print_epoch", stop)
    with pytest.raises(RuntimeError):
        app([str(argument) for argument in ("train", *arguments)], standalone_mode=False)
    assert (tmp_path / "m" / "checkpoint.pt").exists()
    monkeypatch.undo()
    if what == "pixels":
        write_geotiff(image, make_noise(3, 64, 64, seed=9), names=BAND_NAMES[:3])
    with pytest.raises(ModelError, match="got a training by another recipe or on other images"):
        _train(*arguments, *CHANGED[what])


def test_labels_of_the_hold_out_are_looked_at_before_the_training(tmp_path: Path) -> None:
    _chips(tmp_path, 1)
    mask = np.zeros((1, 64, 64), np.uint8)
    mask[0, :, 60] = 7
    write_geotiff(tmp_path / "labels" / "chip0.tif", mask)
    arguments = ["--images", tmp_path / "images" / "chip0.tif", "--labels", tmp_path / "labels" / "chip0.tif"]
    with pytest.raises(ModelError, match="source 'chip0-holdout': got the label 7, expected 0 to 1"):
        _train(*arguments, "--out", tmp_path / "m", *SMALL, "--values", "0=0,7=7")
    assert not list((tmp_path / "m").iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"description": "two\nlines"}, "expected text of one line"),
        ({"version": ""}, "version"),
        ({"bands": [{"name": "blue", "wavelength": -1}]}, "wavelength"),
        ({"classes": [{"name": ""}, {"name": "b"}]}, "class"),
    ],
)
def test_what_no_model_can_have_is_refused_before_the_training(
    change: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seamline.flows.training.train_from_recipe.train", lambda *arguments: pytest.fail("trained"))
    with pytest.raises(InputError, match=f"recipe small: got .*{message}"):
        train_from_recipe(make_recipe(**change), tmp_path, tmp_path / "m", ignore_progress)


def test_a_loss_that_is_no_number_stops_the_training(tmp_path: Path) -> None:
    wild = make_recipe(schedule={"epochs": 2, "steps": 6, "batch": 2, "window": 32, "rate": 1e20})
    with pytest.raises(ModelError, match=r"epoch 1 of the training: got a loss that is no number, .*smaller schedule"):
        train_from_recipe(wild, tmp_path, tmp_path / "m", ignore_progress)
    assert not (tmp_path / "m" / "model.json").exists()


def test_a_model_is_not_replaced_unasked_nor_trained_twice_at_once(tmp_path: Path) -> None:
    out = tmp_path / "m"
    train_from_recipe(make_recipe(), tmp_path, out, ignore_progress)
    with pytest.raises(InputError, match=r"got a model that is there already, .* --overwrite"):
        train_from_recipe(make_recipe(), tmp_path, out, ignore_progress)

    def meanwhile(progress: EpochReport) -> None:
        with pytest.raises(InputError, match="got another training that works on it"):
            train_from_recipe(make_recipe(), tmp_path, out, ignore_progress, overwrite=True)

    train_from_recipe(make_recipe(version="2"), tmp_path, out, meanwhile, overwrite=True)
    assert read_model_spec(out).version == "2"


def test_a_training_begins_with_the_weights_of_another_model(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    spec = train_from_recipe(make_recipe(), tmp_path, first, ignore_progress)
    gentle = {"schedule": {"epochs": 1, "steps": 1, "batch": 2, "window": 32, "rate": 1e-12}, "start": str(first)}
    again = train_from_recipe(
        make_recipe(**gentle, sources=[{"kind": "simulated", "size": 64, "seeds": [2]}]),
        tmp_path,
        second,
        ignore_progress,
    )
    assert again.bands == spec.bands  # with the normalisation that the weights are used to
    old, new = (load_file(folder / spec.weights) for folder in (first, second))
    learned = {name for name in old if not re.search("running|batches", name)}
    assert learned and all(torch.allclose(old[name], new[name], atol=1e-6) for name in learned)
    with pytest.raises(InputError, match=r"recipe's start: got .* expected a model that has the recipe's bands"):
        train_from_recipe(make_recipe(start="land-water-cloud"), tmp_path, tmp_path / "third", ignore_progress)


def test_changes_reach_every_field() -> None:
    document = {"schedule": {"epochs": 3}, "sources": [{"weight": 1}]}
    found = apply_changes(document, ["schedule.epochs=5", "sources.0.weight=2.5", "loss.border=10", "holdout=[a, b]"])
    assert found == {
        "schedule": {"epochs": 5},
        "sources": [{"weight": 2.5}],
        "loss": {"border": 10},
        "holdout": ["a", "b"],
    }
    assert document["schedule"] == {"epochs": 3}
    assert isinstance(make_recipe(warp={"elastic": 10}), Recipe)
