"""The preview of a segmented scene: scene and segmentation side by side, with legend, shares, scale bar and north."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import NODATA, LabelClass, format_percent
from seamline.pipeline.geometry.map_scale import map_scale, round_length
from seamline.pipeline.report.canvas import Canvas, Rectangle
from seamline.pipeline.report.page import FAINT, GREY, HATCH, INK, MARGIN

_WHITE_FACTOR = 4.0
"""White is at most this many times as far above the dark end of a band as its median."""
_GAMMA = 0.85
"""Exponent of the stretched values, below 1 so that shadows are drawn a little lighter than they are."""
_NORTH_TOLERANCE = 5.0
"""Degrees between north and up from which on an arrow shows north. Meridians of a UTM zone converge by less."""
_FIRST_PANEL = 1.12
"""Inches from the upper edge of the page to the first panel."""
_LEGEND_STEP = 0.215
"""Inches from one row of the legend to the next one."""


@dataclass(frozen=True)
class Caption:
    """What is written on a preview.

    Attributes:
        title: its title.
        note: a line below the title.
        grid: grid of the scene, from which scale bar and north follow.
    """

    title: str
    note: str
    grid: GeoBox


def decimate_labels(labels: zarr.Array[Any], size: int) -> NDArray[np.uint8]:
    """Return every n-th label (y, x), so that neither side exceeds ``size``; a few chunks are in memory at a time."""
    step = max(1, math.ceil(max(labels.shape) / size))
    return np.asarray(labels[::step, ::step], dtype=np.uint8)


def stretch(pixels: NDArray[np.floating[Any]], valid: NDArray[np.bool_], *, rgb: bool) -> NDArray[np.uint8]:
    """Return a picture of three bands: of each band the 2nd to 98th percentile becomes 0 to 255.

    Where clouds or roofs are far brighter than the rest, white is what lies ``_WHITE_FACTOR`` times as far above the
    2nd percentile as the median, so that the ground can be seen.

    Bands that are red, green and blue light in one unit have one range: the widest of the three, from the darkest on.
    Ranges of their own would turn dark or unicoloured scenes violet. Haze is brighter the shorter the wavelength. It is
    removed: where the dark ends of the bands rise from red to blue, each band begins at its own.

    Args:
        pixels: values (3, h, w).
        valid: (h, w), pixels that the percentiles are taken from; the others become black.
        rgb: whether the bands are red, green and blue light in one unit.

    Returns:
        The picture (h, w, 3).
    """
    seen = valid & np.isfinite(pixels).all(axis=0)
    if not seen.any():
        return np.zeros((*valid.shape, 3), dtype=np.uint8)
    low, middle, high = np.percentile(pixels[:, seen], [2, 50, 98], axis=1)[..., np.newaxis, np.newaxis]
    if rgb and not low[0] < low[1] < low[2]:
        low = np.full_like(low, low.min())
    span = np.where(middle > low, np.minimum(high - low, _WHITE_FACTOR * (middle - low)), high - low)
    if rgb:
        span = np.full_like(span, span.max())
    part = np.clip((np.where(seen, pixels, low) - low) / np.where(span > 0, span, 1), 0, 1)
    return np.ascontiguousarray(np.moveaxis(np.rint(part**_GAMMA * 255).astype(np.uint8), 0, 2))


def write_preview(
    rgb: NDArray[np.uint8] | None,
    labels: NDArray[np.uint8],
    classes: Sequence[LabelClass],
    shares: Mapping[str, float],
    caption: Caption,
    path: Path,
) -> None:
    """Draw scene and segmentation side by side, with legend, shares and scale bar.

    Panels of very wide scenes stand above each other. Without a CRS there is no scale bar. An arrow shows north where
    it is not up.

    Args:
        rgb: the scene (h, w, 3), already small. ``None``: the segmentation stands alone.
        labels: labels (h, w) of the whole grid, already small (see ``decimate_labels``).
        classes: classes of the labels.
        shares: part of the valid pixels, 0 to 1, of each class, by its name.
        caption: what is written on the preview.
        path: the PNG, which appears whole or not at all.
    """
    panels = [("Segmentation", _color_labels(labels, classes))]
    if rgb is not None:
        panels.insert(0, ("Scene", rgb))
    layout = _PanelLayout.from_shape(labels.shape, len(panels))
    page_width = max(5.0, layout.content_width + 2 * MARGIN)
    entries = _list_legend_entries(classes, shares, nodata=bool((labels == NODATA).any()))
    longest = max(len(text) for _, text in entries)
    columns = max(1, int((page_width - 2 * MARGIN) / (0.52 + 0.068 * longest)))
    rows = math.ceil(len(entries) / columns)

    canvas = Canvas(page_width, layout.bottom + 0.52 + _LEGEND_STEP * rows)
    title, size = _fit_title(caption.title, page_width - 2 * MARGIN)
    canvas.text(MARGIN, 0.4, title, size=size, weight="Sans-Bold")
    canvas.text(MARGIN, 0.64, caption.note, color=GREY)
    for index, (name, picture) in enumerate(panels):
        left, top = MARGIN + index * layout.step_right, _FIRST_PANEL + index * layout.step_down
        canvas.text(left, top - 0.09, name, color=GREY)
        place = Rectangle(left, top, layout.width, layout.height)
        canvas.frame(place, FAINT, 2)
        canvas.hatch(place)
        # Labels are not interpolated, so that every colour in their panel is that of a class.
        shown = np.dstack([picture, np.where(labels == NODATA, 0, 255).astype(np.uint8)])
        canvas.paste(place, shown, interpolate=picture is rgb)
    _draw_map_scale(canvas, caption.grid, layout)
    _draw_share_bar(canvas, layout.bottom + 0.16, layout.content_width, classes, shares)
    _draw_legend(canvas, layout.bottom + 0.36, entries, columns)
    canvas.save(path)


@dataclass(frozen=True)
class _PanelLayout:
    """Sizes of the panels of a preview, in inches.

    Attributes:
        width: width of a panel.
        height: height of a panel.
        step_right: from the left edge of a panel to that of the next one.
        step_down: from the upper edge of a panel to that of the next one.
        content_width: width of all panels.
        bottom: lower edge of the last panel, from the upper edge of the page.
    """

    width: float
    height: float
    step_right: float
    step_down: float
    content_width: float
    bottom: float

    @classmethod
    def from_shape(cls, shape: tuple[int, ...], panels: int) -> _PanelLayout:
        """Lay out a number of panels of pictures of ``shape`` (height, width)."""
        height, width = shape
        stacked = width > 2.2 * height
        across = 9.4 if stacked else 4.6
        panel_height = min(max(across * height / width, 0.4), 5.6)
        panel_width = panel_height * width / height
        step_right, step_down = (0.0, panel_height + 0.42) if stacked else (panel_width + 0.2, 0.0)
        return cls(
            width=panel_width,
            height=panel_height,
            step_right=step_right,
            step_down=step_down,
            content_width=panel_width + step_right * (panels - 1),
            bottom=_FIRST_PANEL + panel_height + step_down * (panels - 1),
        )


def _draw_map_scale(canvas: Canvas, grid: GeoBox, layout: _PanelLayout) -> None:
    """Draw a scale bar on the first panel, and north unless it is up; nothing without a CRS."""
    scale = map_scale(grid)
    if scale is None:
        return
    _draw_scale_bar(canvas, grid.shape[1] * scale.pixel_m, layout)
    if abs(scale.north) > _NORTH_TOLERANCE:
        right, up = math.sin(math.radians(scale.north)), math.cos(math.radians(scale.north))
        left, top = MARGIN + layout.width - 0.32, _FIRST_PANEL + 0.32
        canvas.arrow(left - 0.07 * right, top + 0.07 * up, 0.34, scale.north)
        canvas.outline_text(left + 0.21 * right, top - 0.21 * up, "N", "mm", "Sans-Bold")


def _fit_title(title: str, width: float) -> tuple[str, float]:
    """Return a title and the font size in points at which it is at most ``width`` inches long.

    The title is cut where the size would be too small.
    """
    em = 0.0098  # inches per point that a character takes
    size = min(13.0, width / (em * max(len(title), 1)))
    return (title, size) if size >= 8 else (title[: int(width / (em * 8)) - 1] + "…", 8.0)


def _color_labels(labels: NDArray[np.uint8], classes: Sequence[LabelClass]) -> NDArray[np.uint8]:
    """Return the picture (h, w, 3) of labels (h, w) in the colours of their classes."""
    table = np.zeros((256, 3), dtype=np.uint8)
    for label in classes:
        table[label.value] = label.color
    return table[labels]


def _list_legend_entries(
    classes: Sequence[LabelClass], shares: Mapping[str, float], *, nodata: bool
) -> list[tuple[str | None, str]]:
    """Return colour and text of each entry of the legend; ``None`` is hatched."""
    entries: list[tuple[str | None, str]] = [
        (label.hex, f"{label.name}  {format_percent(shares.get(label.name, 0))}") for label in classes
    ]
    return [*entries, (None, "no data")] if nodata else entries


def _draw_legend(canvas: Canvas, top: float, entries: Sequence[tuple[str | None, str]], columns: int) -> None:
    """Draw a legend, filled row by row; each of its columns is as wide as its widest text."""
    left = MARGIN
    for column in range(min(columns, len(entries))):
        inside = entries[column::columns]
        for row, (color, text) in enumerate(inside):
            place = Rectangle(left, top + row * _LEGEND_STEP, 0.165, 0.11)
            canvas.frame(place, HATCH, 1)
            if color is None:
                canvas.hatch(place)
            else:
                canvas.rectangle(place, color)
            canvas.text(left + 0.26, place.top + 0.1, text)
        left += 0.26 + max(canvas.measure(text) for _, text in inside) + 0.2


def _draw_share_bar(
    canvas: Canvas, top: float, width: float, classes: Sequence[LabelClass], shares: Mapping[str, float]
) -> None:
    start = MARGIN
    for label in classes:
        share = shares.get(label.name, 0.0) * width
        canvas.rectangle(Rectangle(start, top, share, 0.1), label.hex)
        start += share


def _draw_scale_bar(canvas: Canvas, width_m: float, layout: _PanelLayout) -> None:
    """Draw a bar of 1, 2 or 5 times a power of ten metres in the lower left corner of the first panel.

    It is at most a quarter as long as the panel is wide, or a half of a narrow panel.

    Args:
        canvas: the page.
        width_m: width of the scene in metres.
        layout: sizes of the panel.
    """
    length = round_length(width_m / (4 if layout.width > 2 else 2))
    left, low = MARGIN + 0.16, _FIRST_PANEL + layout.height - 0.18
    inches = length / width_m * layout.width
    canvas.rectangle(Rectangle(left, low - 0.031, inches, 0.062), INK)
    canvas.rectangle(Rectangle(left, low - 0.017, inches, 0.034), "white")
    is_short = inches < 0.5
    text = f"{length / 1000:,.0f} km" if length >= 1000 else f"{length:g} m"
    canvas.outline_text(left if is_short else left + inches / 2, low - 0.09, text, "ls" if is_short else "ms")
