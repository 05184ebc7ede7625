"""The preview of a segmented scene: scene and segmentation side by side, with legend, shares, scale bar and north."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import NODATA, LabelClass, format_percent
from seamline.pipeline.geometry.map_scale import map_scale, round_length
from seamline.pipeline.report.page import GREY, HATCH, INK, MARGIN, VOID, Page

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
# Functions import what they need of matplotlib: it takes half a second, and a run draws at its end only.

_WHITE_FACTOR = 4.0
"""White is at most this many times as far above the dark end of a band as its median."""
_GAMMA = 0.85
"""Exponent of the stretched values, below 1 so that shadows are drawn a little lighter than they are."""
_NORTH_TOLERANCE = 5.0
"""Degrees between north and up from which on an arrow shows north. Meridians of a UTM zone converge by less."""
_FIRST_PANEL = 1.12
"""Inches from the upper edge of the page to the first panel."""


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
    handles = _build_share_handles(classes, shares, nodata=bool((labels == NODATA).any()))
    longest = max(len(text) for _, text in handles)
    columns = max(1, int((page_width - 2 * MARGIN) / (0.52 + 0.068 * longest)))
    rows = math.ceil(len(handles) / columns)

    page = Page(page_width, layout.bottom + 0.52 + 0.215 * rows)
    title, size = _fit_title(caption.title, page_width - 2 * MARGIN)
    page.text(MARGIN, 0.4, title, fontsize=size, weight="bold")
    page.text(MARGIN, 0.64, caption.note, color=GREY)
    for index, (name, picture) in enumerate(panels):
        left, top = MARGIN + index * layout.step_right, _FIRST_PANEL + index * layout.step_down
        page.text(left, top - 0.09, name, color=GREY)
        axes = page.axes(left, top, layout.width, layout.height)
        _draw_panel(axes, picture, labels, interpolate=picture is rgb)
        if index == 0:
            _draw_map_scale(axes, caption.grid, layout)
    _draw_share_bar(page, layout.bottom + 0.16, layout.content_width, classes, shares)
    page.legend(MARGIN, layout.bottom + 0.36, handles, columns)
    page.save(path)


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


def _draw_panel(axes: Axes, picture: NDArray[np.uint8], labels: NDArray[np.uint8], *, interpolate: bool) -> None:
    """Draw a picture (h, w, 3) where there are labels (h, w), and hatching elsewhere."""
    from matplotlib.patches import Rectangle

    height, width = labels.shape
    axes.set(xlim=(0, width), ylim=(height, 0), facecolor=VOID)
    axes.add_patch(Rectangle((0, 0), width, height, facecolor=VOID, edgecolor=HATCH, hatch="////", lw=0, zorder=-1))
    shown = np.dstack([picture, np.where(labels == NODATA, 0, 255).astype(np.uint8)])
    # Labels are not interpolated, so that every colour in their panel is that of a class.
    axes.imshow(shown, extent=(0, width, height, 0), interpolation=None if interpolate else "nearest")


def _draw_map_scale(axes: Axes, grid: GeoBox, layout: _PanelLayout) -> None:
    """Draw a scale bar, and north unless it is up; nothing without a CRS."""
    scale = map_scale(grid)
    if scale is None:
        return
    _draw_scale_bar(axes, grid.shape[1] * scale.pixel_m, layout.width, layout.height)
    if abs(scale.north) > _NORTH_TOLERANCE:
        _draw_north_arrow(axes, scale.north, layout.width, layout.height)


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


def _build_share_handles(
    classes: Sequence[LabelClass], shares: Mapping[str, float], *, nodata: bool
) -> list[tuple[Artist, str]]:
    from matplotlib.patches import Patch

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
    """Draw a bar of 1, 2 or 5 times a power of ten metres in the lower left corner.

    It is at most a quarter as long as the panel is wide, or a half of a narrow panel.

    Args:
        axes: the panel.
        width_m: width of the scene in metres.
        width: width of the panel in inches.
        height: height of the panel in inches.
    """
    from matplotlib.patheffects import withStroke

    length = round_length(width_m / (4 if width > 2 else 2))
    left, low = 0.16 / width, 0.18 / height
    right = left + length / width_m
    for color, line in ((INK, 4.5), ("white", 2.5)):
        axes.plot([left, right], [low] * 2, color=color, lw=line, transform=axes.transAxes, solid_capstyle="butt")
    is_short = (right - left) * width < 0.5
    axes.text(
        left if is_short else (left + right) / 2,
        low + 0.09 / height,
        f"{length / 1000:,.0f} km" if length >= 1000 else f"{length:g} m",
        transform=axes.transAxes,
        ha="left" if is_short else "center",
        color="white",
        path_effects=[withStroke(linewidth=2, foreground=INK)],
    )


def _draw_north_arrow(axes: Axes, north: float, width: float, height: float) -> None:
    """Draw an arrow to the north in the upper right corner.

    Args:
        axes: the panel.
        north: degrees clockwise from up.
        width: width of the panel in inches.
        height: height of the panel in inches.
    """
    from matplotlib.patheffects import withStroke

    right, up = math.sin(math.radians(north)), math.cos(math.radians(north))

    def place(inches: float) -> tuple[float, float]:
        return 1 - (0.32 - inches * right) / width, 1 - (0.32 - inches * up) / height

    for color, line in ((INK, 4.0), ("white", 2.0)):
        arrow = {"arrowstyle": "-|>", "color": color, "lw": line, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", place(0.1), place(-0.24), "axes fraction", arrowprops=arrow)
    axes.text(
        *place(0.21),
        "N",
        transform=axes.transAxes,
        ha="center",
        va="center",
        color="white",
        weight="bold",
        path_effects=[withStroke(linewidth=2, foreground=INK)],
    )
