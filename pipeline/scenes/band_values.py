"""The meaning of the numbers in the chosen bands: nodata values, scales and offsets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import isfinite

import numpy as np

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.raster_io.content import sample_pixels
from seamline.pipeline.scenes.band_files import BandFile

_BRIGHT_NUMBER = 20000
"""A number above this would be a reflectance above 2 if the scale were 1/10000."""
_PRODUCT_SCALES = [
    (re.compile(r"L[COTE]0[4-9]_L2S[PR]_.*_02_(T1|T2|RT)_SR_B\d"), 2.75e-5, -0.2),
    (re.compile(r"S2[A-D]_MSIL(1C|2A)_.*_N(0[4-9]|[1-8]\d)\d\d_"), 1e-4, -0.1),
]
"""File name, scale and offset of products whose files declare no scale.

These are Landsat Collection 2 level 2, and Sentinel-2 since processing baseline 04.00.
"""


def choose_nodata(
    files: Sequence[BandFile], given: float | str | None, assumed: float | None
) -> tuple[list[float | None], list[str]]:
    """Return the value that marks a missing pixel in each band.

    The user's value takes precedence over that of the catalogue, which takes precedence over the file. In a file, a
    mask takes precedence over a nodata value.

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
    undeclared = 0
    for file in files:
        if given is not None:
            value = None if given == "none" else float(given)
        elif file.band.nodata is not None:
            value = file.band.nodata
        elif file.masked or file.nodata is not None:
            value = None if file.masked else file.nodata
        else:
            value = assumed
            undeclared += 1
        result.append(None if value is None else _round_to_dtype(value, file))
    if not undeclared or assumed is None:
        return result, []
    return result, [
        f"{undeclared} of {len(files)} bands declare no nodata: pixels that are {assumed:g} in all of them are"
        " taken as missing; --nodata says otherwise"
    ]


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


def choose_scales(
    files: Sequence[BandFile],
    nodata: Sequence[float | None],
    scale: float | None,
    offset: float | None,
    *,
    reflectance: bool,
) -> tuple[list[tuple[float, float]], list[str]]:
    """Return the scale and offset by which the numbers of each band become values.

    The user's scale and offset take precedence over those of the catalogue, which take precedence over the file. A
    scale given without an offset means offset 0.

    Args:
        files: The chosen bands.
        nodata: Value that marks a missing pixel in each band.
        scale: Scale given by the user, or None.
        offset: Offset given by the user, or None.
        reflectance: Whether integers without any declared scale stand for reflectances.

    Returns:
        (scale, offset) of each band, and warnings about what was assumed.

    Raises:
        InputError: A scale or offset is not finite, or a scale is 0.
    """
    warnings: list[str] = []
    declared = [_read_declared_scale(file) for file in files]
    if scale is None and reflectance and None in declared:
        assumed, warning = _assume_scale(files, nodata)
        warnings.append(warning)
    else:
        assumed = 1.0, 0.0
    chosen = [pair or assumed for pair in declared]
    if scale is not None:
        chosen = [(scale, 0.0) for _ in files]
    if offset is not None:
        chosen = [(own_scale, offset) for own_scale, _ in chosen]
    for file, (factor, shift) in zip(files, chosen, strict=True):
        if factor == 0 or not isfinite(factor) or not isfinite(shift):
            raise InputError(
                f"{file.band.path}, band {file.band.labels[0] if file.band.labels else file.band.index}",
                got=f"offset {shift:g}" if factor and isfinite(factor) else f"scale {factor:g}",
                expected="a number, and a scale other than 0",
                fix="correct the file or its catalogue, or give --scale and --offset",
            )
    return chosen, warnings


def _read_declared_scale(file: BandFile) -> tuple[float, float] | None:
    """Return (scale, offset) that the catalogue or the file declares; None if integers have none."""
    if file.band.scale is not None or file.band.offset:
        return 1.0 if file.band.scale is None else file.band.scale, file.band.offset or 0.0
    if (file.scale, file.offset) != (1.0, 0.0) or np.issubdtype(file.dtype, np.floating):
        return file.scale, file.offset
    return None


def _assume_scale(files: Sequence[BandFile], nodata: Sequence[float | None]) -> tuple[tuple[float, float], str]:
    """Return the most likely (scale, offset) of integers that stand for reflectances, and a warning.

    All bands get the same scale and offset.
    """
    for product, scale, offset in _PRODUCT_SCALES:
        if all(product.search(file.band.path) for file in files):
            return (scale, offset), (
                f"the files state no scale: that of the product, number × {scale:g} {offset:+g}, is assumed;"
                " --scale and --offset say otherwise"
            )
    if max(file.dtype.itemsize for file in files) == 1:
        divisor = 255
    else:
        # Clouds and glint may exceed a reflectance of 2 in a few pixels, hence not every bright pixel counts.
        divisor = 65535 if max(map(_bright_share, files, nodata)) > 1e-3 else 10000
    return (1 / divisor, 0.0), (
        f"the files state no scale: reflectance = number / {divisor} is assumed; --scale says otherwise"
    )


def _bright_share(file: BandFile, nodata: float | None) -> float:
    """Return the share of a band's pixels that are too bright for a scale of 1/10000."""
    numbers = sample_pixels(file.band.path, file.band.index)
    if nodata is not None:
        numbers = numbers[numbers != nodata]
    return float((numbers > _BRIGHT_NUMBER).mean()) if numbers.size else 0.0
