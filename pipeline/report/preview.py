"""The preview of a segmented scene, for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import NODATA, LabelClass, format_percent
from seamline.pipeline.geometry.map_scale import map_scale, round_length
from seamline.pipeline.report.page import GREY, HATCH, INK, MARGIN, VOID, Page

_WHITE_FACTOR, _GAMMA = 4.0, 0.85
"""See ``stretch``; shadows are drawn a little lighter than they are."""

_NORTH_TOLERANCE = 5.0
"""Degrees that north may be off without an arrow; meridians of a UTM zone converge by less."""


@dataclass(frozen=True)
class Caption:
    """What is written on a preview: a title, a line below it, and what scale and north follow from."""

    title: str
    note: str
    grid: GeoBox


def decimate_labels(labels: zarr.Array[Any], size: int) -> NDArray[np.uint8]:
    """Every n-th label (y, x), so that neither side exceeds ``size``; holds a few chunks at a time."""
    step = max(1, math.ceil(max(labels.shape) / size))
    return np.asarray(labels[::step, ::step], dtype=np.uint8)


def stretch(pixels: NDArray[np.floating[Any]], valid: NDArray[np.bool_], *, rgb: bool) -> NDArray[np.uint8]:
    """A picture (h, w, 3) of values (3, h, w): of each band the 2nd to 98th percentile becomes 0 to 255.

    Where clouds or roofs are far brighter than the rest, white is what lies ``_WHITE_FACTOR`` times as far above the 2nd
    percentile as the median, so that the ground can be seen.

    Bands that are red, green and blue light in one unit (``rgb``) have one range, or what is dark or of one colour
    would turn violet: the widest of the three, from the darkest on. Haze, which is the brighter the shorter the wave,
    is taken off: where the dark ends of the bands rise from red to blue, each begins at its own.

    The percentiles are those of the pixels that ``valid`` (h, w) names; the others become black.
    """
    picture = np.zeros((*valid.shape, 3), dtype=np.uint8)
    seen = valid & np.isfinite(pixels).all(axis=0)
    if seen.any():
        low, middle, high = np.percentile(pixels[:, seen], [2, 50, 98], axis=1)[..., np.newaxis]
        if rgb and not low[0] < low[1] < low[2]:
            low = np.full_like(low, low.min())
        span = np.where(middle > low, np.minimum(high - low, _WHITE_FACTOR * (middle - low)), high - low)
        if rgb:
            span = np.full_like(span, span.max())
        part = np.clip((pixels[:, seen] - low) / np.where(span > 0, span, 1), 0, 1)
        picture[seen] = np.rint(part**_GAMMA * 255).T.astype(np.uint8)
    return picture


def write_preview(
    rgb: NDArray[np.uint8] | None,
    labels: NDArray[np.uint8],
    classes: Sequence[LabelClass],
    shares: Mapping[str, float],
    caption: Caption,
    path: Path,
) -> None:
    """Draw scene and segmentation side by side, with legend, shares and scale bar, to the PNG ``path``.

    ``rgb`` (h, w, 3) and ``labels`` (h, w) show the whole grid of the ``caption`` and are small already (see
    ``decimate_labels``); without ``rgb`` the segmentation stands alone. ``shares`` gives each class's part of the valid
    pixels, 0 to 1, by its name. Very wide scenes stand above each other. Without a CRS there is no scale bar; an arrow
    shows north where it is not up.
    """
    height, width = labels.shape
    panels = [("Segmentation", _color_labels(labels, classes))]
    if rgb is not None:
        panels.insert(0, ("Scene", rgb))
    stacked = width > 2.2 * height
    across = 9.4 if stacked else 4.6
    panel_height = min(max(across * height / width, 0.4), 5.6)
    panel_width = panel_height * width / height
    step_right, step_down = (0.0, panel_height + 0.42) if stacked else (panel_width + 0.2, 0.0)
    turns = len(panels) - 1
    content = panel_width + step_right * turns
    page_width = max(5.0, content + 2 * MARGIN)
    first = 1.12
    bottom = first + panel_height + step_down * turns
    handles = _build_share_handles(classes, shares, nodata=bool((labels == NODATA).any()))
    columns = max(1, int((page_width - 2 * MARGIN) / (0.52 + 0.068 * max(len(text) for _, text in handles))))
    rows = math.ceil(len(handles) / columns)

    page = Page(page_width, bottom + 0.52 + 0.215 * rows)
    title, size = _fit_title(caption.title, page_width - 2 * MARGIN)
    page.text(MARGIN, 0.4, title, fontsize=size, weight="bold")
    page.text(MARGIN, 0.64, caption.note, color=GREY)
    for turn, (name, picture) in enumerate(panels):
        left, top = MARGIN + turn * step_right, first + turn * step_down
        page.text(left, top - 0.09, name, color=GREY)
        axes = page.axes(left, top, panel_width, panel_height)
        axes.set(xlim=(0, width), ylim=(height, 0), facecolor=VOID)
        axes.add_patch(Rectangle((0, 0), width, height, facecolor=VOID, edgecolor=HATCH, hatch="////", lw=0, zorder=-1))
        shown = np.dstack([picture, np.where(labels == NODATA, 0, 255).astype(np.uint8)])
        # Labels are not mixed: every colour in their panel is that of a class.
        axes.imshow(shown, extent=(0, width, height, 0), interpolation=None if picture is rgb else "nearest")
        if turn == 0 and (lie := map_scale(caption.grid)) is not None:
            _draw_scale_bar(axes, caption.grid.shape[1] * lie.pixel_m, panel_width, panel_height)
            if abs(lie.north) > _NORTH_TOLERANCE:
                _draw_north_arrow(axes, lie.north, panel_width, panel_height)
    _draw_share_bar(page, bottom + 0.16, content, classes, shares)
    page.legend(MARGIN, bottom + 0.36, handles, columns)
    page.save(path)


def _fit_title(title: str, width: float) -> tuple[str, float]:
    """A title and the size (points) at which it is at most ``width`` inches long; cut where that would be too small."""
    em = 0.0098  # inches that a character of one point takes
    size = min(13.0, width / (em * max(len(title), 1)))
    return (title, size) if size >= 8 else (title[: int(width / (em * 8)) - 1] + "…", 8.0)


def _color_labels(labels: NDArray[np.uint8], classes: Sequence[LabelClass]) -> NDArray[np.uint8]:
    table = np.zeros((256, 3), dtype=np.uint8)
    for label in classes:
        table[label.value] = label.color
    return table[labels]


def _build_share_handles(
    classes: Sequence[LabelClass], shares: Mapping[str, float], *, nodata: bool
) -> list[tuple[Artist, str]]:
    handles: list[tuple[Artist, str]] = [
        (
            Patch(facecolor=label.hex, edgecolor=HATCH, lw=0.5),
            f"{label.name}  {format_percent(shares.get(label.name, 0))}",
        )
        for label in classes
    ]
    if nodata:
        handles.append((Patch(facecolor=VOID, edgecolor=HATCH, hatch="//////", lw=0.5), "no data"))
    return handles


def _draw_share_bar(
    page: Page, top: float, width: float, classes: Sequence[LabelClass], shares: Mapping[str, float]
) -> None:
    axes = page.axes(MARGIN, top, width, 0.1)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.spines[:].set_visible(False)
    start = 0.0
    for label in classes:
        share = shares.get(label.name, 0.0)
        axes.barh(0.5, share, left=start, height=1, color=label.hex)
        start += share


def _draw_scale_bar(axes: Axes, width_m: float, width: float, height: float) -> None:
    """A bar of 1, 2 or 5 times a power of ten metres, in the lower left corner of axes of that size in inches.

    It is at most a quarter as long as the panel is wide, of a narrow one a half.
    """
    length = round_length(width_m / (4 if width > 2 else 2))
    left, low = 0.16 / width, 0.18 / height
    right = left + length / width_m
    for color, line in ((INK, 4.5), ("white", 2.5)):
        axes.plot([left, right], [low] * 2, color=color, lw=line, transform=axes.transAxes, solid_capstyle="butt")
    short = (right - left) * width < 0.5
    axes.text(
        left if short else (left + right) / 2,
        low + 0.09 / height,
        f"{length / 1000:,.0f} km" if length >= 1000 else f"{length:g} m",
        transform=axes.transAxes,
        ha="left" if short else "center",
        color="white",
        path_effects=[withStroke(linewidth=2, foreground=INK)],
    )


def _draw_north_arrow(axes: Axes, north: float, width: float, height: float) -> None:
    """An arrow in the upper right corner of axes of that size in inches, ``north`` degrees clockwise from up."""
    right, up = math.sin(math.radians(north)), math.cos(math.radians(north))

    def place(inches: float) -> tuple[float, float]:
        return 1 - (0.32 - inches * right) / width, 1 - (0.32 - inches * up) / height

    for color, line in ((INK, 4.0), ("white", 2.0)):
        arrow = {"arrowstyle": "-|>", "color": color, "lw": line, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", place(0.1), place(-0.24), "axes fraction", arrowprops=arrow)
    x, y = place(0.21)
    outline = [withStroke(linewidth=2, foreground=INK)]
    axes.text(
        x, y, "N", transform=axes.transAxes, ha="center", va="center", color="white", weight="bold",
        path_effects=outline,
    )  # fmt: skip


def write_confusion_matrix(counts: NDArray[np.int64], names: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix (truth, predicted) to the PNG ``path``: of each true class the shares it was given."""
    size, cell = len(names), 0.62
    longest = 0.075 * max(len(name) for name in names)
    left, top = MARGIN + 0.35 + longest, 0.95 + longest
    page = Page(max(5.6, left + size * cell + MARGIN), top + size * cell + MARGIN)
    page.text(MARGIN, 0.4, "Confusion matrix", fontsize=13, weight="bold")
    page.text(MARGIN, 0.62, "per cent of each true class (rows) by what it was called (columns)", color=GREY)
    axes = page.axes(left, top, size * cell, size * cell)
    total = counts.sum(1, keepdims=True)
    shares = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for row, col in np.ndindex(*counts.shape):
        text = f"{shares[row, col] * 100:.1f}" if total[row, 0] else "–"
        axes.text(col, row, text, ha="center", va="center", color="white" if shares[row, col] > 0.55 else INK)
    axes.set(xticks=range(size), yticks=range(size))
    axes.set_xticklabels(names, rotation=90, parse_math=False)
    axes.set_yticklabels(names, parse_math=False)
    axes.tick_params(length=0, labelcolor=INK, labeltop=True, labelbottom=False)
    page.save(path)
