"""Which pixels two results have in common: those of one lattice, where their rasters overlap."""

from __future__ import annotations

from dataclasses import dataclass

from affine import Affine
from odc.geo.geobox import GeoBox

from seamline.pipeline.analysis.listing import NamedResult
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.window import Window

_TOLERANCE = 0.01
"""Pixels by which pixels of one lattice may lie apart."""


@dataclass(frozen=True)
class Overlap:
    """The pixels that two results have in common.

    Attributes:
        grid: Their grid.
        before: Where they are in the first result.
        after: Where they are in the second one.
    """

    grid: GeoBox
    before: Window
    after: Window


def find_overlap(before: NamedResult, after: NamedResult) -> Overlap:
    """Return the pixels that two results have in common.

    Raises:
        InputError: Their CRS, resolution or lattice differ, or their rasters do not overlap.
    """
    first, second = before.published.grid, after.published.grid
    what = f"{before.name} and {after.name}"
    if first.crs != second.crs:
        raise _overlap_error(what, f"{first.crs} and {second.crs}", "one CRS of both")
    a, b, col, d, e, row = (~first.transform @ second.transform)[:6]
    if max(abs(a - 1), abs(b), abs(d), abs(e - 1)) * max(*first.shape, *second.shape) > _TOLERANCE:
        sizes = [f"{abs(grid.transform.a):.9g} × {abs(grid.transform.e):.9g}" for grid in (first, second)]
        raise _overlap_error(what, f"pixels of {' and '.join(sizes)}", "one resolution, turned in one way")
    if max(abs(col - round(col)), abs(row - round(row))) > _TOLERANCE:
        got = f"pixels that lie {abs(col - round(col)):.2f} columns and {abs(row - round(row)):.2f} rows apart"
        raise _overlap_error(what, got, "pixels that lie on each other")
    place = Window(round(row), round(col), *second.shape)
    common = Window(0, 0, *first.shape).intersection(place)
    if not common.pixel_count:
        raise _overlap_error(what, "no pixel that both have", "results that overlap")
    corner = first.transform @ Affine.translation(common.col, common.row)
    return Overlap(GeoBox(common.shape, corner, first.crs), common, common.relative_to(place))


def _overlap_error(what: str, got: str, expected: str) -> InputError:
    fix = "take periods of one map, or maps of one --crs and --resolution that overlap"
    return InputError(what, got=got, expected=expected, fix=fix)
