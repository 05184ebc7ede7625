"""Read true labels, from a raster or from polygons, on the grid of a scene or of a segmentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.features import rasterize

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.resample import (
    PixelReader,
    RasterGrid,
    identity_transform,
    make_nearest_reader,
    make_transformer,
)
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.results.label_raster import (
    check_label_raster,
    format_values,
    map_values,
    open_label_raster,
    read_labels,
    read_raster_grid,
    unreadable_error,
)
from seamline.pipeline.storage.atomic import refuse_special_file

VECTOR_SUFFIXES = {".geojson", ".json", ".gpkg", ".fgb", ".shp", ".gml", ".kml"}
_OWN_FIELDS = ("class", "area_m2")
"""Attributes of the polygons that a run publishes; the first holds the label."""
_UNREADABLE_ERRORS = (RuntimeError, ValueError, LookupError, NameError)
"""What pyogrio raises for files that it cannot read: its own errors are RuntimeErrors, and it uses a name that it has
not set where GDAL cannot write a CRS."""

LabelReader = Callable[[Window], NDArray[np.uint8]]
"""Reads the labels (height, width) of a window, ``NODATA`` where nothing is known."""


@dataclass(frozen=True)
class Truth:
    """True labels: a raster, or polygons.

    Attributes:
        path: The file.
        attribute: Attribute of the polygons that holds their values. Without one, polygons that a run published have
            their class and others the label 1, on a background of 0.
        values: Label of each value of the raster or attribute; other values are unknown. Dates are written as ISO
            8601, 2024-06-01. Empty: the values are the labels. Then values below 0 and above 254 are unknown, whole
            numbers stored as floats are labels, and fractions are refused, since they are probabilities or
            interpolated labels.
    """

    path: Path
    attribute: str = ""
    values: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_vector(self) -> bool:
        """Whether the file holds polygons, by its suffix."""
        return self.path.suffix.lower() in VECTOR_SUFFIXES


def make_label_reader(grid: GeoBox, truth: Truth) -> LabelReader:
    """Return a reader of true labels on ``grid``; a raster on another grid is resampled to the nearest neighbour.

    Several threads may call the reader, one at a time.

    Args:
        grid: The grid whose windows are read.
        truth: The labels.

    Returns:
        The reader; it raises ``InputError`` where the values are no labels.

    Raises:
        InputError: The truth cannot be read, or does not overlap the grid.
    """
    target = RasterGrid(
        None if grid.crs is None else rasterio.CRS.from_wkt(grid.crs.to_wkt()),
        grid.transform,
        tuple(grid.shape),
        tuple(grid.extent.boundingbox.bbox),
    )
    if truth.is_vector:
        return make_rasterizer(truth, target)
    name = f"truth {truth.path}"
    check_label_raster(truth.path, "truth")
    with open_label_raster(truth.path, "truth") as dataset:
        read_pixels: PixelReader = identity_transform
        if target.pixel_grid != read_raster_grid(dataset).pixel_grid:
            check_extent(target, truth.path, dataset.crs and dataset.crs.to_wkt(), dataset.bounds)
            if target.crs is None:
                raise InputError(
                    name,
                    got=f"{dataset.shape} pixels",
                    expected=f"{target.shape}, as its image has",
                    fix="take the labels of this image, or georeference both",
                )
            read_pixels = make_nearest_reader(target, dataset.crs, name)

    def read(window: Window) -> NDArray[np.uint8]:
        # Opened for each window: a GDAL dataset must stay in one thread.
        with open_label_raster(truth.path, "truth") as dataset:
            return read_labels(dataset, window, truth.values, name, read_pixels)

    return read


def describe_values(truth: Truth) -> str:
    """Return the values of a raster or of the attribute of polygons, in ascending order; of many the first.

    Raises:
        InputError: The truth cannot be read.
    """
    if truth.is_vector:
        column = _read_columns(truth)[3]
        return format_values(column[0] if column else [])
    found: set[Any] = set()
    with open_label_raster(truth.path, "truth") as dataset:
        for _, window in dataset.block_windows(1):
            found |= set(np.unique(dataset.read(1, window=window, masked=True).compressed()).tolist())
            if len(found) > 1000:  # no labels
                break
    return format_values(list(found))


def make_rasterizer(truth: Truth, target: RasterGrid) -> LabelReader:
    """Return a reader that burns the polygons of ``truth`` into windows of ``target``.

    Where polygons overlap, the one that comes later in the file wins.

    Raises:
        InputError: The polygons cannot be read, do not overlap the grid, or their values are no labels.
    """
    refuse_special_file(truth.path)
    truth = _use_own_attribute(truth)
    shapes, labels = _read_polygons(truth, target)
    tree = shapely.STRtree(shapes)
    background = NODATA if truth.attribute else 0

    def read(window: Window) -> NDArray[np.uint8]:
        transform = target.transform @ Affine.translation(window.col, window.row)
        corners = [(0, 0), (window.width, 0), (window.width, window.height), (0, window.height)]
        outline = shapely.Polygon([transform @ corner for corner in corners])
        # Sorted, since rasterize draws in the order given and the tree returns any.
        burnt = [(shapes[index], int(labels[index])) for index in sorted(tree.query(outline))]
        if not burnt:
            return np.full(window.shape, background, np.uint8)
        return np.asarray(rasterize(burnt, window.shape, fill=background, transform=transform, dtype="uint8"))

    return read


def _use_own_attribute(truth: Truth) -> Truth:
    """Return the truth with the attribute that holds the labels, if a run published the polygons."""
    if truth.attribute:
        return truth
    import pyogrio  # here and below, because it is an extra

    with suppress(*_UNREADABLE_ERRORS):  # _read_polygons reports them
        if set(_OWN_FIELDS) <= set(pyogrio.read_info(truth.path)["fields"].tolist()):
            return replace(truth, attribute=_OWN_FIELDS[0])
    return truth


def _read_polygons(truth: Truth, target: RasterGrid) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Return the geometries (n,) in the CRS of ``target``, and their labels (n,)."""
    import pyogrio

    name = f"truth {truth.path}"
    meta, _, binaries, columns = _read_columns(truth)
    if truth.attribute and truth.attribute not in meta["fields"]:
        known = pyogrio.read_info(truth.path)["fields"].tolist()
        raise InputError(
            name,
            got=f"no attribute {truth.attribute}",
            expected="one of " + ", ".join(known),
            fix="correct --attribute",
        )
    shapes = _parse_geometries(binaries, truth.path)
    is_present = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
    _check_crs(target, truth.path, meta["crs"])
    if is_present.any():
        check_extent(target, truth.path, meta["crs"], shapely.total_bounds(shapes[is_present]))
    if meta["crs"]:
        to_target = make_transformer(meta["crs"], target.crs, name)
        shapes = np.asarray(shapely.transform(shapes, lambda xy: np.column_stack(to_target.transform(*xy.T))))
    shapes = shapes[is_present]
    if not truth.attribute:
        return shapes, np.ones(len(shapes), np.uint8)
    return shapes, map_values(np.asarray(columns[0])[is_present], truth.values, name)


def _read_columns(truth: Truth) -> Any:
    """Return what ``pyogrio.raw.read`` returns of the polygons, with the attribute of their values alone."""
    import pyogrio

    try:
        return pyogrio.raw.read(truth.path, columns=[truth.attribute] if truth.attribute else [])
    except _UNREADABLE_ERRORS as error:
        raise unreadable_error(f"truth {truth.path}", error) from error


def _parse_geometries(binaries: NDArray[Any], path: Path) -> NDArray[Any]:
    """Return the geometries of WKB (n,); None stays None."""
    shapes = np.asarray(shapely.from_wkb(binaries, on_invalid="ignore"))
    was_given = np.array([binary is not None for binary in binaries], bool)
    broken = np.flatnonzero(shapely.is_missing(shapes) & was_given)
    if broken.size:
        raise InputError(
            f"truth {path}",
            got=f"{broken.size} geometries that are none, the first of feature {broken[0] + 1}",
            expected="closed rings of at least 4 points",
            fix="repair them, or take them away",
        )
    return shapes


def check_extent(target: RasterGrid, path: Path, crs: str | None, bounds: Any) -> None:
    """Check that a truth overlaps the grid of the segmentation.

    Args:
        target: Grid of the segmentation.
        path: File of the truth, for messages.
        crs: CRS of the truth as WKT or code, or None.
        bounds: Left, bottom, right, top of the truth in its CRS.

    Raises:
        InputError: They do not overlap, or only one of them has a CRS.
    """
    _check_crs(target, path, crs)
    if crs:
        bounds = make_transformer(crs, target.crs, f"truth {path}").transform_bounds(*bounds)
    left, bottom, right, top = target.bounds
    if not shapely.intersects(shapely.box(left, bottom, right, top), shapely.box(*bounds)):
        raise InputError(
            f"truth {path}",
            got="ground within ({:.6g}, {:.6g}) to ({:.6g}, {:.6g})".format(*bounds),
            expected="an overlap with the segmentation, ({:.6g}, {:.6g}) to ({:.6g}, {:.6g})".format(*target.bounds),
            fix="take the truth of the same scene",
        )


def _check_crs(target: RasterGrid, path: Path, crs: str | None) -> None:
    if bool(crs) != bool(target.crs):
        raise InputError(
            f"truth {path}",
            got="a CRS for only one of both",
            expected="the same grid, or a CRS for both",
            fix="add it with `gdal_edit.py -a_srs …`",
        )
