"""How much of a scene each class covers, and the properties of a STAC item that say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import zarr
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import NODATA, LabelClass, make_column_names
from seamline.pipeline.geometry.pixel_area import iter_row_bands, measure_pixel_areas
from seamline.pipeline.products.cog import iter_row_windows
from seamline.pipeline.products.run_record import ClassArea


def compute_class_areas(labels: zarr.Array[Any], grid: GeoBox, classes: Sequence[LabelClass]) -> tuple[ClassArea, ...]:
    """Count the pixels of every class and measure their area.

    The area is that on the ellipsoid, also where the projection stretches it (four times in Web Mercator at 60° north).
    One row of Zarr chunks is in memory at a time.

    Args:
        labels: (y, x) uint8.
        grid: grid of the labels.
        classes: the classes.

    Returns:
        A row for each class, in the order of the classes.
    """
    pixels, area = np.zeros(256, np.int64), np.zeros(256)
    pixel_areas = measure_pixel_areas(grid)
    for window in iter_row_windows(labels):
        block = np.asarray(labels[window.to_slices()])
        for rows in iter_row_bands(*window.shape):
            values = block[rows].ravel()
            pixels += np.bincount(values, minlength=256)
            if pixel_areas is not None:
                area += np.bincount(values, pixel_areas.for_window(window)[rows].ravel(), 256)
    valid = int(pixels.sum() - pixels[NODATA])
    return tuple(
        ClassArea(
            name=label.name,
            value=label.value,
            pixels=int(pixels[label.value]),
            share=int(pixels[label.value]) / max(1, valid),
            area_m2=None if pixel_areas is None else float(area[label.value]),
        )
        for label in classes
    )


def build_class_properties(classes: Sequence[LabelClass], table: Sequence[ClassArea]) -> dict[str, Any]:
    """Return the properties of an item that say how much of the scene each class covers.

    Args:
        classes: the classes.
        table: a row for each class, in the same order.

    Returns:
        ``seamline:classes``, the table itself, and each share and area once more as a property of its own, with a name
        that SQL takes without quotes.
    """
    columns = make_column_names(classes)
    flat: dict[str, Any] = {}
    for row, column in zip(table, columns, strict=True):
        flat[f"{column}_share"] = row.share
        if row.area_m2 is not None:
            flat[f"{column}_area_m2"] = row.area_m2
    rows = [asdict(row) | {"column": column} for row, column in zip(table, columns, strict=True)]
    return {"seamline:classes": rows, **flat}
