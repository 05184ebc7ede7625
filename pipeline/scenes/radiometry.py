"""What the numbers of a scene mean: one place decides scale and offset from all evidence, or refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from math import isclose, isfinite
from typing import Any

import numpy as np

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.sampling import NumberCounts
from seamline.pipeline.scenes.band_files import BandFile
from seamline.pipeline.scenes.products import (
    Calibration,
    ProductCalibration,
    ProductEvidence,
    calibrate_by_product,
    find_product_by_scale,
)

_BRIGHT_NUMBER = 20000
"""A number above this would be a reflectance above 2 if the scale were 1/10000."""
_BRIGHT_SHARE = 1e-3
"""Clouds and glint may exceed a reflectance of 2 in a few pixels, hence not every bright pixel counts."""
_DARKEST = -0.05
"""Reflectance. Corrections for the atmosphere overshoot to about −0.02 over water; much less is a wrong offset."""
_DARK_SHARE = 0.1
"""Share of a band's pixels below ``_DARKEST`` that no scene has."""
_TELLING_SHARE = 0.05
"""Share of a band's pixels below ``_DARKEST`` from which on another offset is more likely."""
_BRIGHTEST_MEDIAN = 1.5
"""Median reflectance of a band that no scene has; clouds and snow reach 1.2."""
_OFFSET_NUMBER = 1000
"""What Sentinel-2 adds to its numbers since processing baseline 04.00."""
_NO_FLOOR = 5000
"""Nearly all numbers of Landsat are larger, and of other integers at least a few are smaller, unless all is snow."""
_DARKEST_SHARE = 0.05
"""Share of the darkest pixels of a band, which may be noise or edges."""
_NOTHING = 1e-3
"""Reflectance that water in the short-wave infrared may have, but not a whole scene in every band."""
_NOTHING_SHARE = 0.99
_FIX = "say what holds with --scale and --offset"
_OPTIONS = "--scale and --offset say"


@dataclass(frozen=True)
class BandNumbers:
    """A band, and the numbers of its pixels in a sample.

    Attributes:
        file: The band and what its file declares.
        sample: Numbers of valid pixels from all over the band; there may be none.
        dark_shares: Shares of pixels below ``_DARKEST`` by the scales and offsets that were asked for.
    """

    file: BandFile
    sample: NumberCounts
    dark_shares: dict[tuple[float, float], float] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def floor(self) -> float:
        """The number that nearly all pixels exceed; infinity if there are none."""
        return self.sample.compute_quantile(_DARKEST_SHARE)

    def measure_median(self, calibration: Calibration) -> float:
        """Return the median of the values; NaN if there are none."""
        return float(np.median(calibration.apply(self.sample.middle))) if self.sample.size else np.nan

    def measure_dark_share(self, calibration: Calibration) -> float:
        """Return the share of pixels that would be darker than any surface; 0 if there are none."""
        key = calibration.scale, calibration.offset
        if key not in self.dark_shares:
            is_dark = calibration.apply(self.sample.numbers) < _DARKEST
            self.dark_shares[key] = self.sample.measure_share(is_dark)
        return self.dark_shares[key]


def choose_calibrations(
    bands: Sequence[BandNumbers],
    evidence: ProductEvidence,
    scale: float | None,
    offset: float | None,
    *,
    reflectance: bool,
) -> tuple[list[Calibration], list[str]]:
    """Return what the numbers of each band mean.

    The user's scale and offset settle themselves. Otherwise the catalogue, the tags of the file and what is known of
    the product have to agree. A scale that is stated without an offset, be it by the user, leaves the offset of a
    product open that has one; values that no surface has show which offset is wrong. Integers of which nothing says
    anything are taken as reflectance × 10000, × 65535 or × 255 with a warning. What is stated of some bands has to hold
    for all that are like them.

    Args:
        bands: The chosen bands.
        evidence: What names and the catalogue tell of the product.
        scale: Scale given by the user, or None.
        offset: Offset given by the user, or None.
        reflectance: Whether the model takes reflectances, whose values are checked. Other models take numbers as they
            are where neither the catalogue nor the file says otherwise.

    Returns:
        A calibration for each band, and warnings about what was assumed.

    Raises:
        InputError: The evidence contradicts itself or gives no values, or they are none that reflectances have.
    """
    chosen, warnings = _Evidence(bands, evidence, reflectance, scale, offset).weigh()
    for band, calibration in zip(bands, chosen, strict=True):
        _check_calibration(band.file, calibration)
    _check_common_meaning(bands, chosen)
    if reflectance and (error := _find_impossible_values(bands, chosen)):
        if scale is None:
            raise error
        warnings.append(f"{error.what}: {error.got}")  # the user has said what holds
    return chosen, list(dict.fromkeys(warnings))


def describe_calibrations(calibrations: Sequence[Calibration]) -> str:
    """Return in a line what the numbers of a scene mean and what says so."""
    return "; ".join(dict.fromkeys(f"{calibration} by {calibration.origin}" for calibration in calibrations))


@dataclass(frozen=True)
class _Evidence:
    """All that tells what the numbers of some bands mean.

    Attributes:
        bands: The bands.
        product: What names and the catalogue tell of the product.
        reflectance: Whether the values have to be reflectances.
        scale: Scale given by the user, which makes other scales meaningless; None if there is none.
        offset: Offset given by the user, which makes other offsets meaningless; None if there is none.
    """

    bands: Sequence[BandNumbers]
    product: ProductEvidence
    reflectance: bool
    scale: float | None
    offset: float | None

    def weigh(self) -> tuple[list[Calibration], list[str]]:
        """Return the calibration of each band that the evidence agrees on, and warnings."""
        warnings: list[str] = []
        if self.offset is None and self.product.is_offset_applied:
            if self.reflectance:
                self._check_applied_offset()
            if self.scale is None and any(band.file.band.offset or band.file.offset for band in self.bands):
                warnings.append(
                    "the item says that its offset is already applied to the pixels: the offset is taken as 0"
                )
        chosen: list[Calibration | None] = []
        for band in self.bands:
            agreed: Calibration | None = None
            for alternatives in self._list_statements(band.file):
                agreed = self._reconcile(band.file, agreed, alternatives, warnings)
            chosen.append(agreed)
        open_bands = [band for band, one in zip(self.bands, chosen, strict=True) if one is None]
        settled = [
            one or self._assume(band, open_bands, warnings) for band, one in zip(self.bands, chosen, strict=True)
        ]
        if self.offset is not None:
            settled = [replace(one, origin=f"{one.origin} and --offset") for one in settled]
        return settled, warnings

    def _list_statements(self, file: BandFile) -> list[tuple[Calibration, ...]]:
        """Return what user, catalogue, file and product say; alternatives where one leaves the offset open."""
        stated = self._list_stated(file)
        statements: list[tuple[Calibration, ...]] = [(one,) for one in stated]
        if self.reflectance and (self.scale is None or self.offset is None):
            known = self._ask_product(file, max(stated, key=lambda one: one.offset != 0, default=None))
            statements += [known] if known else []
        return statements

    def _list_stated(self, file: BandFile) -> list[Calibration]:
        """Return what is said of the numbers of a file, and not of its product."""
        if self.scale is not None:
            return [self._make(self.scale, 0.0, "--scale")]
        scale, offset = file.band.scale, file.band.offset
        stated: list[Calibration] = []
        # Catalogues write a scale of 1 for integers of which they know nothing.
        if offset or not (scale is None or (scale == 1 and file.is_integer and self.reflectance)):
            stated.append(self._make(1.0 if scale is None else scale, self._drop_applied(offset), "the catalogue"))
        if (file.scale, file.offset) != (1.0, 0.0):
            stated.append(self._make(file.scale, self._drop_applied(file.offset), "the tags of the file"))
        if not stated and not file.is_integer:
            stated.append(self._make(1.0, 0.0, "the type of the file"))
        return stated

    def _make(self, scale: float, offset: float, origin: str, *, is_stated: bool = True) -> Calibration:
        """Return a calibration in which the user's offset takes the place of others."""
        return Calibration(scale, offset if self.offset is None else self.offset, origin, is_stated)

    def _drop_applied(self, offset: float | None) -> float:
        # Earth Search states the offset −0.1 even where it has already applied it (Element84/earth-search#9).
        return 0.0 if offset is None or self.product.is_offset_applied else offset

    def _check_applied_offset(self) -> None:
        """Check that a catalogue is right that the offset is in the values: some of them are dark then.

        Raises:
            InputError: None is darker than 0.1, as in values without the offset.
        """
        limits = [_OFFSET_NUMBER * (1 if band.file.is_integer else 1e-4) for band in self.bands]
        pairs = zip(self.bands, limits, strict=True)
        dark = [band.sample.measure_share(band.sample.numbers < limit) for band, limit in pairs if band.sample.size]
        if dark and max(dark) < _BRIGHT_SHARE:
            raise InputError(
                "the catalogue says that the offset of Sentinel-2 is applied",
                got=f"no pixel below {max(limits):g} in a sample of any band",
                expected="dark pixels in some band",
                fix="give --offset 0 if it is applied, --offset -0.1 if not",
            )

    def _ask_product(self, file: BandFile, stated: Calibration | None) -> tuple[Calibration, ...]:
        """Return what is known of the product, alternatives where it leaves the offset open; nothing if it is unknown.

        Args:
            file: The band.
            stated: What is said of its numbers; None if nothing is.
        """
        known = self._find_product(file, stated)
        is_open = known is not None and (len(known.offsets) > 1 or known.least_number is not None)
        if known is None or (is_open and self._contradicts(known)):
            return ()
        if stated is None or (file.is_integer and not is_open and self.scale is None):
            return tuple(self._make(known.scale, one, known.product, is_stated=False) for one in known.offsets)
        # The values were changed by somebody, who may have taken the offset into account.
        if stated.offset or self.offset is not None or not known.is_offset_constant:
            return ()
        if self._is_too_bright(stated, file.dtype):
            return ()  # the scale is wrong, too
        offsets = dict.fromkeys((0.0, *known.offsets))
        return tuple(self._make(stated.scale, one, known.product, is_stated=False) for one in offsets)

    def _find_product(self, file: BandFile, stated: Calibration | None) -> ProductCalibration | None:
        """Return what is known of the product, or of products with a scale that is stated; None if it is nothing.

        Raises:
            InputError: Nothing else is known of the numbers, and the product lacks its metadata or has no reflectances.
        """
        try:
            known = calibrate_by_product(file, self.product, is_stated=stated is not None)
        except InputError:
            if stated is None and self.offset is None:
                raise
            return None
        if stated is not None and (known is None or known.least_number is not None):
            return find_product_by_scale(stated.scale)
        return known

    def _contradicts(self, known: ProductCalibration) -> bool:
        """Return whether the numbers show that they do not come from a product, which is likely and not certain."""
        if known.least_number is not None:
            return _find_floor(self.bands) < known.least_number
        return _are_bright(self.bands) or _find_floor(self.bands) >= _NO_FLOOR

    def _is_too_bright(self, calibration: Calibration, dtype: np.dtype[Any]) -> bool:
        """Return whether the values are brighter than any scene in one of the bands of a type."""
        alike = [band for band in self.bands if band.file.dtype == dtype]
        return any(band.measure_median(calibration) > _BRIGHTEST_MEDIAN for band in alike)

    def _reconcile(
        self, file: BandFile, agreed: Calibration | None, alternatives: tuple[Calibration, ...], warnings: list[str]
    ) -> Calibration:
        """Return the one calibration that a statement and those before it leave.

        Raises:
            InputError: They contradict each other, and the values do not show which one is wrong.
        """
        offered: list[Calibration] = []
        for one in (*([agreed] if agreed else []), *alternatives):
            if not any(one.means_the_same(other) for other in offered):
                offered.append(one)
        first = offered[0]
        if len(offered) == 1:
            if not first.is_stated and agreed is None:
                assumed = first if self.offset is None else replace(first, offset=0.0)
                what = f"that of {assumed.origin}, {assumed},"
                warnings.append(f"the files state no scale: {what} is assumed; {_OPTIONS} otherwise")
            return first
        possible = [one for one in offered if not self._is_too_dark(one, file.dtype)]
        is_offset_open = all(isclose(one.scale, first.scale, rel_tol=1e-4) for one in offered)
        if len(possible) == 1 and is_offset_open:
            if agreed is None or not any(possible[0].means_the_same(one) for one in alternatives):
                warnings.append(
                    f"reflectance = {possible[0]} is taken, since another offset would give values that no surface has;"
                    f" {_OPTIONS} otherwise"
                )
            return possible[0]
        raise InputError(
            f"what the numbers of {_name(file)} mean",
            got=" and ".join(f"{one} by {one.origin}" for one in offered),
            expected="one meaning",
            fix="give " + " or ".join(f"--offset {one.offset:g}" for one in offered) if is_offset_open else _FIX,
        )

    def _is_too_dark(self, calibration: Calibration, dtype: np.dtype[Any]) -> bool:
        """Return whether the values are darker than any surface in one of the bands of a type."""
        alike = [band for band in self.bands if band.file.dtype == dtype]
        return any(band.measure_dark_share(calibration) > _TELLING_SHARE for band in alike)

    def _assume(self, band: BandNumbers, open_bands: Sequence[BandNumbers], warnings: list[str]) -> Calibration:
        """Return the usual calibration of integers of this size that stand for reflectances.

        Raises:
            InputError: The numbers begin where those of Landsat do, which stand for something else.
        """
        if not self.reflectance:
            return self._make(1.0, 0.0, "the numbers themselves")
        alike = [other for other in open_bands if other.file.dtype.itemsize == band.file.dtype.itemsize]
        if band.file.dtype.itemsize == 1:
            divisor = 255
        elif _find_floor(alike) >= _NO_FLOOR:
            raise InputError(
                f"what the numbers of {_name(band.file)} mean",
                got=f"hardly a number below {_NO_FLOOR} in a sample of any band, and no scale",
                expected="dark pixels in some band, as where reflectance is number / 10000",
                fix="give --scale 2.75e-5 --offset -0.2 for Landsat Collection 2 level 2, --scale 0.0001 for snow",
            )
        else:
            divisor = 65535 if _are_bright(alike) else 10000
        usual = self._make(1 / divisor, 0.0, "assumption", is_stated=False)
        what = f"{'reflectance = ' if self.offset is None else ''}number / {divisor}"
        warnings.append(f"the files state no scale: {what} is assumed; --scale says otherwise")
        return usual


def _check_calibration(file: BandFile, calibration: Calibration) -> None:
    scale, offset = calibration.scale, calibration.offset
    if scale == 0 or not isfinite(scale) or not isfinite(offset):
        raise InputError(
            _name(file),
            got=f"offset {offset:g}" if scale and isfinite(scale) else f"scale {scale:g}",
            expected="a number, and a scale other than 0",
            fix="correct the file or its catalogue, or give --scale and --offset",
        )


def _check_common_meaning(bands: Sequence[BandNumbers], calibrations: Sequence[Calibration]) -> None:
    """Check that what is stated of some bands holds for bands of the same type of which nothing is stated.

    Raises:
        InputError: It does not.
    """
    pairs = [(band.file, calibration) for band, calibration in zip(bands, calibrations, strict=True)]
    for (file, stated), (other, derived) in product(pairs, pairs):
        is_comparable = file.dtype == other.dtype and stated.is_stated and not derived.is_stated
        if is_comparable and not stated.means_the_same(derived):
            raise InputError(
                "the bands of the scene have different meanings",
                got=f"{stated} by {stated.origin} for {_name(file)}, {derived} by {derived.origin} for {_name(other)}",
                expected="one meaning, or one that is stated for each band",
                fix=_FIX,
            )


def _find_impossible_values(bands: Sequence[BandNumbers], calibrations: Sequence[Calibration]) -> InputError | None:
    """Return what is wrong with values that no scene has by their samples; None if nothing is."""
    if not all(band.sample.size for band in bands):
        return None
    is_dim = True
    for band, calibration in zip(bands, calibrations, strict=True):
        values = calibration.apply(band.sample.numbers)
        median, dark = band.measure_median(calibration), band.measure_dark_share(calibration)
        if median > _BRIGHTEST_MEDIAN or dark > _DARK_SHARE:
            return _not_reflectance_error(
                band.file, calibration, f"a median of {median:.4g}, {dark:.0%} below {_DARKEST}"
            )
        is_dim = is_dim and band.sample.measure_share(np.abs(values) <= _NOTHING) > _NOTHING_SHARE
    got = f"next to nothing above {_NOTHING} in any band"
    return _not_reflectance_error(bands[0].file, calibrations[0], got) if is_dim else None


def _are_bright(bands: Sequence[BandNumbers]) -> bool:
    """Return whether a scale of 1/10000 would give reflectances above 2 in more than a few pixels."""
    return any(band.sample.measure_share(band.sample.numbers > _BRIGHT_NUMBER) > _BRIGHT_SHARE for band in bands)


def _find_floor(bands: Sequence[BandNumbers]) -> float:
    """Return the number that nearly all pixels of all bands exceed; minus infinity if there are none."""
    return min((band.floor for band in bands if band.sample.size), default=-np.inf)


def _not_reflectance_error(file: BandFile, calibration: Calibration, got: str) -> InputError:
    return InputError(
        f"the values of {_name(file)} cannot be reflectances",
        got=f"{got}, with {calibration} by {calibration.origin}",
        expected="values from about 0 to 1",
        fix=_FIX,
    )


def _name(file: BandFile) -> str:
    return f"{file.band.path}, band {file.band.labels[0] if file.band.labels else file.band.index}"
