"""The bands of an xarray: which of them a model takes, what their numbers mean, and where they have data."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from seamline.flows.settings.model_folder import Model
from seamline.model.spec.config import Radiometry
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.raster_io.nodata import has_number
from seamline.pipeline.scenes.band_matching import BandCandidate, match_bands

_SPATIAL = (("y", "x"), ("lat", "lon"), ("latitude", "longitude"), ("northing", "easting"))
"""Names of the dimensions of pixels, rows before columns."""
_BAND_DIMENSIONS = ("band", "bands", "channel", "variable", "wavelength")
_NAMES = ("common_name", "eo:common_name", "long_name", "name", "title")
"""Coordinates along the bands, beside that of the dimension itself, that may name them."""
_BRIGHTEST_MEDIAN = 1.5
"""Median reflectance of a band that no part of a scene has; clouds and snow reach 1.2."""
_DARKEST_MEDIAN = -0.05
"""Median reflectance. Corrections for the atmosphere overshoot to about −0.02 over water."""


@dataclass(frozen=True)
class Meaning:
    """What the numbers of a band mean: value = number × ``scale`` + ``offset``.

    Attributes:
        scale: factor from numbers to values, not 0; None if it is not known.
        offset: summand.
        nodata: number of pixels without data; None if there is none.
    """

    scale: float | None = None
    offset: float | None = None
    nodata: float | None = None

    def __post_init__(self) -> None:
        for name, number in (("scale", self.scale), ("offset", self.offset), ("nodata", self.nodata)):
            is_number = number is None or isinstance(number, int | float | np.number)
            if not is_number or (name == "scale" and number == 0) or not (name == "nodata" or np.isfinite(number or 0)):
                raise InputError(
                    name,
                    got=repr(number),
                    expected="one number, the same for all bands" + (", other than 0" if name == "scale" else ""),
                    fix="correct it; scales that differ by band belong into the array",
                )

    @classmethod
    def from_attributes(cls, attributes: Mapping[Hashable, Any]) -> Meaning:
        """Read the attributes of CF and rioxarray."""
        fills = (attributes.get(name) for name in ("_FillValue", "missing_value", "nodata"))
        return cls(
            _to_number(attributes.get("scale_factor")),
            _to_number(attributes.get("add_offset")),
            next((number for fill in fills if (number := _to_number(fill)) is not None), None),
        )

    def override(self, other: Meaning) -> Meaning:
        """Return this meaning with what another one says in its place.

        Raises:
            InputError: the other one has a scale alone, and these numbers have an offset, which may belong to it.
        """
        if other.scale is not None and other.offset is None and self.offset:
            raise InputError(
                "what the numbers of the array mean",
                got=f"scale={other.scale:g} beside the attribute add_offset, {self.offset:g}",
                expected="both",
                fix=f"give offset={self.offset:g} or offset=0, too",
            )
        pairs = zip((other.scale, other.offset, other.nodata), (self.scale, self.offset, self.nodata), strict=True)
        return Meaning(*(own if given is None else given for given, own in pairs))


@dataclass(frozen=True)
class BandMeanings:
    """What the numbers of an array's bands mean. Picklable and small.

    Attributes:
        radiometry: scale, offset and nodata of each band, in the order of the model.
        is_reflectance: whether values have to be those of reflectances.
        is_given: whether the user gave the scale. Values that cannot be reflectances are warned of then, not refused.
    """

    radiometry: Radiometry
    is_reflectance: bool
    is_given: bool

    def find_data(self, pixels: NDArray[Any]) -> NDArray[np.bool_]:
        """Return where any band of pixels (bands, height, width) has data, (height, width)."""
        valid = np.zeros(pixels.shape[1:], bool)
        for band, nodata in zip(pixels, self.radiometry.nodata, strict=True):
            valid |= has_number(band, nodata)
        return valid

    def check_values(self, pixels: NDArray[Any], valid: NDArray[np.bool_]) -> None:
        """Refuse numbers that mean no reflectances, or warn of them.

        Args:
            pixels: (bands, height, width).
            valid: where there is data, (height, width).

        Raises:
            InputError: the median of a band is none that a scene has, and the user gave no scale.
        """
        for position, numbers in enumerate(pixels if self.is_reflectance else ()):
            scale, offset = self.radiometry.scale[position], self.radiometry.offset[position]
            measured = numbers[valid & has_number(numbers, self.radiometry.nodata[position])]
            if not measured.size:
                continue
            median = float(np.median(measured)) * scale + offset
            if not _DARKEST_MEDIAN <= median <= _BRIGHTEST_MEDIAN:
                error = InputError(
                    f"the values of band {position + 1} cannot be reflectances",
                    got=f"a median of {median:.4g}, with number × {scale:g} + {offset:g}",
                    expected="values from about 0 to 1",
                    fix="say what the numbers mean with scale and offset, such as scale=0.0001",
                )
                if not self.is_given:
                    raise error
                warnings.warn(str(error), stacklevel=2)


def stack_bands(
    array: xr.DataArray | xr.Dataset, model: Model, requested: Sequence[str | int], stated: Meaning
) -> tuple[xr.DataArray, BandMeanings]:
    """Find the bands that a model takes in an array.

    Args:
        array: dimensions (…, band, y, x) in any order, or a Dataset with a variable for each band.
        model: the model.
        requested: the array's bands in the order of the model, by name or number; empty: by their names.
        stated: what the user says of the numbers; it overrides the attributes.

    Returns:
        The array, (…, band, y, x) with the bands in the order of the model, and what their numbers mean.

    Raises:
        InputError: there are no dimensions of pixels, bands are missing, or the numbers have no meaning.
    """
    _check_requested(requested)
    labels, meanings = _describe_bands(array)
    stack = array.to_array("band") if isinstance(array, xr.Dataset) else array
    stack = _order_dimensions(stack)
    if stack.dtype.kind not in "biuf":
        raise InputError(
            "the numbers of the array",
            got=f"{stack.dtype}",
            expected="integers or floats",
            fix='convert them: array.astype("float32")',
        )
    candidates = [
        BandCandidate("array", position, names, "array", is_only_band=len(labels) == 1, is_described=bool(names))
        for position, names in enumerate(labels, 1)
    ]
    origin = f"the array {stack.name}" if isinstance(stack.name, str) else "the array"
    chosen, assumed = match_bands(model.band_needs, candidates, _find_positions(stack, requested), origin)
    for text in assumed:
        warnings.warn(text, stacklevel=3)
    positions = [band.index - 1 for band in chosen]
    is_reflectance = model.spec.quantity == "reflectance"
    known = [
        _settle_meaning(meanings[position].override(stated), stack.dtype, is_reflectance) for position in positions
    ]
    assumed_nodata = model.spec.assumed_nodata
    radiometry = Radiometry(
        tuple(one.scale for one in known),
        tuple(one.offset for one in known),
        tuple(assumed_nodata if one.nodata is None else one.nodata for one in known),
    )
    return stack[..., positions, :, :], BandMeanings(radiometry, is_reflectance, stated.scale is not None)


def _check_requested(requested: object) -> None:
    """Refuse what is no list of names or numbers of bands."""
    listed = list(requested) if isinstance(requested, Iterable) and not isinstance(requested, str) else [None]
    if not all(isinstance(band, str | int | np.integer) for band in listed):
        raise InputError(
            "bands",
            got=repr(requested),
            expected="a list of names or numbers",
            fix='give bands=["red", "green", "nir"] or bands=[1, 2, 3]',
        )


def _find_positions(stack: xr.DataArray, requested: Sequence[str | int]) -> list[str]:
    """Return the requested bands as texts, in which numbers are positions from 1 whatever numbers the bands have.

    Raises:
        InputError: the coordinate of the bands has numbers, and one that is requested is not among them.
    """
    texts, dimension = [str(band) for band in requested], stack.dims[-3]
    if dimension not in stack.coords or not np.issubdtype(stack.coords[dimension].dtype, np.integer):
        return texts
    numbers = stack.coords[dimension].values.tolist()
    if unknown := [text for text in texts if text.isdecimal() and int(text) not in numbers]:
        raise InputError(
            f"no band {unknown[0]}",
            got=f"the bands {', '.join(map(str, numbers))} in the array's coordinate {dimension}",
            expected="numbers among these",
            fix="correct bands",
        )
    return [str(numbers.index(int(text)) + 1) if text.isdecimal() else text for text in texts]


@dataclass(frozen=True)
class _SettledMeaning:
    scale: float
    offset: float
    nodata: float | None


def _settle_meaning(meaning: Meaning, dtype: np.dtype[Any], is_reflectance: bool) -> _SettledMeaning:
    """Return a meaning with the default scale of the type of the numbers.

    Raises:
        InputError: integers without a scale for a model that takes reflectances.
    """
    scale = meaning.scale
    if scale is None and is_reflectance and not np.issubdtype(dtype, np.floating):
        raise InputError(
            "the numbers of the array",
            got=f"{dtype} without the attribute scale_factor",
            expected="reflectances, or numbers with a scale",
            fix="give scale and, for Sentinel-2 since 2022, offset: scale=0.0001, offset=-0.1",
        )
    return _SettledMeaning(1.0 if scale is None else scale, meaning.offset or 0.0, meaning.nodata)


def _describe_bands(array: xr.DataArray | xr.Dataset) -> tuple[list[tuple[str, ...]], list[Meaning]]:
    """Return the names of each band, the best one first, and what its attributes say of its numbers."""
    if isinstance(array, xr.Dataset):
        return (
            [(str(name), *_read_texts(variable.attrs.get("long_name"))) for name, variable in array.data_vars.items()],
            [Meaning.from_attributes(variable.attrs) for variable in array.data_vars.values()],
        )
    ordered = _order_dimensions(array)
    dimension, count = ordered.dims[-3], ordered.shape[-3]
    named = [ordered.coords[name] for name in (*_NAMES, dimension) if name in ordered.coords]
    columns = [_read_texts(coordinate.values) for coordinate in named if coordinate.dims == (dimension,)]
    columns.append(_read_texts(array.attrs.get("long_name")))
    columns = [texts for texts in columns if len(texts) == count]
    labels = [tuple(dict.fromkeys(texts[band] for texts in columns if texts[band])) for band in range(count)]
    return labels, [Meaning.from_attributes(array.attrs)] * count


def _order_dimensions(array: xr.DataArray) -> xr.DataArray:
    """Return an array with the dimensions (…, band, y, x); a band without a dimension gets one."""
    rows, cols = next((pair for pair in _SPATIAL if set(pair) <= set(array.dims)), (None, None))
    if rows is None or cols is None:
        raise InputError(
            "the dimensions of the array",
            got=", ".join(map(str, array.dims)),
            expected="y and x, or latitude and longitude",
            fix='rename them: array.rename({"row": "y", "col": "x"})',
        )
    others = [dimension for dimension in array.dims if dimension not in (rows, cols)]
    band = next((name for name in _BAND_DIMENSIONS if name in others), others[-1] if len(others) == 1 else None)
    if band is None:
        array, band = array.expand_dims("band"), "band"
    return array.transpose(..., band, rows, cols)


def _read_texts(values: object) -> list[str]:
    """Return texts; an empty one for what is no text, and none for a single one."""
    if values is None or isinstance(values, str):
        return [values] if values else []
    return [value if isinstance(value, str) else "" for value in np.asarray(values, dtype=object).ravel().tolist()]


def _to_number(value: object) -> float | None:
    try:
        return None if value is None else float(np.asarray(value).item())
    except (TypeError, ValueError):
        return None
