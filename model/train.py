"""Train a U-Net on labelled images: one loop, mixed precision, a checkpoint after every epoch."""

from __future__ import annotations

import math
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from model.config import UNetConfig
from model.data import IGNORE, Jitter, LabelledImage, random_windows
from model.engines import has_onednn
from model.errors import ModelError
from model.metrics import confusion_matrix, iou
from model.unet import UNet


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: ``epochs`` of ``steps`` batches of ``batch`` windows of ``window``² pixels.

    The rate rises linearly over the first ``warmup`` share of all steps to ``rate`` and falls as a cosine.
    ``averaged``: over how many steps, about, the weights are averaged.
    """

    epochs: int = 20
    steps: int = 100
    batch: int = 8
    window: int = 256
    rate: float = 2e-3
    warmup: float = 0.05
    weight_decay: float = 1e-4
    averaged: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "batch", "window", "averaged"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of a training: got {getattr(self, name)}, expected at least 1")
        checks = (
            (0 < self.rate < math.inf, "rate", "more than 0"),
            (0 <= self.warmup <= 1, "warmup", "a share from 0 to 1"),
            (0 <= self.weight_decay < math.inf, "weight_decay", "at least 0"),
            (0 <= self.seed < 2**32, "seed", "a whole number from 0 to 2³² − 1"),
        )
        for good, name, expected in checks:
            if not good:
                raise ValueError(f"{name} of a training: got {getattr(self, name)}, expected {expected}")

    @property
    def total(self) -> int:
        """Number of optimiser steps."""
        return self.epochs * self.steps

    def rate_at(self, step: int) -> float:
        """Share of ``rate`` at a step, 0 to 1."""
        warm = max(1, round(self.warmup * self.total))
        if step < warm:
            return (step + 1) / warm
        return float(0.5 + 0.5 * np.cos(np.pi * (step - warm) / max(1, self.total - warm)))


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each band; pixels without data become 0 after it."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, images: Sequence[LabelledImage]) -> Normalisation:
        """Over all images, each weighed by how often it is drawn, not by its size.

        Raises ``ModelError`` for a band that cannot be normalised.
        """
        odds = np.array([image.weight for image in images]) / sum(image.weight for image in images)
        means = np.array([np.nanmean(image.image, (1, 2), dtype=np.float64) for image in images])
        squares = np.array([np.nanmean(np.square(image.image, dtype=np.float64), (1, 2)) for image in images])
        mean = odds @ means
        std = np.round(np.sqrt(np.maximum(odds @ squares - mean**2, 0)), 5)
        for number, (middle, spread) in enumerate(zip(mean, std, strict=True), start=1):
            if not (math.isfinite(middle) and math.isfinite(spread) and spread > 0):
                raise ModelError(
                    f"band {number} of the training images",
                    got=f"a mean of {middle:g} and a deviation of {spread:g}",
                    expected="finite values that differ by more than 0.00001",
                    fix="check the sources and their scales",
                )
        return cls(tuple(np.round(mean, 5).tolist()), tuple(std.tolist()))

    def __call__(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """(…, bands, height, width) normalised; NaN, where there is no data, becomes 0."""
        mean = np.array(self.mean, np.float32)[:, None, None]
        std = np.array(self.std, np.float32)[:, None, None]
        normalised: NDArray[np.float32] = np.nan_to_num((pixels - mean) / std, nan=0.0)
        return normalised


@dataclass(frozen=True)
class Progress:
    """What is told after each epoch: losses are means over its steps, ``iou`` one value a class."""

    epoch: int
    epochs: int
    loss: float
    iou: tuple[float, ...]
    seconds: float


def loss_of(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy with class weights plus soft Dice, both over the pixels that are not ``IGNORE``.

    Args:
        logits: (batch, classes, height, width).
        labels: (batch, height, width), int64.
        weights: one weight a class.
    """
    known = labels != IGNORE
    if not known.any():
        return logits.sum() * 0
    entropy = F.cross_entropy(logits, labels, weight=weights, ignore_index=IGNORE)
    shares = logits.softmax(1) * known[:, None]
    truth = F.one_hot(torch.where(known, labels, 0), logits.shape[1]).movedim(-1, 1) * known[:, None]
    both, either = (shares * truth).sum((0, 2, 3)), (shares + truth).sum((0, 2, 3))
    dice = 1 - (2 * both + 1) / (either + 1)
    present = truth.sum((0, 2, 3)) > 0
    return entropy + dice[present].mean()


def train(
    config: UNetConfig,
    images: Sequence[LabelledImage],
    validation: Sequence[LabelledImage],
    schedule: Schedule,
    jitter: Jitter,
    class_weights: Sequence[float],
    checkpoint: Path | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> tuple[UNet, Normalisation]:
    """Train from scratch, or from the ``checkpoint`` of an interrupted training with the same arguments.

    What comes out is the running average of the weights over about the last ``schedule.averaged`` steps, which
    generalises better than where the last step happened to land (Izmailov et al. 2018, arXiv:1803.05407). Every epoch
    draws its windows from a generator seeded by (seed, epoch), so that a training that goes on after a kill sees the
    windows that it would have seen.
    """
    torch.manual_seed(schedule.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = UNet(config).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), lr=schedule.rate, weight_decay=schedule.weight_decay)
    rates = torch.optim.lr_scheduler.LambdaLR(optimiser, schedule.rate_at)
    normalise = Normalisation.of(images)
    weights, halo = torch.tensor(class_weights, device=device), config.least_halo
    averaging = get_ema_multi_avg_fn(1 - 1 / schedule.averaged)  # type: ignore[no-untyped-call]
    average = AveragedModel(network, multi_avg_fn=averaging, use_buffers=True)
    averaged: UNet = average.module  # type: ignore[assignment]
    state = {"network": network, "average": average, "optimiser": optimiser, "rates": rates}
    first = _restore(checkpoint, state) if checkpoint else 0
    for epoch in range(first, schedule.epochs):
        started = time.monotonic()
        rng = np.random.default_rng((schedule.seed, epoch))
        torch.manual_seed(schedule.seed * 100_003 + epoch)
        windows = random_windows(images, schedule.window, jitter, rng)
        network.train()
        losses = []
        for _ in range(schedule.steps):
            x, y = _batch(windows, schedule.batch, normalise, device)
            with mixed_precision(device):
                logits = network(x, halo)
            loss = loss_of(logits.float(), y[:, halo : y.shape[1] - halo, halo : y.shape[2] - halo], weights)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            rates.step()
            average.update_parameters(network)
            losses.append(loss.item())
        scores = evaluate(averaged, validation, normalise) if validation else ()
        if checkpoint:
            _save(checkpoint, epoch + 1, state)
        report(Progress(epoch + 1, schedule.epochs, float(np.mean(losses)), scores, time.monotonic() - started))
    return averaged.eval().to("cpu"), normalise


def mixed_precision(device: torch.device) -> torch.autocast:
    """bf16 where the device has kernels for it, otherwise float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" or has_onednn("bf16"))


def _batch(
    windows: Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]],
    size: int,
    normalise: Normalisation,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    pixels, labels = zip(*(next(windows) for _ in range(size)), strict=True)
    x = torch.from_numpy(normalise(np.stack(pixels))).to(device, memory_format=torch.channels_last)
    return x, torch.from_numpy(np.stack(labels)).to(device, torch.int64)


def evaluate(network: UNet, images: Sequence[LabelledImage], normalise: Normalisation) -> tuple[float, ...]:
    """IoU of each class over all images, NaN for a class that is nowhere."""
    classes = network.config.classes
    matrix = sum(
        (confusion_matrix(predict(network, image.image, normalise), image.labels, classes) for image in images),
        start=np.zeros((classes, classes), np.int64),
    )
    return tuple(iou(matrix).tolist())


def predict(network: UNet, image: NDArray[np.float32], normalise: Normalisation) -> NDArray[np.uint8]:
    """Labels (height, width) of one image (bands, height, width) that fits into memory, mirrored to fit."""
    device = next(network.parameters()).device
    height, width = image.shape[1:]
    divisor, halo = network.config.divisor, network.config.least_halo
    pad = [(halo, halo + -extent % divisor) for extent in (height, width)]
    x = torch.from_numpy(np.pad(normalise(image), [(0, 0), *pad], mode="symmetric"))[None].to(device)
    network.eval()
    with torch.inference_mode(), mixed_precision(device):
        logits = network(x.contiguous(memory_format=torch.channels_last), halo)
    labels: NDArray[np.uint8] = logits[0, :, :height, :width].argmax(0).to("cpu", torch.uint8).numpy()
    return labels


def _save(path: Path, epoch: int, state: Mapping[str, Any]) -> None:
    part = path.with_suffix(".part")
    try:
        torch.save({"epoch": epoch, **{name: held.state_dict() for name, held in state.items()}}, part)
        part.replace(path)
    except (OSError, RuntimeError) as error:  # RuntimeError: torch's for a full disk
        part.unlink(missing_ok=True)
        raise ModelError(
            f"checkpoint {path}",
            got=_short(error),
            expected="room for it",
            fix="make some and give the same command again",
        ) from error


def _restore(path: Path, state: Mapping[str, Any]) -> int:
    """Give everything in ``state`` what it had in the checkpoint; returns the epochs that were done then."""
    if not path.exists():
        return 0
    try:
        saved = torch.load(path, weights_only=True)
        for name, held in state.items():
            held.load_state_dict(saved[name])
        return int(saved["epoch"])
    except Exception as error:  # whatever the bytes lead torch to
        raise ModelError(
            f"checkpoint {path}",
            got=_short(error),
            expected="what a training by the same recipe left",
            fix="remove it to start over, or choose another folder",
        ) from error


def _short(error: Exception) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", 160, placeholder="…")
