"""Read rasters of labels window by window, and map their values to labels."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.resample import PixelReader, RasterGrid, identity_transform
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.raster_io.content import check_sources
from seamline.pipeline.raster_io.gdal import gdal_environment

_MOST_VALUES = 12
"""Values that a message names."""


def check_label_raster(path: Path, what: str) -> None:
    """Check that a raster can be read before its labels are compared with others.

    Args:
        path: The file.
        what: What the file is, "segmentation" or "truth", for messages.

    Raises:
        InputError: It or a file that it is made of is missing, a pipe, cut off, or no raster.
    """
    try:
        check_sources(str(path))
    except RasterioError as error:
        raise unreadable_error(f"{what} {path}", error) from error


@contextmanager
def open_label_raster(path: Path, what: str) -> Iterator[Any]:
    """Open a raster with rasterio; one without georeference is allowed.

    Args:
        path: The file.
        what: What the file is, "segmentation" or "truth", for messages.

    Yields:
        The open dataset.

    Raises:
        InputError: GDAL cannot open the file.
    """
    with gdal_environment(str(path)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                file = rasterio.open(path)
        except RasterioError as error:
            raise unreadable_error(f"{what} {path}", error) from error
        with file:
            yield file


def read_raster_grid(dataset: Any) -> RasterGrid:
    """Return CRS, transform, shape and bounds of an open raster."""
    return RasterGrid(dataset.crs, dataset.transform, dataset.shape, tuple(dataset.bounds))


def read_labels(
    dataset: Any,
    window: Window,
    values: Mapping[str, int],
    name: str,
    read_pixels: PixelReader = identity_transform,
) -> NDArray[np.uint8]:
    """Read the labels of a window.

    Args:
        dataset: An open raster.
        window: The window, on the grid that ``read_pixels`` reads.
        values: Label of each value of the raster; see ``map_values``.
        name: The raster's name in messages.
        read_pixels: Reads the raster's pixels, on its own grid or resampled to another.

    Returns:
        Labels (height, width), ``NODATA`` where the raster has no data or no label.

    Raises:
        InputError: The pixels cannot be read, or are no labels.
    """
    bands = [color for color in dataset.colorinterp if color != ColorInterp.alpha]
    if not values and len(bands) > 1:
        raise InputError(
            name,
            got=f"{len(bands)} bands, as an image has",
            expected="one band of labels",
            fix="take a raster of labels; if the first band has them: gdal_translate -b 1",
        )
    try:
        pixels, known = read_pixels(dataset, window)
    except RasterioError as error:
        raise InputError(
            name, got=error.__cause__ or error, expected="pixels that GDAL reads", fix="copy or write the file again"
        ) from error
    labels = np.full(pixels.shape, NODATA, np.uint8)
    labels[known] = map_values(pixels[known], values, name)
    return labels


def map_values(values: NDArray[Any], labels: Mapping[str, int], name: str) -> NDArray[np.uint8]:
    """Map values of pixels or of polygons' attributes to labels.

    Args:
        values: Numbers, texts or dates (n,).
        labels: Label of each value, keyed by the value as text; others are unknown. Empty: the values are the labels.
        name: Where the values come from, for messages.

    Returns:
        Labels (n,), ``NODATA`` for values without a label.

    Raises:
        InputError: A key of ``labels`` is no number while the values are numbers, or the values cannot be labels.
    """
    is_text = _is_text(values)
    if not labels:
        return _check_labels(values, is_text, name)
    result = np.full(values.shape, NODATA, np.uint8)
    texts = np.array([_format_value(value) for value in values], str) if is_text else None
    for value, label in labels.items():
        result[values == _parse_number(value, name) if texts is None else texts == value] = label
    return result


def _check_labels(values: NDArray[Any], is_text: bool, name: str) -> NDArray[np.uint8]:
    """Return values that are labels themselves; those below 0 and above 254 are unknown."""
    if is_text:
        raise InputError(
            "--attribute",
            got=f"texts such as {_format_value(values[0])!r}" if values.size else "texts",
            expected="labels",
            fix="say what they stand for: --values forest=0,water=1",
        )
    if values.dtype.kind == "c":
        raise InputError(name, got="complex numbers", expected="labels, 0 to 254", fix="take a raster of labels")
    labels = np.full(values.shape, NODATA, np.uint8)
    known = (values >= 0) & (values < NODATA)
    labels[known] = values[known].astype(np.uint8)
    is_fraction = known & (labels != values)
    if is_fraction.any():
        raise InputError(
            name,
            got=f"fractions such as {values[is_fraction][0]:.6g}",
            expected="whole numbers, the labels 0 to 254",
            fix="take labels, not probabilities, and resample them by nearest neighbour, or name the --values",
        )
    return labels


def format_values(values: Any) -> str:
    """Return the different values of pixels or attributes as text, in ascending order; of many the first."""
    found = np.unique(np.array([_format_value(value) for value in values], str) if _is_text(values) else values)
    first = found[:_MOST_VALUES].tolist()
    texts = ", ".join(value if isinstance(value, str) else f"{value:g}" for value in first) or "none"
    return texts + (f" and {len(found) - _MOST_VALUES} more" if len(found) > _MOST_VALUES else "")


def _is_text(values: Any) -> bool:
    return np.asarray(values).dtype.kind in "OUSM"


def _format_value(value: Any) -> str:
    """Return a value as ``--values`` names it; numpy writes midnight behind a date, which is dropped."""
    return str(value).removesuffix("T00:00:00.000") if isinstance(value, np.datetime64) else str(value)


def _parse_number(value: str, name: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise InputError(
            f"--values {value}", got="a name", expected=f"numbers, as stand in {name}", fix="correct --values"
        ) from None


def unreadable_error(name: str, error: Exception) -> InputError:
    """Return the error for a file that GDAL cannot read."""
    return InputError(name, got=error, expected="a file that GDAL reads", fix="check the path")
