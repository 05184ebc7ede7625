"""The files of the chosen bands: opening and checking them, and the grid and type that they have in common."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from pyproj.exceptions import ProjError
from rasterio.errors import RasterioIOError
from rasterio.io import MemoryFile

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.grid import measure_corner_offset
from seamline.pipeline.geometry.sampling import spread_blocks
from seamline.pipeline.raster_io.content import get_object_version
from seamline.pipeline.raster_io.gdal import (
    OpenRaster,
    describe_error,
    gdal_environment,
    is_remote,
    open_cached_raster,
    read_masks,
    read_tags,
)
from seamline.pipeline.scenes.band_matching import BandCandidate

_LARGEST_BLOCK = 256 * 2**20
"""Bytes of a block that is decoded as a whole. A whole Sentinel-2 band in one piece has 230 MiB."""
_SAMPLED_BLOCKS = 3
"""Blocks of a mask: its corners and the middle."""
SCALE_TAGS = ("scale_factor", "add_offset")
"""Tags, as in NetCDF, with the factor from numbers to values and the summand."""
ENVI_SCALE_TAG = "reflectance_scale_factor"
"""GDAL's name for the divisor in a header of ENVI."""
_LEAST_RANGE = 0.5
"""The largest integer of a type stands for no less if a scale is meant for it."""
_MISSING_CODEC = re.compile(r"missing codec(?: of code)? (\w+)")
"""What GDAL says when it opens a GeoTIFF whose pixels it cannot decode."""


@dataclass(frozen=True)
class BandFile:
    """A chosen band and what its file declares.

    Attributes:
        band: The band of the source.
        grid: Grid of the file.
        dtype: Type of the pixels.
        nodata: Nodata value of the band; None if there is none.
        masked: Whether a mask, or an alpha band without a nodata value beside it, says which pixels are valid. In GDAL
            a mask takes precedence over the nodata value of a file.
        scale: Factor from numbers to values; 1 if the file declares none. Integers may have it in tags.
        offset: Summand from numbers to values; 0 if the file declares none.
        tags: What the file says of itself and of the band.
    """

    band: BandCandidate
    grid: GeoBox
    dtype: np.dtype[Any]
    nodata: float | None
    masked: bool
    scale: float
    offset: float
    tags: Mapping[str, str]

    @property
    def is_integer(self) -> bool:
        """Whether the pixels are integers, which stand for values."""
        return bool(np.issubdtype(self.dtype, np.integer))


def open_source_raster(path: str) -> OpenRaster:
    """Open a raster that the user named, for this thread; see ``open_cached_raster``.

    Raises:
        InputError: The path is no raster with bands.
    """
    file = open_any_raster(path)
    if file.dataset.count == 0:
        inner = file.dataset.subdatasets
        raise InputError(
            f"{path} has no bands of its own",
            got=f"{len(inner)} subdatasets",
            expected="a raster",
            fix=f"name a subdataset, such as {inner[0]}" if inner else "check the file",
        )
    return file


def open_any_raster(path: str) -> OpenRaster:
    """Open a raster that may have subdatasets in place of bands, for this thread.

    Raises:
        InputError: The path is no raster.
    """
    try:
        return open_cached_raster(path)
    except RasterioIOError as error:
        if not is_remote(path) and not path.startswith("/vsi") and not os.path.exists(path):  # noqa: PTH110
            what, expected, fix = "no such file", "a raster, a folder or a STAC item", "check the path"
            raise InputError(what, got=path, expected=expected, fix=fix) from error
        get_object_version(path)  # raises a clearer error than GDAL if an object is missing
        if codec := _MISSING_CODEC.search(describe_error(error)):
            raise InputError(
                f"cannot open {path}",
                got=f"pixels that are compressed with codec {codec[1]}",
                expected=f"a codec that GDAL {rasterio.__gdal_version__} of this installation decodes",
                fix="convert it with `gdal_translate -co COMPRESS=DEFLATE` where GDAL knows the codec",
            ) from error
        raise InputError(
            f"cannot open {path}",
            got=describe_error(error),
            expected="a raster that GDAL reads",
            fix="check the file, or fetch it again",
        ) from error


def _check_band(band: BandCandidate, dataset: Any) -> None:
    if band.index > dataset.count:
        raise InputError(
            f"{band.path} has fewer bands than its catalogue says",
            got=dataset.count,
            expected=f"at least {band.index}",
            fix="correct the item, or name the file itself",
        )
    if not _places_pixels(dataset.transform, dataset.shape):
        raise InputError(
            f"{band.path} has a transform that places no pixels",
            got=", ".join(f"{number:g}" for number in dataset.transform[:6]),
            expected="finite numbers and pixels of a size",
            fix="correct it with `gdal_edit.py -a_ullr …`",
        )
    dtype = dataset.dtypes[band.index - 1]
    if "complex" in dtype or dtype in {"int64", "uint64"}:
        raise InputError(
            f"{band.path}: no model takes the type of band {band.index}",
            got=dtype,
            expected="integers of up to 32 bits or floats",
            fix="convert it with `gdal_translate -ot Float32`",
        )


def _places_pixels(transform: Affine, shape: tuple[int, int]) -> bool:
    """Return whether a transform gives finite coordinates and can be inverted."""
    size = transform.determinant
    corners = [number for row in (0, shape[0]) for col in (0, shape[1]) for number in transform @ (col, row)]
    return size != 0 and all(map(math.isfinite, (*transform[:6], *corners, size, 1 / size)))


def _check_mask(file: OpenRaster, index: int) -> None:
    """Read samples of the mask that says which pixels are valid: without it none can be read."""
    if not file.masked:
        return
    for block in spread_blocks(file.grid.shape, file.block_shapes[0], _SAMPLED_BLOCKS):
        try:
            read_masks(file, [index], block)
        except RasterioIOError as error:
            raise InputError(
                f"the mask of {file.path} cannot be read",
                got=describe_error(error),
                expected="as many pixels as it masks",
                fix="write it again, or remove the file of the mask",
            ) from error


def _check_block_size(band: BandCandidate, file: OpenRaster) -> None:
    """Refuse a file of few huge blocks, each of which is decoded as a whole for any pixel of it."""
    dataset = file.dataset
    height, width = dataset.block_shapes[band.index - 1]
    structure = read_tags(file, domain="IMAGE_STRUCTURE")
    bands = dataset.count if structure.get("INTERLEAVE") == "PIXEL" else 1
    size = height * width * bands * np.dtype(dataset.dtypes[band.index - 1]).itemsize
    if "COMPRESSION" in structure and size > _LARGEST_BLOCK:
        raise InputError(
            f"{band.path} is compressed in blocks of {height}×{width} pixels",
            got=f"{size / 2**20:.0f} MiB that must be decoded for any pixel",
            expected=f"at most {_LARGEST_BLOCK / 2**20:.0f} MiB",
            fix="cut it into tiles with `gdal_translate -co TILED=YES -co COMPRESS=DEFLATE`",
        )


def inspect_band(band: BandCandidate) -> BandFile:
    """Open the file of a band and check that a model can read it.

    Raises:
        InputError: The file is unreadable, lacks the band or has a type that no model takes.
    """
    with gdal_environment(band.path):
        file = open_source_raster(band.path)
        dataset = file.dataset
        _check_band(band, dataset)
        _check_block_size(band, file)
        _check_mask(file, band.index)
        position = band.index - 1
        common, own = read_tags(file), read_tags(file, band.index)
        scale, offset = _find_scale(file, band, common, own)
        return BandFile(
            band=band,
            grid=_drop_heights(file.grid),
            dtype=np.dtype(dataset.dtypes[position]),
            nodata=dataset.nodatavals[position],
            masked=file.masked or (file.alpha is not None and dataset.nodata is None),
            scale=scale,
            offset=offset,
            tags={**common, **own},
        )


def _find_scale(
    file: OpenRaster, band: BandCandidate, common: Mapping[str, str], own: Mapping[str, str]
) -> tuple[float, float]:
    """Return factor and summand of a band by GDAL, or else those in tags that GDAL takes for text.

    Programs write tags as in NetCDF, of the band, the file, or a variable that is called like the band; headers of ENVI
    have a divisor. Floats mostly have them applied. Tags that fit other numbers are left over from those.

    Args:
        file: The open raster.
        band: The band.
        common: Tags of the file.
        own: Tags of the band.
    """
    scale, offset = file.dataset.scales[band.index - 1], file.dataset.offsets[band.index - 1]
    dtype = np.dtype(file.dtypes[band.index - 1])
    if offset != 0 or not np.issubdtype(dtype, np.integer):
        return scale, offset
    tags = _list_scale_tags(file, band, common, own)
    factor, summand = (parse_number(tags.get(name)) for name in SCALE_TAGS)
    if factor is None and (divisor := parse_number(read_tags(file, domain="ENVI").get(ENVI_SCALE_TAG))):
        factor = 1 / divisor
    if factor is None or factor * np.iinfo(dtype).max < _LEAST_RANGE or scale not in (1.0, factor):
        return scale, offset
    return factor, summand or 0.0


def _list_scale_tags(
    file: OpenRaster, band: BandCandidate, common: Mapping[str, str], own: Mapping[str, str]
) -> dict[str, str]:
    """Return the tags of a band as in NetCDF, without the name of its variable."""
    own, common = ({name.casefold(): text for name, text in tags.items()} for tags in (own, common))
    variables = {name.rpartition("#")[0] for name in common if name.endswith(tuple(f"#{end}" for end in SCALE_TAGS))}
    called = [name.casefold() for name in (own.get("netcdf_varname", ""), *band.labels)]
    variable = next((name for name in called if name in variables), None)
    others = {(name or "").casefold() for name in file.dataset.descriptions}
    if variable is None and len(variables) == 1 and not variables & others:
        (variable,) = variables
    of_variable = {name: common[f"{variable}#{name}"] for name in SCALE_TAGS if f"{variable}#{name}" in common}
    return common | of_variable | own


def parse_number(text: str | None) -> float | None:
    """Return the number in a tag; None if it holds none."""
    with suppress(ValueError):
        number = float(text or "")
        return number if math.isfinite(number) else None
    return None


def _drop_heights(grid: GeoBox) -> GeoBox:
    """Return a grid whose CRS has no ellipsoidal height: pixels have none, and GeoTIFF cannot hold it."""
    if grid.crs is None or grid.crs.proj.is_compound or len(grid.crs.proj.axis_info) < 3:
        return grid
    return GeoBox(grid.shape, grid.transform, grid.crs.proj.to_2d())


def _fits_into_geotiff(grid: GeoBox) -> bool:
    """Return whether a GeoTIFF holds the CRS itself, and not GDAL's file beside it."""
    profile = {"driver": "GTiff", "height": 1, "width": 1, "count": 1, "dtype": "uint8", "crs": grid.crs.to_wkt()}
    with rasterio.Env(GDAL_PAM_ENABLED=False), MemoryFile() as memory:
        with memory.open(**profile, transform=grid.transform):
            pass
        with memory.open() as file:
            return file.crs is not None


def check_georeference(file: BandFile) -> None:
    """Check that a file has a CRS and a transform that place it on Earth, and that results can state.

    Raises:
        InputError: It has none.
    """
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
    _check_place(file)
    if not _fits_into_geotiff(file.grid):
        raise InputError(
            f"{path} has a CRS that a GeoTIFF cannot hold",
            got=file.grid.crs.proj.name,
            expected="one that results in GeoTIFF can state",
            fix="warp it with `gdalwarp -t_srs EPSG:…` first",
        )


def _check_place(file: BandFile) -> None:
    """Refuse coordinates that are no place on a map: from the centre of the Earth, or beyond the poles.

    Edges may lie a pixel beyond a pole: global grids have a row of pixels whose centres lie on it.
    """
    crs, path = file.grid.crs.proj, file.band.path
    if crs.is_geocentric:
        raise InputError(
            f"{path} has a CRS that is no map",
            got=f"{crs.name}, coordinates from the centre of the Earth",
            expected="a projected or geographic CRS",
            fix="correct it with `gdal_edit.py -a_srs …`",
        )
    if not crs.is_geographic:
        return
    degrees = math.degrees(next((axis.unit_conversion_factor for axis in crs.axis_info), 0)) or 1
    height, width = file.grid.shape
    latitudes = [(file.grid.transform @ (col, row))[1] * degrees for row in (0, height) for col in (0, width)]
    pixel = (abs(file.grid.transform.d) + abs(file.grid.transform.e)) * degrees
    if max(map(abs, latitudes)) > 90 + pixel:
        raise InputError(
            f"{path} reaches beyond a pole",
            got=f"latitudes from {min(latitudes):g} to {max(latitudes):g}",
            expected="-90 to 90",
            fix="correct the place with `gdal_edit.py -a_ullr …`, or the CRS with -a_srs",
        )


def find_common_grid(files: Sequence[BandFile]) -> GeoBox:
    """Return the grid of the finest band.

    Raises:
        InputError: The bands have different CRS or cover different ground.
    """
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
    """Return numpy's name of a type that holds the pixels of all bands."""
    common = np.result_type(*(file.dtype for file in files))
    return "float64" if common == np.int64 else str(common)  # holds int32 and uint32 exactly, as int64 does
