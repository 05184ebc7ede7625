"""The picture of a plan: its tiles, overlap and chunks drawn over the scene, and one window enlarged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D
from matplotlib.patches import ConnectionPatch, Patch, Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from seamline.pipeline.geometry.window import Window, mirror_indices
from seamline.pipeline.report.page import GREY, HATCH, INK, MARGIN, Page

_LAND, _WINDOW, _OVERLAP, _CHUNK = "#e8eef2", "#d1495b", "#f0a202", "#14344f"
_SCENE_OPACITY = 0.62
"""Opacity of the scene under the lines of its plan."""
_ZOOM, _GAP, _HEAD = 4.2, 0.55, 0.92
"""Edge of the enlarged window, gap beside it and space above the pictures, in inches."""


def write_plan_picture(
    shape: tuple[int, int],
    windows: Sequence[Window],
    supports: Sequence[Window],
    chunks: Sequence[Window],
    overlap: int,
    rgb: NDArray[np.uint8] | None,
    title: str,
    path: Path,
) -> None:
    """Draw the plan of a scene.

    The left picture shows the whole scene: its mirrored overhang, the tiles, their overlap, the chunks. The right one
    enlarges the window nearest to the middle of the scene, with its support and halo.

    Args:
        shape: (height, width) of the scene.
        windows: windows of the tiles.
        supports: supports of the tiles, in the same order.
        chunks: the chunks.
        overlap: in pixels.
        rgb: the scene (h, w, 3) at any scale. ``None``: it is not drawn.
        title: title of the picture.
        path: the PNG, which appears whole or not at all.
    """
    everything = _compute_bounds([Window(0, 0, *shape), *windows])
    height, width = everything.shape
    window, support = min(zip(windows, supports, strict=True), key=lambda pair: _compute_off_centre(pair[0], shape))

    panel_width = min(7.2, 5.4 * width / height)
    panel_height = panel_width * height / width
    body = max(panel_height, _ZOOM)
    page = Page(2 * MARGIN + panel_width + _GAP + _ZOOM, _HEAD + body + 0.6)
    page.text(MARGIN, 0.4, title, fontsize=13, weight="bold")
    page.text(MARGIN, 0.68, _summarize_plan(shape, windows, chunks, support, overlap), color=GREY)

    axes = page.axes(MARGIN, _HEAD, panel_width, panel_height)
    _set_view(axes, everything)
    _draw_scene(axes, shape, everything, rgb)
    _draw_tiles(axes, supports, chunks, overlap)
    axes.add_patch(_make_rectangle(Window(0, 0, *shape), edgecolor=INK, lw=1.2))
    axes.add_patch(_make_rectangle(window, edgecolor=_WINDOW, lw=1.4))

    zoom = page.axes(MARGIN + panel_width + _GAP, _HEAD, _ZOOM, _ZOOM)
    surroundings = _enlarge(window)
    _set_view(zoom, surroundings)
    is_detailed = rgb is not None and rgb.shape[1] / shape[1] * window.width > 150
    _draw_scene(zoom, shape, surroundings, rgb if is_detailed else None)
    _draw_tiles(zoom, supports, chunks, overlap)
    below = support.shift(support.height - overlap, 0)
    _draw_example(zoom, window, support, overlap if below in supports else 0)
    _draw_connection(page, axes, zoom, window)
    page.legend(MARGIN, _HEAD + body + 0.2, _build_legend_handles(overlap), 6)
    page.save(path)


def _compute_bounds(windows: Sequence[Window]) -> Window:
    """Return the smallest window that contains all of the windows."""
    row, col = min(w.row for w in windows), min(w.col for w in windows)
    return Window(row, col, max(w.stop_row for w in windows) - row, max(w.stop_col for w in windows) - col)


def _compute_off_centre(window: Window, shape: tuple[int, int]) -> float:
    """Return twice the distance in pixels from the middle of a window to that of the scene."""
    return math.hypot(window.row + window.stop_row - shape[0], window.col + window.stop_col - shape[1])


def _enlarge(window: Window) -> Window:
    """Return a window with an eighth of its size more on every side."""
    height, width = window.shape
    return Window(window.row - height // 8, window.col - width // 8, height * 5 // 4, width * 5 // 4)


def _summarize_plan(
    shape: tuple[int, int], windows: Sequence[Window], chunks: Sequence[Window], support: Window, overlap: int
) -> str:
    read = sum(window.pixel_count for window in windows) / (shape[0] * shape[1])
    tiles, parts = (
        f"{len(n):,} {word}{'s' if len(n) != 1 else ''}" for n, word in ((windows, "tile"), (chunks, "chunk"))
    )
    return (
        f"{shape[0]:,} × {shape[1]:,} px   ·   {tiles} in {parts}   ·   "
        f"stride {support.height - overlap} px   ·   {read:.2f} network pixels per scene pixel"
    )


def _set_view(axes: Axes, view: Window) -> None:
    axes.set(xlim=(view.col, view.stop_col), ylim=(view.stop_row, view.row))


def _draw_scene(axes: Axes, shape: tuple[int, int], view: Window, rgb: NDArray[np.uint8] | None) -> None:
    """Draw the scene on ``view``; where that overhangs the scene, its mirror image, pale and hatched."""
    extent = (view.col, view.stop_col, view.stop_row, view.row)
    scene = Window(0, 0, *shape)
    if rgb is not None:
        count = math.ceil(min(1000, view.width * rgb.shape[1] / shape[1]))
        rows, cols = (
            mirror_indices(start, stop, size)[np.arange(count) * (stop - start) // count] * parts // size
            for start, stop, size, parts in (
                (view.row, view.stop_row, shape[0], rgb.shape[0]),
                (view.col, view.stop_col, shape[1], rgb.shape[1]),
            )
        )
        axes.imshow(rgb[np.ix_(rows, cols)], extent=extent, alpha=_SCENE_OPACITY)
    else:
        axes.add_patch(_make_rectangle(scene, facecolor=_LAND, fill=True, lw=0))
    for side in _split_surroundings(scene, view):
        axes.add_patch(_make_rectangle(side, facecolor="white", fill=True, alpha=0.6, lw=0))
        axes.add_patch(_make_rectangle(side, edgecolor=HATCH, hatch="////", lw=0))


def _split_surroundings(inner: Window, outer: Window) -> list[Window]:
    """Return what of ``outer`` is not in ``inner``, as up to four windows."""
    core = inner.intersection(outer)
    sides = [
        Window(outer.row, outer.col, core.row - outer.row, outer.width),
        Window(core.stop_row, outer.col, outer.stop_row - core.stop_row, outer.width),
        Window(core.row, outer.col, core.height, core.col - outer.col),
        Window(core.row, core.stop_col, core.height, outer.stop_col - core.stop_col),
    ]
    return [side for side in sides if side.pixel_count]


def _draw_tiles(axes: Axes, supports: Sequence[Window], chunks: Sequence[Window], overlap: int) -> None:
    """Draw overlaps, the borders of tiles in the middle of the overlaps, and chunks."""
    tiles, blocks = _to_boxes(supports), _to_boxes(chunks)
    _, _, wide, _ = axes.get_window_extent().bounds
    scale = wide / abs(np.subtract(*axes.get_xlim()))  # dots of the picture per pixel of the scene
    fine = float(np.clip((tiles[0, 3] - tiles[0, 1]) * scale / 60, 0.15, 0.9))
    if overlap * scale > 1.5:
        _draw_overlaps(axes, supports, overlap)
    half = overlap / 2
    cells = tiles + np.array([half, half, -half, -half])
    axes.add_collection(PolyCollection(_to_corners(cells), facecolor="none", edgecolor=_CHUNK, lw=fine, alpha=0.75))
    axes.add_collection(
        PolyCollection(_to_corners(blocks), facecolor="none", edgecolor=_CHUNK, lw=max(0.5, 2.2 * min(1.0, fine * 2)))
    )


def _draw_overlaps(axes: Axes, supports: Sequence[Window], overlap: int) -> None:
    """Draw the bands that a support shares with its neighbours to the right and below."""
    tiles = _to_boxes(supports)
    right, lower = tiles.copy(), tiles.copy()
    right[:, 1] = right[:, 3] - overlap
    lower[:, 0] = lower[:, 2] - overlap
    starts = {(s.row, s.col) for s in supports}
    has_right = [(s.row, s.stop_col - overlap) in starts for s in supports]
    has_lower = [(s.stop_row - overlap, s.col) in starts for s in supports]
    bands = np.concatenate([right[has_right], lower[has_lower]])
    axes.add_collection(PolyCollection(_to_corners(bands), facecolor=_OVERLAP, alpha=0.6, lw=0))


def _to_boxes(windows: Sequence[Window]) -> NDArray[np.float64]:
    """Return windows as boxes (n, 4): row, col, stop_row, stop_col."""
    return np.array([(w.row, w.col, w.stop_row, w.stop_col) for w in windows], dtype=np.float64)


def _to_corners(boxes: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return the corners (4, 2), x and y, of each of the boxes (n, 4)."""
    return list(np.stack([boxes[:, [1, 3, 3, 1]], boxes[:, [0, 0, 2, 2]]], axis=-1))


def _make_rectangle(window: Window, *, fill: bool = False, **style: Any) -> Rectangle:
    return Rectangle((window.col, window.row), window.width, window.height, fill=fill, **style)


def _draw_example(axes: Axes, window: Window, support: Window, overlap: int) -> None:
    """Draw one window and its support, with their sizes."""
    for side in _split_surroundings(support, window):
        axes.add_patch(_make_rectangle(side, facecolor=_WINDOW, fill=True, alpha=0.25, lw=0))
    axes.add_patch(_make_rectangle(window, edgecolor=_WINDOW, lw=2))
    axes.add_patch(_make_rectangle(support, edgecolor=_WINDOW, lw=1.4, linestyle=(0, (4, 2))))
    middle, centre = window.col + window.width / 2, window.row + window.height / 2
    halo = support.row - window.row
    _draw_label(axes, (middle, centre), f"support {support.height} px")
    axes.text(
        middle,
        window.row - window.height * 0.02,
        f"window {window.height} px",
        ha="center",
        va="bottom",
        color=_WINDOW,
        weight="bold",
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
    )
    if halo:
        _draw_measure(axes, middle, (window.row, support.row), f"halo {halo} px")
    if overlap:
        _draw_measure(axes, middle, (support.stop_row - overlap, support.stop_row), f"overlap {overlap} px")


def _draw_measure(axes: Axes, col: float, ends: tuple[float, float], text: str) -> None:
    """Draw a double arrow between two rows, and a text beside it."""
    arrow = {"arrowstyle": "<|-|>", "mutation_scale": 7, "color": INK, "lw": 1, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (col, ends[1]), (col, ends[0]), arrowprops=arrow)
    axes.annotate(
        text,
        (col, sum(ends) / 2),
        xytext=(7, 0),
        textcoords="offset points",
        va="center",
        color=INK,
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
    )


def _draw_label(axes: Axes, place: tuple[float, float], text: str) -> None:
    axes.text(
        *place,
        text,
        ha="center",
        va="center",
        color=INK,
        bbox={"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": "none", "alpha": 0.9},
    )


def _draw_connection(page: Page, axes: Axes, zoom: Axes, window: Window) -> None:
    """Draw lines from a window in the scene to the same window in the enlarged picture."""
    for corner in (window.row, window.stop_row):
        line = ConnectionPatch(
            (window.stop_col, corner), (window.col, corner), "data", "data", axesA=axes, axesB=zoom, lw=0.7
        )
        line.set_color(_WINDOW)
        page.figure.add_artist(line)


def _build_legend_handles(overlap: int) -> list[tuple[Artist, str]]:
    handles: list[tuple[Artist, str]] = [
        (Line2D([], [], color=_CHUNK, lw=2.2), "chunk"),
        (Line2D([], [], color=_CHUNK, lw=0.8), "stride"),
        (Patch(facecolor=_OVERLAP, alpha=0.6), "overlap"),
        (Patch(facecolor="white", edgecolor=HATCH, hatch="//////", lw=0.5), "mirrored overhang"),
        (Line2D([], [], color=_WINDOW, lw=2), "window"),
        (Patch(facecolor=_WINDOW, alpha=0.25), "halo"),
    ]
    return handles if overlap else [handle for handle in handles if handle[1] != "overlap"]
