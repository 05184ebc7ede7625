"""Plots of a training: the curves of loss and scores, and samples of what the network predicts."""

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
from seamline.pipeline.scenes.scene import choose_display_bands, has_true_color

_MAX_SAMPLES = 6

_SAMPLE_EDGE = 384
"""Largest edge of a sample in pixels."""

# Layout in inches.
_CELL = 2.5
_GAP = 0.12
_TOP = 1.05
_PANEL_LEFT = 0.95
_PANEL_TOP = 1.0
_PANEL_WIDTH = 7.4
_PANEL_HEIGHT = 2.1


def write_curves(result: TrainingResult, classes: Sequence[ModelClass], path: Path) -> None:
    """Draw loss and, if there is a hold-out, IoU of each class over the epochs.

    Args:
        result: The training.
        classes: Classes of the model in label order.
        path: PNG to write.
    """
    history, chosen = result.history, result.chosen_epoch
    epochs = [epoch.epoch for epoch in history]
    has_holdout = bool(history and history[-1].iou)
    page = Page(9.0, 7.0 if has_holdout else 3.6)
    page.text(MARGIN, 0.45, "Training", fontsize=13, weight="bold")
    page.text(MARGIN, 0.68, f"{len(epochs)} epochs; the network has the weights of epoch {chosen}", color=GREY)
    loss_axes = page.axes(_PANEL_LEFT, _PANEL_TOP, _PANEL_WIDTH, _PANEL_HEIGHT)
    _format_axes(loss_axes, "loss", epochs, chosen)
    loss_axes.plot(epochs, [epoch.loss for epoch in history], color=INK, lw=1.8)
    loss_axes.set_ylim(bottom=0)
    if has_holdout:
        score_axes = page.axes(_PANEL_LEFT, _PANEL_TOP + _PANEL_HEIGHT + 0.6, _PANEL_WIDTH, _PANEL_HEIGHT)
        _format_axes(score_axes, "IoU on the hold-out", epochs, chosen)
        for label, entry in enumerate(classes):
            scores = [epoch.iou[label] for epoch in history]
            score_axes.plot(epochs, scores, color=_format_hex(entry.color), lw=3.2, solid_capstyle="round")
            score_axes.plot(epochs, scores, color=INK, lw=0.6, alpha=0.6)
        score_axes.set_ylim(0, 1)
        handles = [_make_legend_entry(_format_hex(entry.color), entry.name) for entry in classes]
        page.legend(_PANEL_LEFT, _PANEL_TOP + 2 * _PANEL_HEIGHT + 1.15, handles, min(6, len(handles)))
    page.save(path)


def _format_axes(axes: Axes, label: str, epochs: Sequence[int], chosen: int) -> None:
    axes.tick_params(labelcolor=GREY, color=FAINT, labelsize=8)
    axes.set_ylabel(label, color=INK, fontsize=9)
    axes.set_xlim(1, max(2, epochs[-1]) if epochs else 2)
    axes.set_xticks(np.unique(np.linspace(1, max(2, len(epochs)), 8).round()))
    axes.grid(color=FAINT, lw=0.6)
    axes.set_xlabel("epoch", color=GREY, fontsize=8)
    axes.axvline(chosen, color=GREY, lw=0.8, ls=":")
    axes.yaxis.set_major_locator(MaxNLocator(5))


def write_samples(result: TrainingResult, images: Sequence[LabelledSource], spec: ModelSpec, path: Path) -> None:
    """Draw image, truth and prediction side by side, of up to six places that have many classes.

    Args:
        result: The training.
        images: Labelled images to choose places of.
        spec: Spec of the trained model.
        path: PNG to write.
    """
    places = _choose_areas(images, len(spec.classes))
    page = Page(2 * MARGIN + 3 * _CELL + 2 * _GAP, _TOP + len(places) * (_CELL + _GAP) + 0.55)
    page.text(MARGIN, 0.45, f"{spec.name} {spec.version}", fontsize=13, weight="bold")
    for column, title in enumerate(("image", "truth", "prediction")):
        page.text(MARGIN + column * (_CELL + _GAP), 0.9, title, color=GREY)
    colors = np.array([_parse_hex(VOID)] * 256, np.uint8)
    colors[: len(spec.classes)] = [entry.color for entry in spec.classes]
    band_names = [band.name for band in spec.bands]
    shown_bands = choose_display_bands(band_names)
    windows = [image.pixels(area) for image, area in places]
    pictures = _stretch_windows([window[shown_bands] for window in windows], rgb=has_true_color(band_names))
    for row, (image, area) in enumerate(places):
        predicted = predict_labels(result.network, image, area, result.normalisation)
        predicted = np.where(np.isfinite(windows[row]).all(0), predicted, IGNORE)
        _draw_row(page, row, image.name, (pictures[row], colors[image.labels(area)], colors[predicted]))
    handles = [_make_legend_entry(_format_hex(entry.color), entry.name) for entry in spec.classes]
    handles.append(_make_legend_entry(VOID, "not known"))
    page.legend(MARGIN, page.height - 0.4, handles, min(6, len(handles)))
    page.save(path)


def _draw_row(page: Page, row: int, name: str, pictures: Sequence[NDArray[np.uint8]]) -> None:
    """Draw pictures (height, width, 3) side by side; the first one gets the name."""
    for column, picture in enumerate(pictures):
        axes = page.axes(MARGIN + column * (_CELL + _GAP), _TOP + row * (_CELL + _GAP), _CELL, _CELL)
        axes.imshow(picture, interpolation="nearest")
        if column == 0:
            box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5}
            axes.text(0.02, 0.98, name, transform=axes.transAxes, va="top", fontsize=6.5, color=INK, bbox=box)


def _make_legend_entry(color: str, name: str) -> tuple[Patch, str]:
    return Patch(facecolor=color, edgecolor=GREY, lw=0.5), name


def _stretch_windows(windows: Sequence[NDArray[np.float32]], *, rgb: bool) -> list[NDArray[np.uint8]]:
    """Make pictures (height, width, 3) of windows (3, height, width), all by one stretch so that they compare."""
    row = np.concatenate([window.reshape(3, 1, -1) for window in windows], axis=2)
    cuts = np.cumsum([window[0].size for window in windows])[:-1]
    parts = np.split(stretch(row, np.isfinite(row).all(0), rgb=rgb), cuts, axis=1)
    return [part.reshape(*window.shape[1:], 3) for part, window in zip(parts, windows, strict=True)]


def _choose_areas(images: Sequence[LabelledSource], classes: int) -> list[tuple[LabelledSource, Area]]:
    """Choose up to six areas: of each image in turn the block with the most even mixture of classes (entropy)."""
    ranked: list[list[tuple[LabelledSource, Area]]] = []
    for image in images[:_MAX_SAMPLES]:
        counts = Survey.from_image(image, classes).counts
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        entropy = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(1)
        best_blocks = np.argsort(-entropy, kind="stable")[:_MAX_SAMPLES]
        areas = split_into_blocks(image.shape)
        ranked.append([(image, _crop_to_middle(areas[block])) for block in best_blocks])
    in_turn = [places[turn] for turn in range(_MAX_SAMPLES) for places in ranked if turn < len(places)]
    return in_turn[:_MAX_SAMPLES]


def _crop_to_middle(area: Area) -> Area:
    """Return the square in the middle of an area, no larger than a sample."""
    rows, cols = area
    edge = min(_SAMPLE_EDGE, rows.stop - rows.start, cols.stop - cols.start)
    top = (rows.start + rows.stop - edge) // 2
    left = (cols.start + cols.stop - edge) // 2
    return slice(top, top + edge), slice(left, left + edge)


def _format_hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _parse_hex(color: str) -> NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex(color[1:]), np.uint8)
