"""The files of the chosen bands: opened, checked, and what they say about their numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from pyproj.exceptions import ProjError
from rasterio.errors import RasterioIOError

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.raster_io.gdal import OpenRaster, describe_error, gdal_environment, is_remote, open_cached_raster
from seamline.pipeline.raster_io.content import get_object_version, sample_pixels
from seamline.pipeline.geometry.grid import measure_corner_offset
from seamline.pipeline.scenes.band_matching import BandCandidate

_BRIGHT_NUMBER = 20000  # a reflectance of 2, were the scale 1/10000
_PRODUCT_SCALES = [
    # Landsat Collection 2 level 2 and Sentinel-2 since processing baseline 04.00, whose files state no scale.
    (re.compile(r"L[COTE]0[4-9]_L2S[PR]_.*_02_(T1|T2|RT)_SR_B\d"), 2.75e-5, -0.2),
    (re.compile(r"S2[A-D]_MSIL(1C|2A)_.*_N(0[4-9]|[1-8]\d)\d\d_"), 1e-4, -0.1),
]


@dataclass(frozen=True)
class BandFile:
    """A chosen band and what its file says: ``nodata``, whether a mask takes its place, scale and offset."""

    band: BandCandidate
    grid: GeoBox
    dtype: np.dtype[Any]
    nodata: float | None
    masked: bool
    scale: float
    offset: float


def open_source_raster(path: str) -> OpenRaster:
    """``open_cached_raster``, raising ``InputError`` for what is no raster."""
    try:
        file = open_cached_raster(path)
    except RasterioIOError as error:
        if not is_remote(path) and not path.startswith("/vsi") and not Path(path).exists():
            what, expected, fix = "no such file", "a raster, a folder or a STAC item", "check the path"
            raise InputError(what, got=path, expected=expected, fix=fix) from error
        get_object_version(path)  # says more plainly what is wrong with an object, if it is that
        raise InputError(
            f"cannot open {path}",
            got=describe_error(error),
            expected="a raster that GDAL reads",
            fix="check the file, or fetch it again",
        ) from error
    if file.dataset.count == 0:
        inner = file.dataset.subdatasets
        raise InputError(
            f"{path} has no bands of its own",
            got=f"{len(inner)} subdatasets",
            expected="a raster",
            fix=f"name a subdataset, such as {inner[0]}" if inner else "check the file",
        )
    return file


def inspect_band(band: BandCandidate) -> BandFile:
    """Open the file of a band and check it.

    Raises ``InputError`` for a file that is unreadable or of a type that no model takes.
    """
    with gdal_environment(band.path):
        file = open_source_raster(band.path)
        dataset = file.dataset
        if band.index > dataset.count:
            raise InputError(
                f"{band.path} has fewer bands than its catalogue says",
                got=dataset.count,
                expected=f"at least {band.index}",
                fix="correct the item, or name the file itself",
            )
        if dataset.transform.is_degenerate:
            raise InputError(
                f"{band.path} has pixels of size zero",
                got=f"the transform {dataset.transform[:6]}",
                expected="one that can be inverted",
                fix="correct it with `gdal_edit.py -a_ullr …`",
            )
        place = band.index - 1
        dtype = dataset.dtypes[place]
        if "complex" in dtype or dtype in {"int64", "uint64"}:
            raise InputError(
                f"{band.path}: no model takes the type of band {band.index}",
                got=dtype,
                expected="integers of up to 32 bits or floats",
                fix="convert it with `gdal_translate -ot Float32`",
            )
        return BandFile(
            band=band,
            grid=file.grid,
            dtype=np.dtype(dtype),
            nodata=dataset.nodatavals[place],
            masked=file.masked,
            scale=dataset.scales[place],
            offset=dataset.offsets[place],
        )


def check_georeference(file: BandFile) -> None:
    """Raises ``InputError`` for a file that has no place on Earth."""
    path = file.band.path
    with gdal_environment(path):
        dataset = open_source_raster(path).dataset
        if dataset.crs is None or dataset.transform.is_identity:
            warp = bool(dataset.gcps[0] or dataset.rpcs)
            raise InputError(
                f"{path} has no georeference",
                got="ground control points" if warp else "no CRS" if dataset.crs is None else "no transform",
                expected="a CRS and an affine transform",
                fix="warp it with `gdalwarp` first" if warp else "add them with `gdal_edit.py -a_srs … -a_ullr …`",
            )
    try:
        Transformer.from_crs(file.grid.crs.proj, "OGC:CRS84")
    except ProjError as error:
        raise InputError(
            f"{path} has a CRS that is nowhere on Earth",
            got=file.grid.crs.proj.name,
            expected="one that PROJ can transform to longitude and latitude",
            fix="correct it with `gdal_edit.py -a_srs …`",
        ) from error


def find_common_grid(files: Sequence[BandFile]) -> GeoBox:
    """The grid of the finest band. Raises ``InputError`` for bands in another CRS or on other ground."""
    finest = min(files, key=lambda file: abs(file.grid.transform.determinant))
    for file in files:
        if file.grid.crs != finest.grid.crs:
            raise InputError(
                f"{file.band.path} and {finest.band.path} differ in CRS",
                got=f"{_crs_name(file.grid)} and {_crs_name(finest.grid)}",
                expected="one CRS",
                fix="warp one with `gdalwarp -t_srs …` first",
            )
        offset = measure_corner_offset(finest.grid, file.grid)
        if not offset <= 0.5:
            raise InputError(
                f"{file.band.path} and {finest.band.path} cover different ground",
                got=f"edges {offset:.3g} pixels apart",
                expected="at most half a pixel of the coarser one",
                fix="cut both to one extent with `gdalwarp -te …` first",
            )
    return finest.grid


def _crs_name(grid: GeoBox) -> str:
    if grid.crs is None:
        return "none"
    return f"EPSG:{grid.crs.epsg}" if grid.crs.epsg else str(grid.crs.proj.name)


def find_common_dtype(files: Sequence[BandFile]) -> str:
    """numpy's name for a type that holds the pixels of all bands."""
    common = np.result_type(*(file.dtype for file in files))
    return "float64" if common == np.int64 else str(common)  # int32 beside uint32: exact in both


def choose_nodata(
    files: Sequence[BandFile], given: float | str | None, assumed: float | None
) -> tuple[list[float | None], list[str]]:
    """What marks a missing pixel in each band, and warnings.

    ``given`` by the user ("none": no value does) goes before the catalogue, that before the file, whose mask
    goes before its value; ``assumed`` is for files that say nothing. Raises ``InputError`` for a value that
    no pixel can have.
    """
    result: list[float | None] = []
    silent = 0
    for file in files:
        if given is not None:
            value = None if given == "none" else float(given)
        elif file.band.nodata is not None:
            value = file.band.nodata
        elif file.masked or file.nodata is not None:
            value = None if file.masked else file.nodata
        else:
            value = assumed
            silent += 1
        result.append(None if value is None else _round_to_dtype(value, file))
    if not silent or assumed is None:
        return result, []
    return result, [
        f"{silent} of {len(files)} bands declare no nodata: pixels that are {assumed:g} in all of them are"
        " taken as missing; --nodata says otherwise"
    ]


def _round_to_dtype(value: float, file: BandFile) -> float:
    """The value as the pixels hold it: 0.1 is another number in float32."""
    if np.issubdtype(file.dtype, np.floating):
        with np.errstate(over="ignore"):
            held = float(file.dtype.type(value))
        possible, expected = np.isinf(held) == np.isinf(value), f"a number within {file.dtype}"
    else:
        held, bounds = value, np.iinfo(file.dtype)
        possible = bounds.min <= value <= bounds.max and value == int(value)
        expected = f"a whole number from {bounds.min} to {bounds.max}"
    if not possible:
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
    """(scale, offset) of each band, and warnings.

    Those given go before the catalogue, that before the file; a scale given without an offset means offset 0.
    ``reflectance``: whether integers that no one gives a scale for stand for reflectances. Raises ``InputError``
    for numbers from which no values follow.
    """
    warnings: list[str] = []
    pairs = [_declared_scale(file) for file in files]
    if scale is None and reflectance and None in pairs:
        assumed, warning = _assume_scale(files, nodata)
        warnings.append(warning)
    else:
        assumed = 1.0, 0.0
    settled = [pair or assumed for pair in pairs]
    if scale is not None:
        settled = [(scale, 0.0) for _ in files]
    if offset is not None:
        settled = [(own, offset) for own, _ in settled]
    for file, (factor, shift) in zip(files, settled, strict=True):
        if factor == 0 or not isfinite(factor) or not isfinite(shift):
            raise InputError(
                f"{file.band.path}, band {file.band.labels[0] if file.band.labels else file.band.index}",
                got=f"offset {shift:g}" if factor and isfinite(factor) else f"scale {factor:g}",
                expected="a number, and a scale other than 0",
                fix="correct the file or its catalogue, or give --scale and --offset",
            )
    return settled, warnings


def _declared_scale(file: BandFile) -> tuple[float, float] | None:
    if file.band.scale is not None or file.band.offset:
        return 1.0 if file.band.scale is None else file.band.scale, file.band.offset or 0.0
    if (file.scale, file.offset) != (1.0, 0.0) or np.issubdtype(file.dtype, np.floating):
        return file.scale, file.offset
    return None


def _assume_scale(files: Sequence[BandFile], nodata: Sequence[float | None]) -> tuple[tuple[float, float], str]:
    """What the integers of reflectances most likely mean, one answer for all bands, and a warning."""
    for product, scale, offset in _PRODUCT_SCALES:
        if all(product.search(file.band.path) for file in files):
            return (scale, offset), (
                f"the files state no scale: that of the product, number × {scale:g} {offset:+g}, is assumed;"
                " --scale and --offset say otherwise"
            )
    if max(file.dtype.itemsize for file in files) == 1:
        one = 255
    else:
        # A few pixels of cloud or glint are brighter than any ground.
        one = 65535 if max(map(_bright_share, files, nodata)) > 1e-3 else 10000
    return (1 / one, 0.0), (
        f"the files state no scale: reflectance = number / {one} is assumed; --scale says otherwise"
    )


def _bright_share(file: BandFile, nodata: float | None) -> float:
    """The share of a band's pixels that are too bright for a scale of 1/10000."""
    numbers = sample_pixels(file.band.path, file.band.index)
    if nodata is not None:
        numbers = numbers[numbers != nodata]
    return float((numbers > _BRIGHT_NUMBER).mean()) if numbers.size else 0.0
