"""Dates, places, areas, times and sizes as text for people."""

from __future__ import annotations

from seamline.pipeline.geometry.map_scale import MapScale
from seamline.pipeline.products.geozarr import find_crs_code
from seamline.pipeline.scenes.scene import Scene


def format_date(scene: Scene) -> str:
    """Return when a scene was acquired."""
    return "date unknown" if scene.acquired is None else str(scene.acquired)


def format_crs(scene: Scene) -> str:
    """Return the code or name of a scene's CRS."""
    crs = scene.grid.crs
    return "no CRS" if crs is None else find_crs_code(scene.grid) or crs.proj.name


def format_area(square_metres: float | None) -> str:
    """Return an area in km², ha or m² with three digits or more; a dash if it is unknown."""
    if square_metres is None:
        return "–"
    for size, unit in ((1e6, "km²"), (1e4, "ha")):
        if square_metres >= size:
            value = square_metres / size
            return f"{value:,.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"
    return f"{square_metres:,.0f} m²"


def format_duration(seconds: float) -> str:
    """Return a duration in seconds, minutes or hours."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def format_mebibytes(size: int) -> str:
    """Return a number of bytes in MiB."""
    return f"{size / 2**20:,.0f} MiB"


def format_pixel_size(scale: MapScale) -> str:
    """Return the size of a pixel in metres: one number if it is square, otherwise width × height."""
    across, down = f"{scale.pixel_m:.3g}", f"{scale.row_m:.3g}"
    return f"{across} m" if across == down else f"{across} × {down} m"
