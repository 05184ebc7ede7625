"""How much of a scene each class covers, and the properties of a STAC item that say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seamline.pipeline.common.classes import NODATA, LabelClass, make_column_names
from seamline.pipeline.geometry.pixel_area import AreaArray, iter_row_bands
from seamline.pipeline.products.run_record import ClassArea


@dataclass(frozen=True)
class LabelCounts:
    """How often each label occurs, and how much of the Earth it covers; sums do not depend on how labels were split.

    Attributes:
        pixels: pixels of each label, (256,).
        area: m² of each label, (256,), each a multiple of ``PixelAreas.unit``. ``None``: unknown, without a CRS.
    """

    pixels: NDArray[np.int64]
    area: NDArray[np.float64] | None


def count_labels(labels: NDArray[np.uint8], areas: AreaArray | None) -> LabelCounts:
    """Count the pixels of every label and measure their area.

    The area is that on the ellipsoid, also where the projection stretches it (four times in Web Mercator at 60° north).

    Args:
        labels: (height, width).
        areas: areas of the pixels (height, width). ``None``: unknown.

    Returns:
        The sums over all pixels.
    """
    pixels, area = np.zeros(NODATA + 1, np.int64), np.zeros(NODATA + 1)
    for rows in iter_row_bands(*labels.shape):
        values = labels[rows].ravel().astype(np.intp)  # once for both counts, which would do it
        pixels += np.bincount(values, minlength=NODATA + 1)
        if areas is not None:
            area += np.bincount(values, areas[rows].ravel(), NODATA + 1)
    return LabelCounts(pixels, None if areas is None else area)


def compute_class_areas(counts: Sequence[LabelCounts], classes: Sequence[LabelClass]) -> tuple[ClassArea, ...]:
    """Return a row for each class, in the order of the classes, from the counts of all parts of a scene."""
    pixels = np.sum([part.pixels for part in counts], axis=0)
    areas = [part.area for part in counts if part.area is not None]
    area = np.sum(areas, axis=0) if areas else None
    valid = int(pixels.sum() - pixels[NODATA])
    return tuple(
        ClassArea(
            name=label.name,
            value=label.value,
            pixels=int(pixels[label.value]),
            share=int(pixels[label.value]) / max(1, valid),
            area_m2=None if area is None else float(area[label.value]),
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
