"""The training loop: a U-Net learns from random windows of labelled images, with a checkpoint after every epoch."""

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
from seamline.model.training.checkpoint import Stateful, restore_checkpoint, save_checkpoint
from seamline.model.training.config import TrainingConfig
from seamline.model.training.data import LabelledSource
from seamline.model.training.losses import compute_border_weights
from seamline.model.training.normalisation import Normalisation
from seamline.model.training.sampling import Survey, draw_windows
from seamline.model.training.start import StartingPoint
from seamline.model.training.validation import SAMPLED_TILES, evaluate

log = logging.getLogger("seamline.training")

_PREFETCHED = 3
"""Batches that are prepared in another thread while the network learns from the current one."""


@dataclass(frozen=True)
class EpochReport:
    """The figures of one epoch.

    Attributes:
        epoch: number of the epoch, counted from 1.
        epochs: number of epochs of the training.
        loss: mean over the epoch's steps.
        iou: of each class on the hold-out; empty without one.
        rate: learning rate after the epoch.
        seconds: time of the epoch, with its validation.
    """

    epoch: int
    epochs: int
    loss: float
    iou: tuple[float, ...]
    rate: float
    seconds: float

    @property
    def mean_iou(self) -> float:
        """Mean IoU over the classes that the hold-out has; NaN without a hold-out."""
        return float(np.nanmean(self.iou)) if np.isfinite(self.iou).any() else float("nan")


@dataclass(frozen=True)
class TrainingResult:
    """A trained network.

    Attributes:
        network: in evaluation mode, on the CPU.
        normalisation: of the network's input.
        history: one report for each epoch.
        chosen_epoch: the epoch whose weights the network has, counted from 1.
    """

    network: UNet
    normalisation: Normalisation
    history: tuple[EpochReport, ...]
    chosen_epoch: int


@dataclass(frozen=True)
class _Batch:
    """Windows to learn from, on the device.

    Attributes:
        x: normalised pixels (B, bands, H, W).
        y: labels (B, H, W), int64.
        borders: additional weights (B, H, W); ``None`` if the loss has no border term.
    """

    x: Tensor
    y: Tensor
    borders: Tensor | None


def train(
    training: TrainingConfig,
    images: Sequence[LabelledSource],
    validation: Sequence[LabelledSource],
    checkpoint: Path | None = None,
    report: Callable[[EpochReport], None] = lambda progress: None,
    start: StartingPoint | None = None,
) -> TrainingResult:
    """Train a network, or go on from the checkpoint of an interrupted training with the same arguments.

    The result has the running average of the weights over about the last ``schedule.averaged`` steps, which
    generalises better than the weights of the last step (Izmailov et al. 2018, arXiv:1803.05407). Each epoch draws its
    windows with a generator that is seeded by (seed, epoch). So a resumed training sees the windows that it would have
    seen, and ends with the same weights.

    Args:
        training: network, schedule, augmentation and loss.
        images: what is learned from.
        validation: the hold-out, scored after every epoch; may be empty.
        checkpoint: file of the training's state, written after every epoch; ``None``: the training cannot be resumed.
        report: called after every epoch.
        start: weights to begin with; ``None``: random ones.

    Returns:
        The network with the weights of the last epoch, or of the best one if the schedule has patience.

    Raises:
        ModelError: an image cannot be learned from, the loss is not finite, or the checkpoint cannot be used.
    """
    for image in validation:  # refuses bad labels now; the first validation would find them after an epoch
        Survey.from_image(image, training.network.classes)
    loop = _TrainingLoop(training, images, start)
    digest = training.digest(images, validation) + (start.digest if start else "")
    best = loop.averaged_network.state_dict()
    history: list[EpochReport] = []
    if checkpoint and (record := restore_checkpoint(checkpoint, digest, loop.state)) is not None:
        history, best = [EpochReport(**values) for values in record["history"]], record["best"]
        log.warning("going on after epoch %d of %d", len(history), training.schedule.epochs)
    schedule = training.schedule
    for epoch in range(len(history), schedule.epochs):
        if schedule.patience and epoch - _find_best_epoch(history) >= schedule.patience:
            break
        started = time.monotonic()
        loss = loop.run_epoch(epoch)
        scores = evaluate(loop.averaged_network, validation, loop.normalise, SAMPLED_TILES) if validation else ()
        rate = float(loop.rates.get_last_lr()[0])
        history.append(EpochReport(epoch + 1, schedule.epochs, loss, scores, rate, time.monotonic() - started))
        if not schedule.patience or _find_best_epoch(history) == len(history):
            best = {name: values.clone() for name, values in loop.averaged_network.state_dict().items()}
        if checkpoint:
            record = {"history": [asdict(epoch_report) for epoch_report in history], "best": best}
            save_checkpoint(checkpoint, digest, loop.state, record)
        report(history[-1])
    loop.averaged_network.load_state_dict(best)
    chosen_epoch = _find_best_epoch(history) if schedule.patience else len(history)
    return TrainingResult(loop.averaged_network.eval().to("cpu"), loop.normalise, tuple(history), chosen_epoch)


def _find_best_epoch(history: Sequence[EpochReport]) -> int:
    """Return the number of the epoch with the highest mean IoU, counted from 1; 0 if no epoch has one."""
    scores = [epoch_report.mean_iou for epoch_report in history]
    return 1 + int(np.nanargmax(scores)) if np.isfinite(scores).any() else 0


class _TrainingLoop:
    """The network in training with its optimiser, learning rates and average, and the images it learns from."""

    def __init__(self, training: TrainingConfig, images: Sequence[LabelledSource], start: StartingPoint | None) -> None:
        self.training, self.images = training, images
        schedule = training.schedule
        torch.manual_seed(schedule.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = UNet(training.network).to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if start is not None:
            self.network.load_state_dict(start.weights)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=schedule.rate, weight_decay=schedule.weight_decay
        )
        self.rates = torch.optim.lr_scheduler.LambdaLR(self.optimiser, schedule.compute_rate_factor)
        self.averaged_model = AveragedModel(
            self.network, multi_avg_fn=_make_running_average(schedule.averaged), use_buffers=True
        )
        self.normalise = Normalisation.from_images(images) if start is None else start.normalisation
        self.surveys = [Survey.from_image(image, training.network.classes) for image in images]
        present = set().union(*(survey.present.tolist() for survey in self.surveys))
        if missing := sorted(set(range(training.network.classes)) - present):
            log.warning("no pixel of class %s in the training images", ", ".join(map(str, missing)))
        self.weights = torch.tensor(training.class_weights, device=self.device)

    @property
    def averaged_network(self) -> UNet:
        """The network with the running average of the weights."""
        network: UNet = self.averaged_model.module  # type: ignore[assignment]
        return network

    @property
    def state(self) -> dict[str, Stateful]:
        """Everything that changes from step to step, by its name in checkpoints."""
        return {
            "network": self.network,
            "average": self.averaged_model,
            "optimiser": self.optimiser,
            "rates": self.rates,
        }

    def run_epoch(self, number: int) -> float:
        """Train for one epoch, counted from 0, and return the mean loss."""
        schedule = self.training.schedule
        rng = np.random.default_rng((schedule.seed, number))
        torch.manual_seed(schedule.seed * 100_003 + number)
        self.network.train()
        with closing(_prefetch(self._draw_batches(rng))) as batches:
            losses = [self._train_step(next(batches)) for _ in range(schedule.steps)]
        if not np.isfinite(losses).all():
            raise ModelError(
                f"epoch {number + 1} of the training",
                got="a loss that is no number",
                expected="finite losses",
                fix="take a smaller schedule.rate, and check weights, jitter and the scale of the images",
            )
        return float(np.mean(losses))

    def _train_step(self, batch: _Batch) -> float:
        """Take one step of the optimiser and return the loss."""
        halo = self.training.network.least_halo
        with enable_mixed_precision(self.device):
            logits = self.network(batch.x, halo)
        loss = self.training.loss(
            logits.float(),
            _crop_halo(batch.y, halo),
            self.weights,
            None if batch.borders is None else _crop_halo(batch.borders, halo),
        )
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.rates.step()
        self.averaged_model.update_parameters(self.network)
        return float(loss.item())

    def _draw_batches(self, rng: np.random.Generator) -> Iterator[_Batch]:
        """Yield random batches on the device without end."""
        training, loss = self.training, self.training.loss
        schedule = training.schedule
        windows = draw_windows(self.images, self.surveys, schedule.window, training.jitter, training.warp, rng)
        while True:
            pixels, labels = zip(*(next(windows) for _ in range(schedule.batch)), strict=True)
            x = torch.from_numpy(self.normalise(np.stack(pixels))).to(self.device, memory_format=torch.channels_last)
            y = self._to_device(np.stack(labels)).long()
            borders = None
            if loss.border:
                weights = [compute_border_weights(mask, loss.border, loss.sigma) for mask in labels]
                borders = self._to_device(np.stack(weights))
            yield _Batch(x, y, borders)

    def _to_device(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(self.device)


def _make_running_average(steps: int) -> Callable[[Any, Any, Any], None]:
    """Return a function that averages weights exponentially over about so many steps, for torch's ``AveragedModel``.

    At the start of a training it averages over about a tenth of the steps made so far, so that the random initial
    weights are soon forgotten; TensorFlow's ExponentialMovingAverage does the same.
    """

    @torch.no_grad()
    def average(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        new_weight = max(1 / steps, 9 / (10 + int(count)))
        for old, new in zip(averaged, current, strict=True):
            if old.is_floating_point():
                old.lerp_(new, new_weight)
            else:
                old.copy_(new)  # batch normalisation counts its batches in integers

    return average


def _crop_halo(values: Tensor, halo: int) -> Tensor:
    return values[:, halo : values.shape[1] - halo, halo : values.shape[2] - halo]


def _prefetch(batches: Iterator[_Batch]) -> Generator[_Batch]:
    """Yield the same batches in the same order, prepared ahead in another thread."""
    with ThreadPoolExecutor(1) as pool:
        pending = deque(pool.submit(next, batches) for _ in range(_PREFETCHED))
        while True:
            yield pending.popleft().result()
            pending.append(pool.submit(next, batches))
