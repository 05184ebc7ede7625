"""Which number marks a missing pixel in each chosen band, and numbers that look like it but are not declared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioIOError

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.raster_io.content import sample_pixels
from seamline.pipeline.raster_io.gdal import describe_error
from seamline.pipeline.raster_io.nodata import is_nodata
from seamline.pipeline.scenes.band_files import BandFile

_FILL_NUMBERS = (-9999.0, -32768.0, 65535.0, -3.4028234663852886e38, 0.0)
"""Numbers that programs write where there is no pixel."""
_SAMPLED_BLOCKS = 5
"""Blocks of a sample: the corners and the middle are among them."""
_SUSPICIOUS_SHARE = 0.005
"""Share of a sample from which on a fill number that is not declared is told."""


def choose_nodata(
    files: Sequence[BandFile], given: float | str | None, assumed: float | None
) -> tuple[list[float | None], list[str]]:
    """Return the value that marks a missing pixel in each band.

    The user's value takes precedence over that of the file, which takes precedence over the catalogue: it was written
    together with the pixels. In a file, a mask takes precedence over a nodata value.

    Args:
        files: The chosen bands.
        given: Value given by the user; "none" if no value means missing; None if nothing was given.
        assumed: Value for files that declare nothing; None if there is no such assumption.

    Returns:
        A value for each band (None: no value means missing), and warnings about what was assumed.

    Raises:
        InputError: No pixel can have the value.
    """
    result: list[float | None] = []
    warnings: list[str] = []
    undeclared = 0
    for file in files:
        if given is not None:
            value = None if given == "none" else float(given)
        elif file.masked or file.nodata is not None:
            value = None if file.masked else file.nodata
            if file.band.nodata is not None and not _is_same(file.band.nodata, value):
                own = "a mask" if file.masked else f"nodata {value:g}"
                warnings.append(
                    f"the catalogue says nodata {file.band.nodata:g} and the file {own}: the file is followed;"
                    " --nodata says otherwise"
                )
        elif file.band.nodata is not None:
            value = file.band.nodata
        else:
            value = assumed
            undeclared += 1
        result.append(None if value is None else _round_to_dtype(value, file))
    if undeclared and assumed is not None:
        warnings.append(
            f"{undeclared} of {len(files)} bands declare no nodata: pixels that are {assumed:g} in all of them are"
            " taken as missing; --nodata says otherwise"
        )
    return result, list(dict.fromkeys(warnings))


def sample_valid_pixels(
    files: Sequence[BandFile], nodata: Sequence[float | None], *, is_settled: bool
) -> tuple[list[NDArray[Any]], list[str]]:
    """Read a sample of the valid pixels of each band, and look for missing pixels that nothing declares.

    Args:
        files: The chosen bands.
        nodata: Value that marks a missing pixel in each band.
        is_settled: Whether the user has said which value it is, so that nothing is told of others.

    Returns:
        Numbers of each band, shape (n,), without those that look like missing pixels; and warnings that tell the
        share of such numbers.
    """
    samples: list[NDArray[Any]] = []
    warnings: list[str] = []
    for file, value in zip(files, nodata, strict=True):
        numbers = _read_sample(file)
        if value is not None:
            numbers = numbers[~is_nodata(numbers, value)]
        samples.append(numbers)
    for number in _FILL_NUMBERS:
        shares = [float(is_nodata(sample, number).mean()) if sample.size else 0.0 for sample in samples]
        if min(shares) >= _SUSPICIOUS_SHARE and not any(file.masked for file in files):
            warnings.append(
                f"about {min(shares):.1%} of the pixels are {number:g} in every band, and nothing says that they are"
                f" missing: they are taken as data; --nodata {number:g} says otherwise"
            )
        if max(shares) < 1:  # otherwise it is all there is, to be judged as data
            samples = [sample[~is_nodata(sample, number)] for sample in samples]
    missing = [float(np.isnan(sample).mean()) if sample.size else 0.0 for sample in samples]
    if max(missing) >= _SUSPICIOUS_SHARE and min(missing) < max(missing) / 2:
        names = ", ".join(str(file.band) for file, share in zip(files, missing, strict=True) if share == max(missing))
        warnings.append(
            f"about {max(missing):.1%} of the pixels of {names} are NaN, but not in every band: a pixel with data in"
            " any band is segmented"
        )
    return [sample[np.isfinite(sample)] for sample in samples], [] if is_settled else warnings


def _read_sample(file: BandFile) -> NDArray[Any]:
    try:
        return sample_pixels(file.band.path, file.band.index, _SAMPLED_BLOCKS)
    except RasterioIOError as error:
        raise InputError(
            f"{file.band.path}: band {file.band.index} cannot be read",
            got=describe_error(error),
            expected="pixels that GDAL reads",
            fix="check the file and those that it refers to",
        ) from error


def _is_same(first: float, second: float | None) -> bool:
    return second is not None and bool(is_nodata(np.array([first]), second)[0])


def _round_to_dtype(value: float, file: BandFile) -> float:
    """Return the value as pixels of the band hold it: 0.1 is another number in float32."""
    if np.issubdtype(file.dtype, np.floating):
        with np.errstate(over="ignore"):
            held = float(file.dtype.type(value))
        is_possible = np.isinf(held) == np.isinf(value)
        expected = f"a number within {file.dtype}"
    else:
        held, bounds = value, np.iinfo(file.dtype)
        is_possible = bounds.min <= value <= bounds.max and value == int(value)
        expected = f"a whole number from {bounds.min} to {bounds.max}"
    if not is_possible:
        raise InputError(
            f"{file.band.path}: no pixel can be the nodata value",
            got=f"{value:g} for {file.dtype}",
            expected=expected,
            fix="give another with --nodata, or say --nodata none",
        )
    return held
