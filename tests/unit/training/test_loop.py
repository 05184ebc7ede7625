"""Learning from labelled images: what is read and drawn, what is minimised, and that it works, also after a kill."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch.nn import functional as F

from seamline.flows.cli.main import app
from seamline.flows.terminal import tables as display
from seamline.flows.training.recipes import Recipe, apply_changes, read_recipe
from seamline.flows.training.training import train_from_recipe
from seamline.model.spec.config import UNetConfig
from seamline.model.spec.document import read_model_spec
from seamline.model.spec.errors import ModelError
from seamline.model.training import loop
from seamline.model.training.augmentation import Jitter, Warp, turn_randomly
from seamline.model.training.config import Normalisation, Schedule, TrainingConfig
from seamline.model.training.data import (
    BLOCK_SIZE,
    IGNORE,
    Area,
    LabelledImage,
    Survey,
    draw_windows,
    read_window,
    sample_blocks,
    split_into_blocks,
)
from seamline.model.training.loop import EpochReport, train
from seamline.model.training.losses import BORDER_CUTOFF, Loss, compute_border_weights
from seamline.model.training.validation import compute_context
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.window import mirror_indices
from tests.support.sample_data import shared
from tests.support.small_rasters import noise, write
from tests.unit.training.test_recipes import NAMES, recipe, silent, written

STILL = Jitter(0, 0, 0, 0, 0)


def striped(height: int = 300, width: int = 420, seed: int = 0) -> LabelledImage:
    """Two bands; the label says which of them is brighter. Stripes of 40 pixels, noise on top."""
    mask = (np.add.outer(np.arange(height), np.arange(width)) // 40 % 2).astype(np.uint8)
    noise = np.random.default_rng(seed).normal(0, 0.1, (2, height, width))
    return LabelledImage(f"stripes-{seed}", (np.stack([1 - mask, mask]) + noise).astype(np.float32), mask)


class Watched:
    """An image that remembers the largest area that was read of it."""

    def __init__(self, image: LabelledImage) -> None:
        self.image, self.largest = image, 0
        self.name, self.weight, self.shape = image.name, image.weight, image.shape

    def pixels(self, area: Area) -> NDArray[np.float32]:
        return self._seen(self.image.pixels(area))

    def labels(self, area: Area) -> NDArray[np.uint8]:
        return self._seen(self.image.labels(area))

    def digest(self) -> str:
        return self.image.digest()

    def _seen(self, values: NDArray[Any]) -> NDArray[Any]:
        self.largest = max(self.largest, values.shape[-1] * values.shape[-2])
        return values


@given(st.integers(-60, 90), st.integers(-60, 90), st.integers(1, 90), st.integers(1, 90))
def test_a_window_that_overhangs_is_mirrored(top: int, left: int, height: int, width: int) -> None:
    image = striped(70, 80)
    padded = np.pad(image.image, [(0, 0), (200, 200), (200, 200)], mode="reflect")
    pixels, labels = read_window(image, top, left, height, width)
    np.testing.assert_array_equal(pixels, padded[:, 200 + top :][:, :height, 200 + left :][..., :width])
    assert labels.shape == pixels.shape[1:]


def test_training_mirrors_as_segmentation_does() -> None:
    image = striped(30, 40)
    pixels, _ = read_window(image, -17, -95, 80, 190)
    rows, cols = mirror_indices(-17, 63, 30), mirror_indices(-95, 95, 40)
    np.testing.assert_array_equal(pixels, image.image.take(rows, 1).take(cols, 2))


@given(st.integers(1, 120), st.integers(1, 120), st.integers(4, 80))
def test_blocks_partition_an_image(height: int, width: int, edge: int) -> None:
    seen = np.zeros((height, width), np.uint8)
    for rows, cols in split_into_blocks((height, width), edge):
        seen[rows, cols] += 1
        assert 0 < rows.stop - rows.start <= edge and 0 < cols.stop - cols.start <= edge
    assert (seen == 1).all()


def test_a_survey_counts_every_pixel_of_every_class() -> None:
    rng = np.random.default_rng(0)
    mask = rng.choice([0, 1, 2, IGNORE], (700, 900)).astype(np.uint8)
    survey = Survey.from_image(LabelledImage("x", np.zeros((1, 700, 900), np.float32), mask), 4)
    assert survey.counts.sum(0).tolist() == [int((mask == k).sum()) for k in range(4)]
    assert survey.present.tolist() == [0, 1, 2]
    drawn = np.bincount([survey.draw_block(1, rng) for _ in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(drawn, survey.counts[:, 1] / survey.counts[:, 1].sum(), atol=0.04)


def test_windows_from_files_are_those_from_memory(tmp_path: Path) -> None:
    write(tmp_path / "image.tif", noise(6, 200, 230), names=NAMES, nodata=0)
    write(tmp_path / "labels.tif", np.random.default_rng(0).integers(0, 4, (1, 200, 230)).astype(np.uint8))
    source = {"kind": "labelled", "name": "a", "image": "image.tif", "labels": "labels.tif", "part": (0.1, 0, 1, 0.9)}
    found = recipe(sources=[source])
    (opened,), _ = found.sources[0].load(tmp_path, found.band_needs, None)
    (kept,), _ = found.load(tmp_path)
    assert isinstance(kept, LabelledImage) and not isinstance(opened, LabelledImage)
    drawn = []
    for image in (opened, kept):
        windows = draw_windows(
            [image], [Survey.from_image(image, 4)], 64, Jitter(), Warp(elastic=4), np.random.default_rng(5)
        )
        drawn.append([next(windows) for _ in range(6)])
    for (pixels, labels), (same_pixels, same_labels) in zip(*drawn, strict=True):
        np.testing.assert_array_equal(pixels, same_pixels)
        np.testing.assert_array_equal(labels, same_labels)


def test_half_of_the_windows_look_for_a_class() -> None:
    mask = np.zeros((2000, 2000), np.uint8)
    mask[1300:1304, 200:204] = 1
    image = LabelledImage("rare", np.zeros((1, 2000, 2000), np.float32), mask)
    windows = draw_windows([image], [Survey.from_image(image, 2)], 64, STILL, Warp(), np.random.default_rng(0))
    shares = [(next(windows)[1] == 1).any() for _ in range(400)]
    assert 0.17 < np.mean(shares) < 0.33  # a quarter: half of them, one of two classes


def test_no_more_is_read_than_windows_and_blocks() -> None:
    mask = np.zeros((900, 1300), np.uint8)
    mask[:, 650:] = 1
    image = Watched(LabelledImage("large", noise(2, *mask.shape).astype(np.float32), mask))
    config = UNetConfig(2, 2, depth=2, base_width=4)
    train(_training(config, epochs=1, steps=2), [image], [image])
    assert 0 < image.largest <= (BLOCK_SIZE + 2 * compute_context(config)) ** 2
    assert image.largest < mask.size / 3


def test_the_bands_of_a_large_image_are_described_by_a_part_of_it() -> None:
    image = striped(1100, 1300)
    everything = Normalisation.from_images([image])
    np.testing.assert_allclose(everything.mean, image.image.mean((1, 2), dtype=np.float64), atol=1e-5)
    np.testing.assert_allclose(everything.std, image.image.std((1, 2), dtype=np.float64), atol=1e-5)
    assert len(sample_blocks(image, 64, 50)) == 50 and sample_blocks(image, 64, 50) == sample_blocks(image, 64, 50)


def test_no_warp_changes_nothing() -> None:
    image = striped(64, 64)
    pixels, labels = Warp()(image.image, image.mask, 64, np.random.default_rng(0))
    np.testing.assert_array_equal(pixels, image.image)
    np.testing.assert_array_equal(labels, image.mask)


@pytest.mark.parametrize("warp", [Warp(elastic=6), Warp(rotation=180), Warp(zoom=0.3), Warp(5, 30, 0.2)], ids=repr)
def test_a_warp_samples_pixels_and_labels_at_the_same_places(warp: Warp) -> None:
    size, margin = 96, warp.compute_margin(96)
    image = striped(size + 2 * margin, size + 2 * margin)
    pixels, labels = warp(image.image, image.mask, size, np.random.default_rng(3))
    places = warp._draw_coordinates(size, np.random.default_rng(3)) + (size + 2 * margin - 1) / 2
    across, down = np.moveaxis(places, -1, 0)
    for found, whole in zip(pixels, image.image, strict=True):
        oracle = ndimage.map_coordinates(whole, [down, across], order=1, mode="mirror")
        inside = (np.abs(places - (size + 2 * margin - 1) / 2) < size / 2 + margin - 1).all(-1)
        assert inside.mean() > 0.8
        np.testing.assert_allclose(found[inside], oracle[inside], atol=2e-3)
    nearest = ndimage.map_coordinates(image.mask, [down, across], order=0, mode="mirror")
    assert (labels == nearest).mean() > 0.98
    assert not (labels == image.mask[margin:-margin, margin:-margin]).all()


def test_what_has_no_data_teaches_nothing_when_warped() -> None:
    image = striped(200, 200)
    image.image[:, :, 100:] = np.nan
    windows = draw_windows([image], [Survey.from_image(image, 2)], 64, STILL, Warp(elastic=8), np.random.default_rng(0))
    for _ in range(20):
        pixels, labels = next(windows)
        np.testing.assert_array_equal(labels == IGNORE, ~np.isfinite(pixels).all(0))


def test_a_window_is_turned_eight_ways() -> None:
    pixels = np.arange(9, dtype=np.float32).reshape(1, 3, 3)
    seen = {turn_randomly(pixels, pixels[0], np.random.default_rng(k))[0].tobytes() for k in range(200)}
    assert len(seen) == 8


def _some() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, 9, 11))
    labels[0, :3] = IGNORE
    return torch.randn(2, 3, 9, 11), labels, torch.tensor([1.0, 2.0, 0.5])


def test_cross_entropy_is_torchs() -> None:
    logits, labels, weights = _some()
    expected = F.cross_entropy(logits, labels, weights, ignore_index=IGNORE)
    torch.testing.assert_close(Loss(dice=0)(logits, labels, weights), expected)
    torch.testing.assert_close(Loss(0, 0, focal=1, gamma=0)(logits, labels, weights), expected)
    level = torch.full(labels.shape, 7.0)
    unweighted = F.cross_entropy(logits, labels, ignore_index=IGNORE)
    torch.testing.assert_close(Loss(dice=0)(logits, labels, torch.ones(3), level), unweighted)


def test_focal_loss_is_the_papers() -> None:
    logits, labels, _ = _some()
    known = labels != IGNORE
    p = logits.softmax(1).gather(1, torch.where(known, labels, 0)[:, None])[:, 0][known]
    expected = (-((1 - p) ** 2) * p.log()).mean()
    torch.testing.assert_close(Loss(0, 0, focal=1, gamma=2)(logits, labels, torch.ones(3)), expected)


@pytest.mark.parametrize("loss", [Loss(), Loss(focal=1), Loss(border=10)], ids=repr)
def test_unknown_pixels_teach_nothing(loss: Loss) -> None:
    logits, labels, weights = _some()
    borders = torch.rand(labels.shape)
    other = torch.where((labels == IGNORE)[:, None], torch.randn_like(logits) * 5, logits)
    torch.testing.assert_close(loss(logits, labels, weights, borders), loss(other, labels, weights, borders))
    assert loss(logits, torch.full_like(labels, IGNORE), weights) == 0
    sure = 50 * F.one_hot(torch.where(labels == IGNORE, 0, labels), 3).movedim(-1, 1).float()
    assert loss(sure, labels, weights, borders) < 0.02


@given(st.integers(0, 2**32 - 1), st.floats(0.5, 4), st.integers(1, 3))
def test_border_weights_are_equation_two(seed: int, sigma: float, classes: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random((14, 17)) < 0.25).astype(np.uint8) * rng.integers(1, classes + 1, (14, 17)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.05] = IGNORE
    far = BORDER_CUTOFF * sigma
    distances = [np.full(labels.shape, far), np.full(labels.shape, far)]
    for label in range(1, classes + 1):
        objects, count = ndimage.label(labels == label)
        for number in range(1, count + 1):
            points = np.argwhere(objects == number)
            offsets = np.indices(labels.shape)[..., None] - points.T[:, None, None]
            distances.append(np.hypot(*offsets).min(-1))
    first, second = np.sort(np.array(distances), axis=0)[:2]
    expected = 10 * np.exp(-((first + second) ** 2) / (2 * sigma**2))
    np.testing.assert_allclose(
        compute_border_weights(labels, 10, sigma), expected, rtol=1e-4, atol=10 * np.exp(-(BORDER_CUTOFF**2) / 2)
    )


def _training(config: UNetConfig, **schedule: Any) -> TrainingConfig:
    given = {"epochs": 3, "steps": 20, "batch": 4, "window": 64, "rate": 0.01, "averaged": 20, **schedule}
    return TrainingConfig(config, Schedule(**given), (1.0,) * config.classes, STILL, Warp(), Loss())


@pytest.mark.parametrize("loss", [Loss(), Loss(0, 0, focal=1), Loss(1, 0, border=10, sigma=3)], ids=repr)
def test_a_network_learns(loss: Loss) -> None:
    base = _training(UNetConfig(2, 2, depth=2, base_width=4))
    training = TrainingConfig(base.network, base.schedule, base.class_weights, Jitter(), Warp(2, 20, 0.1), loss)
    trained = train(training, [striped()], [striped(seed=1)])
    assert min(trained.history[-1].iou) > 0.9
    assert trained.history[-1].loss < trained.history[0].loss
    assert [done.epoch for done in trained.history] == [1, 2, 3] and trained.chosen_epoch == 3


@pytest.mark.parametrize(("scores", "epochs", "chosen"), [([5, 6, 4, 3, 9], 4, 2), ([1, 2, 3, 4, 5], 5, 5)])
def test_a_training_stops_early_and_takes_the_best(
    scores: Sequence[int], epochs: int, chosen: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def scored(network: torch.nn.Module, *rest: object) -> tuple[float, ...]:
        seen.append({name: values.clone() for name, values in network.state_dict().items()})
        return (scores[len(seen) - 1] / 10, float("nan"))

    monkeypatch.setattr(loop, "evaluate", scored)
    training = _training(UNetConfig(2, 2, depth=1, base_width=2), epochs=5, steps=2, window=16, patience=2)
    trained = train(training, [striped()], [striped()], tmp_path / "checkpoint.pt")
    assert (len(trained.history), trained.chosen_epoch) == (epochs, chosen)
    for name, values in trained.network.state_dict().items():
        torch.testing.assert_close(values, seen[chosen - 1][name], rtol=0, atol=0)
    again = train(training, [striped()], [striped()], tmp_path / "checkpoint.pt")  # from its last checkpoint
    assert len(seen) == epochs and again.chosen_epoch == chosen


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
        train_from_recipe(recipe(**HELD), tmp_path, tmp_path / "model", stop)
    other = {**HELD, "schedule": {**HELD["schedule"], "rate": 0.5}}
    with pytest.raises(ModelError, match=r"got a training by another recipe or on other images, expected .* remove it"):
        train_from_recipe(recipe(**other), tmp_path, tmp_path / "model", silent)


def _chips(folder: Path, count: int) -> None:
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    for number in range(count):
        pixels = noise(3, 64, 64 + 8 * number, seed=number)
        write(folder / "images" / f"chip{number}.tif", pixels, names=NAMES[:3])
        mask = (pixels[:1] > np.median(pixels[0])).astype(np.uint8) * 255
        write(folder / "labels" / f"chip{number}.tif", mask)


def _train(*arguments: object) -> None:
    app([str(argument) for argument in ("train", *arguments)], standalone_mode=False)


SMALL = [
    "--set",
    "network.depth=1",
    "--set",
    "network.base_width=2",
    "--set",
    "schedule.epochs=1",
    "--set",
    "schedule.steps=1",
]


SMALL += [
    "--set",
    "schedule.window=32",
    "--bands",
    "blue,green,red",
    "--classes",
    "dark,bright",
    "--values",
    "0=0,255=1",
]


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
)  # fmt: skip
def test_what_cannot_be_trained_is_refused(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        _train(*arguments.split(), "--out", "model")


def test_pictures_without_a_place_are_trained_on(tmp_path: Path) -> None:
    folder = shared("isbi2012")
    source = {"kind": "labelled-folder", "name": "slices", "images": "image", "labels": "label", "holdout": 0.25}
    found = recipe(
        bands=[{"name": "grey"}], classes=[{"name": "membrane"}, {"name": "cell"}],
        sources=[{**source, "values": {"0": 0, "255": 1}}],
    ).load(folder)  # fmt: skip
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
        recipe(bands=[{"name": "grey"}], sources=[odd]).load(tmp_path)


def test_images_without_labels_are_named(tmp_path: Path) -> None:
    _chips(tmp_path, 3)
    (tmp_path / "labels" / "chip1.tif").unlink()
    with pytest.raises(InputError, match=r"got 1 images without labels in .*, the first chip1, expected"):
        _train("--images", tmp_path / "images", "--labels", tmp_path / "labels", "--out", tmp_path / "m", *SMALL)
    with pytest.raises(InputError, match="got no images in "):
        found = recipe(sources=[{"kind": "labelled-folder", "name": "x", "images": "none", "labels": "labels"}])
        found.load(tmp_path)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    _chips(tmp_path, 2)
    (tmp_path / "images" / "chip0.tif").rename(tmp_path / "images" / "chip1.png")
    with pytest.raises(InputError, match=r"folder .*images: got chip1\.png and chip1\.tif, expected one"):
        _train("--images", tmp_path / "images", "--labels", tmp_path / "labels", "--out", tmp_path / "m", *SMALL)


def test_one_scale_is_assumed_of_a_folder(tmp_path: Path) -> None:
    _chips(tmp_path, 2)
    bright = noise(3, 64, 64).astype(np.uint16) % 1000 + 30_000
    write(tmp_path / "images" / "chip1.tif", bright, names=NAMES[:3])
    write(tmp_path / "labels" / "chip1.tif", np.zeros((1, 64, 64), np.uint8))
    arguments = ("--images", tmp_path / "images", "--labels", tmp_path / "labels", "--out", tmp_path / "m", *SMALL)
    with pytest.raises(InputError, match=r"got numbers × 0\.0001 in .*chip0, × 1\.5.*e-05 in .*chip1"):
        _train(*arguments)
    _train(*arguments, "--set", "sources.0.scale=0.0001")


def test_training_and_model_agree_on_what_is_no_data(tmp_path: Path) -> None:
    """Black pixels of a file that declares nothing are data, unless the recipe says otherwise; then for both."""
    _chips(tmp_path, 1)
    image = tmp_path / "images" / "chip0.tif"
    pixels = noise(3, 64, 64)
    pixels[:, 20:40] = 0
    write(image, pixels, names=NAMES[:3])
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

    monkeypatch.setattr(display, "print_epoch", stop)
    with pytest.raises(RuntimeError):
        app([str(argument) for argument in ("train", *arguments)], standalone_mode=False)
    assert (tmp_path / "m" / "checkpoint.pt").exists()
    monkeypatch.undo()
    if what == "pixels":
        write(image, noise(3, 64, 64, seed=9), names=NAMES[:3])
    with pytest.raises(ModelError, match="got a training by another recipe or on other images"):
        _train(*arguments, *CHANGED[what])


def test_labels_of_the_hold_out_are_looked_at_before_the_training(tmp_path: Path) -> None:
    _chips(tmp_path, 1)
    mask = np.zeros((1, 64, 64), np.uint8)
    mask[0, :, 60] = 7
    write(tmp_path / "labels" / "chip0.tif", mask)
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
    monkeypatch.setattr("seamline.flows.training.training.train", lambda *arguments: pytest.fail("trained"))
    with pytest.raises(InputError, match=f"recipe small: got .*{message}"):
        train_from_recipe(recipe(**change), tmp_path, tmp_path / "m", silent)


def test_a_loss_that_is_no_number_stops_the_training(tmp_path: Path) -> None:
    wild = recipe(schedule={"epochs": 2, "steps": 6, "batch": 2, "window": 32, "rate": 1e20})
    with pytest.raises(ModelError, match=r"epoch 1 of the training: got a loss that is no number, .*smaller schedule"):
        train_from_recipe(wild, tmp_path, tmp_path / "m", silent)
    assert not (tmp_path / "m" / "model.json").exists()


def test_a_model_is_not_replaced_unasked_nor_trained_twice_at_once(tmp_path: Path) -> None:
    out = tmp_path / "m"
    train_from_recipe(recipe(), tmp_path, out, silent)
    with pytest.raises(InputError, match=r"got a model that is there already, .* --overwrite"):
        train_from_recipe(recipe(), tmp_path, out, silent)

    def meanwhile(progress: EpochReport) -> None:
        with pytest.raises(InputError, match="got another training that works on it"):
            train_from_recipe(recipe(), tmp_path, out, silent, overwrite=True)

    train_from_recipe(recipe(version="2"), tmp_path, out, meanwhile, overwrite=True)
    assert read_model_spec(out).version == "2"


def test_changes_reach_every_field() -> None:
    document = {"schedule": {"epochs": 3}, "sources": [{"weight": 1}]}
    found = apply_changes(document, ["schedule.epochs=5", "sources.0.weight=2.5", "loss.border=10", "holdout=[a, b]"])
    assert found == {
        "schedule": {"epochs": 5}, "sources": [{"weight": 2.5}], "loss": {"border": 10}, "holdout": ["a", "b"],
    }  # fmt: skip
    assert document["schedule"] == {"epochs": 3}
    assert isinstance(recipe(warp={"elastic": 10}), Recipe)
