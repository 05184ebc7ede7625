"""Train a U-Net on labelled images: one loop, mixed precision, a checkpoint after every epoch."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from seamline.model.engines.torch_engine import enable_mixed_precision
from seamline.model.networks.unet import UNet
from seamline.model.spec.errors import ModelError
from seamline.model.training.checkpoint import restore_checkpoint, save_checkpoint
from seamline.model.training.config import Normalisation, TrainingConfig
from seamline.model.training.data import LabelledSource, Survey, draw_windows
from seamline.model.training.losses import compute_border_weights
from seamline.model.training.validation import SAMPLED_TILES, evaluate

log = logging.getLogger("seamline.training")

PREFETCHED = 3
"""Batches that are made ready while the network learns from another."""


@dataclass(frozen=True)
class EpochReport:
    """What is told after each epoch: losses are means over its steps, ``iou`` one value a class, ``rate`` its last."""

    epoch: int
    epochs: int
    loss: float
    iou: tuple[float, ...]
    rate: float
    seconds: float

    @property
    def mean_iou(self) -> float:
        """Over the classes that the hold-out has; NaN without one."""
        return float(np.nanmean(self.iou)) if np.isfinite(self.iou).any() else float("nan")


@dataclass(frozen=True)
class TrainingResult:
    """What came out of a training; ``chosen`` is the epoch whose weights the network has."""

    network: UNet
    normalisation: Normalisation
    history: tuple[EpochReport, ...]
    chosen_epoch: int


@dataclass(frozen=True)
class Batch:
    """Windows to learn from, on the device: ``x`` (B, bands, H, W) normalised, ``y`` (B, H, W), ``borders`` like y."""

    x: Tensor
    y: Tensor
    borders: Tensor | None


def train(
    training: TrainingConfig,
    images: Sequence[LabelledSource],
    validation: Sequence[LabelledSource],
    checkpoint: Path | None = None,
    report: Callable[[EpochReport], None] = lambda progress: None,
) -> TrainingResult:
    """Train from scratch, or from the ``checkpoint`` of an interrupted training with the same arguments.

    What comes out is the running average of the weights over about the last ``schedule.averaged`` steps, which
    generalises better than where the last step happened to land (Izmailov et al. 2018, arXiv:1803.05407). Every epoch
    draws its windows from a generator seeded by (seed, epoch), so that a training that goes on after a kill sees the
    windows that it would have seen, and ends with the same weights.
    """
    for image in validation:  # before, rather than after hours
        Survey.from_image(image, training.network.classes)
    loop = _TrainingLoop(training, images)
    digest, best = training.digest(images, validation), loop.averaged.state_dict()
    history: list[EpochReport] = []
    if checkpoint and (record := restore_checkpoint(checkpoint, digest, loop.state)) is not None:
        history, best = [EpochReport(**values) for values in record["history"]], record["best"]
        log.warning("going on after epoch %d of %d", len(history), training.schedule.epochs)
    schedule = training.schedule
    for epoch in range(len(history), schedule.epochs):
        if schedule.patience and epoch - _find_best_epoch(history) >= schedule.patience:
            break
        started = time.monotonic()
        loss = loop.epoch(epoch)
        scores = evaluate(loop.averaged, validation, loop.normalise, SAMPLED_TILES) if validation else ()
        rate = float(loop.rates.get_last_lr()[0])
        history.append(EpochReport(epoch + 1, schedule.epochs, loss, scores, rate, time.monotonic() - started))
        if not schedule.patience or _find_best_epoch(history) == len(history):
            best = {name: values.clone() for name, values in loop.averaged.state_dict().items()}
        if checkpoint:
            save_checkpoint(
                checkpoint, digest, loop.state, {"history": [asdict(done) for done in history], "best": best}
            )
        report(history[-1])
    loop.averaged.load_state_dict(best)
    chosen = _find_best_epoch(history) if schedule.patience else len(history)
    return TrainingResult(loop.averaged.eval().to("cpu"), loop.normalise, tuple(history), chosen)


def _find_best_epoch(history: Sequence[EpochReport]) -> int:
    """The number of the epoch with the highest mean IoU, counted from 1; 0 if there is none."""
    scores = [progress.mean_iou for progress in history]
    return 1 + int(np.nanargmax(scores)) if np.isfinite(scores).any() else 0


class _TrainingLoop:
    """A network and what turns its losses into weights."""

    def __init__(self, training: TrainingConfig, images: Sequence[LabelledSource]) -> None:
        self.training, self.images = training, images
        schedule = training.schedule
        torch.manual_seed(schedule.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = UNet(training.network).to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=schedule.rate, weight_decay=schedule.weight_decay
        )
        self.rates = torch.optim.lr_scheduler.LambdaLR(self.optimiser, schedule.compute_rate_factor)
        self.average = AveragedModel(
            self.network, multi_avg_fn=_make_running_average(schedule.averaged), use_buffers=True
        )
        self.normalise = Normalisation.from_images(images)
        self.surveys = [Survey.from_image(image, training.network.classes) for image in images]
        there = set().union(*(survey.present.tolist() for survey in self.surveys))
        if missing := sorted(set(range(training.network.classes)) - there):
            log.warning("no pixel of class %s in the training images", ", ".join(map(str, missing)))
        self.weights = torch.tensor(training.class_weights, device=self.device)

    @property
    def averaged(self) -> UNet:
        """The network with the running average of the weights."""
        network: UNet = self.average.module  # type: ignore[assignment]
        return network

    @property
    def state(self) -> dict[str, Any]:
        """All that changes from step to step."""
        return {
            "network": self.network, "average": self.average, "optimiser": self.optimiser, "rates": self.rates,
        }  # fmt: skip

    def epoch(self, number: int) -> float:
        """Learn from one epoch's windows; the mean loss."""
        schedule = self.training.schedule
        rng = np.random.default_rng((schedule.seed, number))
        torch.manual_seed(schedule.seed * 100_003 + number)
        self.network.train()
        with closing(_prefetch(self._batches(rng))) as batches:
            losses = [self._step(next(batches)) for _ in range(schedule.steps)]
        if not np.isfinite(losses).all():
            raise ModelError(
                f"epoch {number + 1} of the training",
                got="a loss that is no number",
                expected="finite losses",
                fix="take a smaller schedule.rate, and check weights, jitter and the scale of the images",
            )
        return float(np.mean(losses))

    def _step(self, batch: Batch) -> float:
        halo = self.training.network.least_halo
        with enable_mixed_precision(self.device):
            logits = self.network(batch.x, halo)
        loss = self.training.loss(
            logits.float(),
            _crop_border(batch.y, halo),
            self.weights,
            None if batch.borders is None else _crop_border(batch.borders, halo),
        )
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.rates.step()
        self.average.update_parameters(self.network)
        return float(loss.item())

    def _batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        training, loss = self.training, self.training.loss
        schedule = training.schedule
        windows = draw_windows(self.images, self.surveys, schedule.window, training.jitter, training.warp, rng)
        while True:
            pixels, labels = zip(*(next(windows) for _ in range(schedule.batch)), strict=True)
            x = torch.from_numpy(self.normalise(np.stack(pixels))).to(self.device, memory_format=torch.channels_last)
            borders = [compute_border_weights(mask, loss.border, loss.sigma) for mask in labels] if loss.border else []
            yield Batch(
                x, self._to_device(np.stack(labels)).long(), self._to_device(np.stack(borders)) if borders else None
            )

    def _to_device(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(self.device)


def _make_running_average(steps: int) -> Callable[[Any, Any, Any], None]:
    """An exponential average over about so many steps; over a tenth of those there were while they are fewer."""

    @torch.no_grad()
    def average(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        weight = max(1 / steps, 9 / (10 + int(count)))  # of the new: as in TensorFlow's ExponentialMovingAverage
        for old, new in zip(averaged, current, strict=True):
            if old.is_floating_point():
                old.lerp_(new, weight)
            else:
                old.copy_(new)  # numbers of batches

    return average


def _crop_border(values: Tensor, halo: int) -> Tensor:
    return values[:, halo : values.shape[1] - halo, halo : values.shape[2] - halo]


def _prefetch(batches: Iterator[Batch]) -> Generator[Batch]:
    """The same batches in the same order, made in a thread of their own while the last one is learned from."""
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, batches) for _ in range(PREFETCHED))
        while True:
            yield waiting.popleft().result()
            waiting.append(pool.submit(next, batches))
