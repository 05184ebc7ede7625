"""Two sets of labels, block by block on one grid: a segmentation and the truth.

The grid is the truth's, onto which the segmentation is warped by nearest neighbour; where the truth is vectors, they
are burnt into the segmentation's grid. Memory does not grow with the rasters.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyogrio
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.features import rasterize
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterioWindow

from pipeline.classes import NODATA
from pipeline.errors import InputError
from pipeline.grid import GeoBox, Window
from pipeline.publish import COG
from pipeline.rasters import environment

VECTORS = {".geojson", ".json", ".gpkg", ".fgb", ".shp", ".gml", ".kml"}


@dataclass(frozen=True)
class Truth:
    """Labels that are true: a raster, or polygons.

    ``values`` maps what stands in the raster, or in the ``attribute`` of the polygons, to labels; what it does not name
    is unknown. Empty: the values are the labels. Without an ``attribute`` polygons have the label 1, the rest 0.
    """

    path: Path
    attribute: str = ""
    values: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_vector(self) -> bool:
        """Whether it is polygons, by the file's name."""
        return self.path.suffix.lower() in VECTORS


@dataclass(frozen=True)
class Pair:
    """Labels (height, width) of both on the same pixels, ``NODATA`` where either says nothing.

    Both have a margin of pixels that belong to other pairs; ``inner`` is what this pair alone has.
    """

    predicted: NDArray[np.uint8]
    true: NDArray[np.uint8]
    inner: tuple[slice, slice]


def raster_of(prediction: Path) -> Path:
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


def class_names(prediction: Path) -> dict[int, str]:
    """Names of the labels, as the tags of a segmentation's COG have them; empty for other rasters."""
    with _opened(raster_of(prediction), "segmentation") as file:
        tags = file.tags()
    names = {name.removeprefix("CLASS_"): text for name, text in tags.items() if name.startswith("CLASS_")}
    return {int(label): text for label, text in names.items() if label.isdigit()}


def pairs(prediction: Path, truth: Truth, margin: int, edge: int = 2048) -> Iterator[Pair]:
    """Blocks of at most ``edge``² pixels that together cover the grid, each with ``margin`` pixels around it.

    Raises:
        InputError: a file cannot be read, has no known CRS while the other has one, or they have no ground in common.
    """
    with _opened(raster_of(prediction), "segmentation") as predicted:
        reading = _burnt(truth, predicted) if truth.is_vector else _read_beside(truth, predicted)
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
                    yield Pair(ours, theirs, inner.relative_to(outer).slices())


@contextmanager
def _read_beside(truth: Truth, predicted: Any) -> Iterator[Any]:
    """(size, reader of both labels of a window) on the grid of a raster of truth."""
    with _opened(truth.path, "truth") as true:
        place = {"crs": true.crs, "transform": true.transform, "width": true.width, "height": true.height}
        same = (predicted.crs, predicted.transform, predicted.shape) == (true.crs, true.transform, true.shape)
        if not same:
            _check_ground(predicted, truth.path, true.crs and true.crs.to_wkt(), true.bounds)
        with WarpedVRT(predicted, resampling=Resampling.nearest, nodata=NODATA, **place) as warped:
            source = predicted if same else warped

            def both(window: Window) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
                return _labels(source, window, {}), _labels(true, window, truth.values)

            yield true.shape, both


@contextmanager
def _burnt(truth: Truth, predicted: Any) -> Iterator[Any]:
    """(size, reader of both labels of a window) on the grid of the segmentation, for polygons."""
    true = _burner(truth, predicted)
    yield predicted.shape, lambda window: (_labels(predicted, window, {}), true(window))


def labeller(grid: GeoBox, truth: Truth) -> Callable[[Window], NDArray[np.uint8]]:
    """A reader of the labels (height, width) of windows of ``grid``; a raster is warped to it by nearest neighbour.

    Safe to call from several threads, one at a time.

    Raises:
        InputError: the truth cannot be read, or lies elsewhere.
    """
    place = _Place(
        None if grid.crs is None else rasterio.CRS.from_wkt(grid.crs.to_wkt()),
        grid.transform, tuple(grid.shape), tuple(grid.extent.boundingbox.bbox),
    )  # fmt: skip
    if truth.is_vector:
        return _burner(truth, place)
    with _opened(truth.path, "truth") as true:
        same = (place.crs, place.transform, place.shape) == (true.crs, true.transform, true.shape)
        if not same:
            _check_ground(place, truth.path, true.crs and true.crs.to_wkt(), true.bounds)
            if place.crs is None:
                raise InputError(
                    f"truth {truth.path}", got=f"{true.shape} pixels", expected=f"{place.shape}, as its image has",
                    fix="take the labels of this image, or georeference both",
                )  # fmt: skip
        outside = true.nodata if true.nodata is not None else NODATA
    onto = {"crs": place.crs, "transform": place.transform, "width": place.shape[1], "height": place.shape[0]}

    def read(window: Window) -> NDArray[np.uint8]:
        with _opened(truth.path, "truth") as true:  # GDAL's handles belong to one thread
            if same:
                return _labels(true, window, truth.values)
            with WarpedVRT(true, resampling=Resampling.nearest, nodata=outside, **onto) as warped:
                return _labels(warped, window, truth.values)

    return read


class _Place(NamedTuple):
    """What of a raster says where it lies; the names are rasterio's."""

    crs: Any
    transform: Affine
    shape: tuple[int, ...]
    bounds: tuple[float, ...]


def _burner(truth: Truth, place: Any) -> Callable[[Window], NDArray[np.uint8]]:
    """A reader of the labels of a window, for polygons."""
    shapes, labels = _polygons(truth, place)
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


def _polygons(truth: Truth, predicted: Any) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Geometries in the CRS of the segmentation, and their labels."""
    try:
        meta, _, geometry, columns = pyogrio.raw.read(truth.path, columns=[truth.attribute] if truth.attribute else [])
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, ValueError) as error:
        raise _unreadable("truth", truth.path, error) from error
    if truth.attribute and truth.attribute not in meta["fields"]:
        known = pyogrio.read_info(truth.path)["fields"].tolist()
        raise InputError(
            f"truth {truth.path}", got=f"no attribute {truth.attribute}", expected="one of " + ", ".join(known),
            fix="correct --attribute",
        )  # fmt: skip
    shapes = np.asarray(shapely.from_wkb(geometry))
    keep = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
    if keep.any():
        _check_ground(predicted, truth.path, meta["crs"], shapely.total_bounds(shapes[keep]))
    if meta["crs"]:
        to = Transformer.from_crs(meta["crs"], predicted.crs.to_wkt(), always_xy=True)
        shapes = np.asarray(shapely.transform(shapes, lambda points: np.column_stack(to.transform(*points.T))))
    values = columns[0] if truth.attribute else np.ones(len(shapes), int)
    labels = _mapped(np.asarray(values), truth.values)
    return shapes[keep], labels[keep]


def _labels(dataset: Any, window: Window, values: Mapping[str, int]) -> NDArray[np.uint8]:
    place = RasterioWindow(window.col, window.row, window.width, window.height)
    labels = _mapped(dataset.read(1, window=place), values)
    labels[dataset.read_masks(1, window=place) == 0] = NODATA
    return labels


def _mapped(values: NDArray[Any], labels: Mapping[str, int]) -> NDArray[np.uint8]:
    """Labels of values, ``NODATA`` for those that are none."""
    result = np.full(values.shape, NODATA, np.uint8)
    if labels:
        for value, label in labels.items():
            same = values.astype(str) == value if values.dtype.kind in "OUS" else values == float(value)
            result[same] = label
        return result
    if values.dtype.kind in "OUS":
        raise InputError(
            "--attribute", got=f"texts such as {values[0]!r}" if values.size else "texts", expected="labels",
            fix="say what they stand for: --values forest=0,water=1",
        )  # fmt: skip
    known = (values >= 0) & (values < NODATA)
    result[known] = values[known].astype(np.uint8)
    return result


def _check_ground(predicted: Any, path: Path, crs: str | None, bounds: Any) -> None:
    """Refuse what cannot be laid over the segmentation: ``bounds`` in a CRS beside its grid, or with no CRS to tell."""
    if (crs is None) != (predicted.crs is None):
        raise InputError(
            f"truth {path}", got="a CRS for only one of both", expected="the same grid, or a CRS for both",
            fix="add it with `gdal_edit.py -a_srs …`",
        )  # fmt: skip
    if crs is not None:
        bounds = Transformer.from_crs(crs, predicted.crs.to_wkt(), always_xy=True).transform_bounds(*bounds)
    if not shapely.intersects(shapely.box(*predicted.bounds), shapely.box(*bounds)):
        raise InputError(
            f"truth {path}",
            got="ground within ({:.6g}, {:.6g}) to ({:.6g}, {:.6g})".format(*bounds),
            expected="an overlap with the segmentation, ({:.6g}, {:.6g}) to ({:.6g}, {:.6g})".format(*predicted.bounds),
            fix="take the truth of the same scene",
        )


@contextmanager
def _opened(path: Path, what: str) -> Iterator[Any]:
    with environment(str(path)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)  # pictures can be compared, too
                file = rasterio.open(path)
        except RasterioError as error:
            raise _unreadable(what, path, error) from error
        with file:
            yield file


def _unreadable(what: str, path: Path, error: Exception) -> InputError:
    return InputError(f"{what} {path}", got=error, expected="a file that GDAL reads", fix="check the path")
