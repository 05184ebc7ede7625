"""A network learns, and the training stops when it no longer does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from seamline.model.spec.config import UNetConfig
from seamline.model.training import loop
from seamline.model.training.augmentation import Jitter, Warp
from seamline.model.training.config import TrainingConfig
from seamline.model.training.loop import train
from seamline.model.training.losses import Loss
from tests.support.striped_images import make_striped_image, make_training


@pytest.mark.parametrize("loss", [Loss(), Loss(0, 0, focal=1), Loss(1, 0, border=10, sigma=3)], ids=repr)
def test_a_network_learns(loss: Loss) -> None:
    base = make_training(UNetConfig(2, 2, depth=2, base_width=4))
    training = TrainingConfig(base.network, base.schedule, base.class_weights, Jitter(), Warp(2, 20, 0.1), loss)
    trained = train(training, [make_striped_image()], [make_striped_image(seed=1)])
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
    training = make_training(UNetConfig(2, 2, depth=1, base_width=2), epochs=5, steps=2, window=16, patience=2)
    trained = train(training, [make_striped_image()], [make_striped_image()], tmp_path / "checkpoint.pt")
    assert (len(trained.history), trained.chosen_epoch) == (epochs, chosen)
    for name, values in trained.network.state_dict().items():
        torch.testing.assert_close(values, seen[chosen - 1][name], rtol=0, atol=0)
    again = train(
        training, [make_striped_image()], [make_striped_image()], tmp_path / "checkpoint.pt"
    )  # from its last checkpoint
    assert len(seen) == epochs and again.chosen_epoch == chosen
