"""Two pictures of a training: how it went, and what its network sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from seamline.model.spec.spec import ModelClass, ModelSpec
from seamline.model.training.data import IGNORE, Area, LabelledSource, split_into_blocks
from seamline.model.training.loop import TrainingResult
from seamline.model.training.sampling import Survey
from seamline.model.training.validation import predict_labels
from seamline.pipeline.report.page import FAINT, GREY, INK, MARGIN, VOID, Page
from seamline.pipeline.report.preview import stretch
from seamline.pipeline.scenes.display_bands import choose_display_bands, has_true_color

MAX_SAMPLES, SAMPLE_EDGE = 6, 384
"""Samples at most, and their edge in pixels."""


def write_curves(trained: TrainingResult, classes: Sequence[ModelClass], path: Path) -> None:
    """Draw loss and, where there is a hold-out, IoU of each class over the epochs to a PNG."""
    history = trained.history
    epochs = [done.epoch for done in history]
    validated = bool(history and history[-1].iou)
    page = Page(9.0, 7.0 if validated else 3.6)
    page.text(MARGIN, 0.45, "Training", fontsize=13, weight="bold")
    page.text(
        MARGIN, 0.68, f"{len(epochs)} epochs; the network has the weights of epoch {trained.chosen_epoch}", color=GREY
    )
    panel = 2.1
    loss = _format_axes(page.axes(0.95, 1.0, 7.4, panel), "loss", epochs, trained.chosen_epoch)
    loss.plot(epochs, [done.loss for done in history], color=INK, lw=1.8)
    loss.set_ylim(bottom=0)
    if validated:
        scores = _format_axes(
            page.axes(0.95, 1.0 + panel + 0.6, 7.4, panel), "IoU on the hold-out", epochs, trained.chosen_epoch
        )
        for number, entry in enumerate(classes):
            values = [done.iou[number] for done in history]
            scores.plot(epochs, values, color=_format_hex(entry.color), lw=3.2, solid_capstyle="round")
            scores.plot(epochs, values, color=INK, lw=0.6, alpha=0.6)
        scores.set_ylim(0, 1)
        handles = [(Patch(facecolor=_format_hex(c.color), edgecolor=GREY, lw=0.5), c.name) for c in classes]
        page.legend(0.95, 1.0 + 2 * panel + 1.15, handles, min(6, len(handles)))
    page.save(path)


def _format_axes(axes: Axes, label: str, epochs: Sequence[int], chosen: int) -> Axes:
    axes.tick_params(labelcolor=GREY, color=FAINT, labelsize=8)
    axes.set_ylabel(label, color=INK, fontsize=9)
    axes.set_xlim(1, max(2, epochs[-1]) if epochs else 2)
    axes.set_xticks(np.unique(np.linspace(1, max(2, len(epochs)), 8).round()))
    axes.grid(color=FAINT, lw=0.6)
    axes.set_xlabel("epoch", color=GREY, fontsize=8)
    axes.axvline(chosen, color=GREY, lw=0.8, ls=":")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    return axes


def write_samples(trained: TrainingResult, images: Sequence[LabelledSource], spec: ModelSpec, path: Path) -> None:
    """Draw image, truth and prediction of up to six places, in which many classes are, side by side to a PNG."""
    places = _choose_areas(images, len(spec.classes))
    cell, gap, top = 2.5, 0.12, 1.05
    page = Page(2 * MARGIN + 3 * cell + 2 * gap, top + len(places) * (cell + gap) + 0.55)
    page.text(MARGIN, 0.45, f"{spec.name} {spec.version}", fontsize=13, weight="bold")
    for column, title in enumerate(("image", "truth", "prediction")):
        page.text(MARGIN + column * (cell + gap), 0.9, title, color=GREY)
    colors = np.array([_parse_hex(VOID)] * 256, np.uint8)
    colors[: len(spec.classes)] = [entry.color for entry in spec.classes]
    names = [band.name for band in spec.bands]
    shown = choose_display_bands(names)
    windows = [image.pixels(area) for image, area in places]
    stretched = _stretch_windows([window[shown] for window in windows], rgb=has_true_color(names))
    for row, (image, area) in enumerate(places):
        valid = np.asarray(np.isfinite(windows[row]).all(0))
        truth, labels = image.labels(area), predict_labels(trained.network, image, area, trained.normalisation)
        labels = np.where(valid, labels, IGNORE)
        pictures = (stretched[row], colors[truth], colors[labels])
        for column, picture in enumerate(pictures):
            axes = page.axes(MARGIN + column * (cell + gap), top + row * (cell + gap), cell, cell)
            axes.imshow(picture, interpolation="nearest")
            if column == 0:
                axes.text(
                    0.02, 0.98, image.name, transform=axes.transAxes, va="top", fontsize=6.5, color=INK,
                    bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5},
                )  # fmt: skip
    handles = [(Patch(facecolor=_format_hex(c.color), edgecolor=GREY, lw=0.5), c.name) for c in spec.classes]
    handles.append((Patch(facecolor=VOID, edgecolor=GREY, lw=0.5), "not known"))
    page.legend(MARGIN, page.height - 0.4, handles, min(6, len(handles)))
    page.save(path)


def _stretch_windows(windows: Sequence[NDArray[np.float32]], *, rgb: bool) -> list[NDArray[np.uint8]]:
    """Pictures (h, w, 3) of windows (3, h, w), one stretch for all: what is dark stays dark beside what is bright."""
    row = np.concatenate([window.reshape(3, 1, -1) for window in windows], axis=2)
    cuts = np.cumsum([window[0].size for window in windows])[:-1]
    parts = np.split(stretch(row, np.isfinite(row).all(0), rgb=rgb), cuts, axis=1)
    return [part.reshape(*window.shape[1:], 3) for part, window in zip(parts, windows, strict=True)]


def _choose_areas(images: Sequence[LabelledSource], classes: int) -> list[tuple[LabelledSource, Area]]:
    """Up to ``MAX_SAMPLES`` blocks: of each image in turn the one with the most even mixture of classes."""
    ranked: list[list[tuple[LabelledSource, Area]]] = []
    for image in images[:MAX_SAMPLES]:
        counts = Survey.from_image(image, classes).counts
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        mixture = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(1)
        order = np.argsort(-mixture, kind="stable")[:MAX_SAMPLES]
        areas = split_into_blocks(image.shape)
        ranked.append([(image, _crop_to_middle(areas[k])) for k in order])
    turns = [places[turn] for turn in range(MAX_SAMPLES) for places in ranked if turn < len(places)]
    return turns[:MAX_SAMPLES]


def _crop_to_middle(area: Area) -> Area:
    """The middle of an area, no larger than a sample, and square if it can be."""
    rows, cols = area
    edge = min(SAMPLE_EDGE, rows.stop - rows.start, cols.stop - cols.start)
    first, second = ((side.start + side.stop - edge) // 2 for side in area)
    return slice(first, first + edge), slice(second, second + edge)


def _format_hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _parse_hex(color: str) -> NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex(color[1:]), np.uint8)
