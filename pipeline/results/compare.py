"""Two sets of labels, block by block on one grid: a segmentation and the truth.

The grid is the truth's, onto which the segmentation is warped by nearest neighbour; where the truth is vectors, they
are burnt into the segmentation's grid. Memory does not grow with the rasters.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.features import rasterize

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import COG
from seamline.pipeline.geometry.resample import (
    PixelReader,
    RasterGrid,
    identity_transform,
    make_nearest_reader,
    make_transformer,
)
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.raster_io.gdal import gdal_environment

VECTOR_SUFFIXES = {".geojson", ".json", ".gpkg", ".fgb", ".shp", ".gml", ".kml"}
_OWN_FIELDS = ("class", "area_m2")
"""Attributes of polygons that a run published, the one of their labels first."""


@dataclass(frozen=True)
class Truth:
    """Labels that are true: a raster, or polygons.

    ``values`` maps what stands in the raster, or in the ``attribute`` of the polygons, to labels; what it does not name
    is unknown. Empty: the values are the labels; those below 0 and above 254 are unknown, and fractions are refused,
    since they are probabilities, or labels that were interpolated. Whole numbers stored as floats are labels.
    Dates are named as ISO 8601 writes them, 2024-06-01. Without an ``attribute`` polygons that a run published have
    their class, others the label 1, the rest 0.
    """

    path: Path
    attribute: str = ""
    values: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_vector(self) -> bool:
        """Whether it is polygons, by the file's name."""
        return self.path.suffix.lower() in VECTOR_SUFFIXES


@dataclass(frozen=True)
class LabelPair:
    """Labels (height, width) of both on the same pixels, ``NODATA`` where either says nothing.

    Both have a margin of pixels that belong to other pairs; ``inner`` is what this pair alone has.
    """

    predicted: NDArray[np.uint8]
    true: NDArray[np.uint8]
    inner: tuple[slice, slice]


def find_label_raster(prediction: Path) -> Path:
    """The raster of labels: the file itself, or the COG in a scene's folder of results."""
    path = prediction / COG if prediction.is_dir() else prediction
    if not path.is_file():
        raise InputError(
            f"segmentation {prediction}",
            got=f"no {COG} in it" if prediction.is_dir() else "no such file",
            expected="a raster of labels, or a folder that `seamline segment --outputs cog` wrote",
            fix="check the path",
        )
    return path


def read_class_names(prediction: Path) -> dict[int, str]:
    """Names of the labels, as the tags of a segmentation's COG have them; empty for other rasters."""
    with _open_file(find_label_raster(prediction), "segmentation") as file:
        tags = file.tags()
    names = {name.removeprefix("CLASS_"): text for name, text in tags.items() if name.startswith("CLASS_")}
    return {
        int(label): text for label, text in names.items() if re.fullmatch("[0-9]{1,3}", label) and int(label) < NODATA
    }


def read_label_pairs(prediction: Path, truth: Truth, margin: int, edge: int = 2048) -> Iterator[LabelPair]:
    """Blocks of at most ``edge``² pixels that together cover the grid, each with ``margin`` pixels around it.

    Raises:
        InputError: a file cannot be read, has no known CRS while the other has one, they have no ground in common, or
            what stands in them are no labels.
    """
    with _open_file(find_label_raster(prediction), "segmentation") as predicted:
        reading = _open_vector_pair(truth, predicted) if truth.is_vector else _open_raster_pair(truth, predicted)
        with reading as (size, both):
            whole = Window(0, 0, *size)
            for row in range(0, whole.height, edge):
                for col in range(0, whole.width, edge):
                    inner = Window(row, col, edge, edge).intersection(whole)
                    outer = Window(
                        inner.row - margin, inner.col - margin, inner.height + 2 * margin, inner.width + 2 * margin
                    ).intersection(whole)
                    ours, theirs = both(outer)
                    unknown = (ours == NODATA) | (theirs == NODATA)
                    ours[unknown], theirs[unknown] = NODATA, NODATA
                    yield LabelPair(ours, theirs, inner.relative_to(outer).to_slices())


@contextmanager
def _open_raster_pair(truth: Truth, predicted: Any) -> Iterator[Any]:
    """(size, reader of both labels of a window) on the grid of a raster of truth."""
    with _open_file(truth.path, "truth") as true:
        place = RasterGrid(true.crs, true.transform, true.shape, tuple(true.bounds))
        same = place.pixel_grid == (predicted.crs, predicted.transform, predicted.shape)
        if not same:
            _check_extent(predicted, truth.path, true.crs and true.crs.to_wkt(), true.bounds)
        name = f"segmentation {predicted.name}"
        pixels = identity_transform if same else make_nearest_reader(place, predicted.crs, name)

        def both(window: Window) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
            theirs = _read_labels(true, window, truth.values, f"truth {truth.path}")
            return _read_labels(predicted, window, {}, name, pixels), theirs

        yield true.shape, both


@contextmanager
def _open_vector_pair(truth: Truth, predicted: Any) -> Iterator[Any]:
    """(size, reader of both labels of a window) on the grid of the segmentation, for polygons."""
    true = _make_rasterizer(truth, predicted)
    name = f"segmentation {predicted.name}"
    yield predicted.shape, lambda window: (_read_labels(predicted, window, {}, name), true(window))


def make_label_reader(grid: GeoBox, truth: Truth) -> Callable[[Window], NDArray[np.uint8]]:
    """A reader of the labels (height, width) of windows of ``grid``; a raster is warped to it by nearest neighbour.

    Safe to call from several threads, one at a time.

    Raises:
        InputError: the truth cannot be read, or lies elsewhere; from the reader, also where there are no labels in it.
    """
    place = RasterGrid(
        None if grid.crs is None else rasterio.CRS.from_wkt(grid.crs.to_wkt()),
        grid.transform, tuple(grid.shape), tuple(grid.extent.boundingbox.bbox),
    )  # fmt: skip
    if truth.is_vector:
        return _make_rasterizer(truth, place)
    with _open_file(truth.path, "truth") as true:
        same = place.pixel_grid == (true.crs, true.transform, true.shape)
        if not same:
            _check_extent(place, truth.path, true.crs and true.crs.to_wkt(), true.bounds)
            if place.crs is None:
                raise InputError(
                    f"truth {truth.path}", got=f"{true.shape} pixels", expected=f"{place.shape}, as its image has",
                    fix="take the labels of this image, or georeference both",
                )  # fmt: skip
        name = f"truth {truth.path}"
        pixels = identity_transform if same else make_nearest_reader(place, true.crs, name)

    def read(window: Window) -> NDArray[np.uint8]:
        with _open_file(truth.path, "truth") as true:  # GDAL's handles belong to one thread
            return _read_labels(true, window, truth.values, name, pixels)

    return read


def _make_rasterizer(truth: Truth, place: Any) -> Callable[[Window], NDArray[np.uint8]]:
    """A reader of the labels of a window, for polygons."""
    truth = _use_own_attribute(truth)
    shapes, labels = _read_polygons(truth, place)
    tree = shapely.STRtree(shapes)
    rest = NODATA if truth.attribute else 0

    def read(window: Window) -> NDArray[np.uint8]:
        transform = place.transform @ Affine.translation(window.col, window.row)
        corners = [(0, 0), (window.width, 0), (window.width, window.height), (0, window.height)]
        near = sorted(tree.query(shapely.Polygon([transform @ corner for corner in corners])))
        burnt = [(shapes[k], int(labels[k])) for k in near]  # in the file's order: what comes later lies above
        if not burnt:
            return np.full(window.shape, rest, np.uint8)
        return np.asarray(rasterize(burnt, window.shape, fill=rest, transform=transform, dtype="uint8"))

    return read


def _use_own_attribute(truth: Truth) -> Truth:
    """Polygons that a run published say their labels by themselves."""
    if truth.attribute:
        return truth
    with suppress(pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, ValueError):  # told by who reads it
        if set(_OWN_FIELDS) <= set(pyogrio.read_info(truth.path)["fields"].tolist()):
            return replace(truth, attribute=_OWN_FIELDS[0])
    return truth


def _read_polygons(truth: Truth, predicted: Any) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Geometries in the CRS of the segmentation, and their labels."""
    try:
        meta, _, geometry, columns = pyogrio.raw.read(truth.path, columns=[truth.attribute] if truth.attribute else [])
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, ValueError) as error:
        raise _unreadable_error(f"truth {truth.path}", error) from error
    if truth.attribute and truth.attribute not in meta["fields"]:
        known = pyogrio.read_info(truth.path)["fields"].tolist()
        raise InputError(
            f"truth {truth.path}", got=f"no attribute {truth.attribute}", expected="one of " + ", ".join(known),
            fix="correct --attribute",
        )  # fmt: skip
    shapes = _parse_geometries(geometry, truth.path)
    keep = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
    _check_crs(predicted, truth.path, meta["crs"])
    if keep.any():
        _check_extent(predicted, truth.path, meta["crs"], shapely.total_bounds(shapes[keep]))
    if meta["crs"]:
        to = make_transformer(meta["crs"], predicted.crs, f"truth {truth.path}")
        shapes = np.asarray(shapely.transform(shapes, lambda points: np.column_stack(to.transform(*points.T))))
    values = np.asarray(columns[0] if truth.attribute else np.ones(len(shapes), int))
    labels = np.full(len(shapes), NODATA, np.uint8)
    labels[keep] = _map_values(values[keep], truth.values if truth.attribute else {}, f"truth {truth.path}")
    return shapes[keep], labels[keep]


def _parse_geometries(geometry: NDArray[Any], path: Path) -> NDArray[Any]:
    shapes = np.asarray(shapely.from_wkb(geometry, on_invalid="ignore"))
    broken = np.flatnonzero(shapely.is_missing(shapes) & np.array([binary is not None for binary in geometry], bool))
    if broken.size:
        raise InputError(
            f"truth {path}", got=f"{broken.size} geometries that are none, the first of feature {broken[0] + 1}",
            expected="closed rings of at least 4 points", fix="repair them, or take them away",
        )  # fmt: skip
    return shapes


def _read_labels(
    dataset: Any, window: Window, values: Mapping[str, int], name: str, pixels: PixelReader = identity_transform
) -> NDArray[np.uint8]:
    try:
        read, known = pixels(dataset, window)
    except RasterioError as error:
        raise InputError(
            name, got=error.__cause__ or error, expected="pixels that GDAL reads", fix="copy or write the file again"
        ) from error
    labels = np.full(read.shape, NODATA, np.uint8)
    labels[known] = _map_values(read[known], values, name)
    return labels


def _map_values(values: NDArray[Any], labels: Mapping[str, int], name: str) -> NDArray[np.uint8]:
    """Labels of values (n,), ``NODATA`` for those that are none."""
    result = np.full(values.shape, NODATA, np.uint8)
    words = values.dtype.kind in "OUSM"
    if labels:
        texts = np.array([_format_value(value) for value in values], str) if words else None
        for value, label in labels.items():
            result[values == _parse_number(value, name) if texts is None else texts == value] = label
        return result
    if words:
        raise InputError(
            "--attribute", got=f"texts such as {_format_value(values[0])!r}" if values.size else "texts", expected="labels",
            fix="say what they stand for: --values forest=0,water=1",
        )  # fmt: skip
    if values.dtype.kind == "c":
        raise InputError(name, got="complex numbers", expected="labels, 0 to 254", fix="take a raster of labels")
    known = (values >= 0) & (values < NODATA)
    result[known] = values[known].astype(np.uint8)
    cut = known & (result != values)
    if cut.any():
        raise InputError(
            name, got=f"fractions such as {values[cut][0]:.6g}", expected="whole numbers, the labels 0 to 254",
            fix="take labels, not probabilities, and resample them by nearest neighbour, or name the --values",
        )  # fmt: skip
    return result


def _format_value(value: Any) -> str:
    """A value of an attribute as --values names it; dates without the time that none of them has."""
    return str(value).removesuffix("T00:00:00.000") if isinstance(value, np.datetime64) else str(value)


def _parse_number(value: str, name: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise InputError(
            f"--values {value}", got="a name", expected=f"numbers, as stand in {name}", fix="correct --values"
        ) from None


def _check_crs(predicted: Any, path: Path, crs: str | None) -> None:
    if bool(crs) != bool(predicted.crs):
        raise InputError(
            f"truth {path}", got="a CRS for only one of both", expected="the same grid, or a CRS for both",
            fix="add it with `gdal_edit.py -a_srs …`",
        )  # fmt: skip


def _check_extent(predicted: Any, path: Path, crs: str | None, bounds: Any) -> None:
    """Refuse what cannot be laid over the segmentation: ``bounds`` in a CRS beside its grid, or with no CRS to tell."""
    _check_crs(predicted, path, crs)
    if crs:
        bounds = make_transformer(crs, predicted.crs, f"truth {path}").transform_bounds(*bounds)
    if not shapely.intersects(shapely.box(*predicted.bounds), shapely.box(*bounds)):
        raise InputError(
            f"truth {path}",
            got="ground within ({:.6g}, {:.6g}) to ({:.6g}, {:.6g})".format(*bounds),
            expected="an overlap with the segmentation, ({:.6g}, {:.6g}) to ({:.6g}, {:.6g})".format(*predicted.bounds),
            fix="take the truth of the same scene",
        )


@contextmanager
def _open_file(path: Path, what: str) -> Iterator[Any]:
    with gdal_environment(str(path)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)  # pictures can be compared, too
                file = rasterio.open(path)
        except RasterioError as error:
            raise _unreadable_error(f"{what} {path}", error) from error
        with file:
            yield file


def _unreadable_error(name: str, error: Exception) -> InputError:
    return InputError(name, got=error, expected="a file that GDAL reads", fix="check the path")
