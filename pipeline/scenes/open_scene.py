"""Opening a scene: what the user named becomes a checked ``Scene``."""

from __future__ import annotations

import hashlib
import re
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Literal

from rasterio.errors import NotGeoreferencedWarning

from seamline.pipeline.common.errors import InputError, redact_address, to_plain_line
from seamline.pipeline.common.layout import CATALOG, COLLECTION, ITEMS
from seamline.pipeline.raster_io.content import get_object_version, refuse_remote_mask, stamp_files
from seamline.pipeline.raster_io.file_stamp import FileStamp
from seamline.pipeline.raster_io.gdal import close_cached_rasters, is_remote
from seamline.pipeline.scenes.acquisition import read_acquisition_time
from seamline.pipeline.scenes.aoi import read_aoi
from seamline.pipeline.scenes.band_files import (
    BandFile,
    check_georeference,
    find_common_dtype,
    find_common_grid,
    inspect_band,
)
from seamline.pipeline.scenes.band_matching import BandCandidate, BandNeed, match_bands
from seamline.pipeline.scenes.missing_pixels import choose_nodata, sample_valid_pixels, tell_impossible_values
from seamline.pipeline.scenes.products import Calibration, ProductEvidence
from seamline.pipeline.scenes.radiometry import (
    BandNumbers,
    choose_calibrations,
    describe_calibrations,
)
from seamline.pipeline.scenes.scene import Band, Scene
from seamline.pipeline.scenes.source import Source, read_source
from seamline.pipeline.scenes.source_files import detect_source_kind, name_as_scenes
from seamline.pipeline.storage.confinement import get_confinement

_MAX_ID_LENGTH = 200
"""Characters. File systems allow 255 bytes, of which temporary files need some."""
_RESERVED_NAMES = {CATALOG, COLLECTION, ITEMS}
"""Names of files beside the folders of the scenes."""


@dataclass(frozen=True)
class SceneOptions:
    """What the user says about a scene; it overrides what the files say.

    Attributes:
        bands: Bands in the order of the model: numbers from 1, descriptions, file names or asset keys.
        scale: Factor from numbers to values.
        offset: Summand from numbers to values.
        nodata: Number of missing pixels; "none" if no number means missing.
        aoi: GeoJSON file with polygons.
    """

    bands: tuple[str, ...] = ()
    scale: float | None = None
    offset: float | None = None
    nodata: float | Literal["none"] | None = None
    aoi: Path | None = None

    def __post_init__(self) -> None:
        if self.scale is not None and (self.scale == 0 or not isfinite(self.scale)):
            raise InputError("--scale gives no values", got=self.scale, expected="a number but 0", fix="correct it")
        if self.offset is not None and not isfinite(self.offset):
            raise InputError("--offset gives no values", got=self.offset, expected="a number", fix="correct it")


def open_scene(
    source: str | Path,
    needs: Sequence[BandNeed],
    options: SceneOptions,
    *,
    assumed_nodata: float | None = None,
    reflectance: bool = True,
    georeferenced: bool = True,
) -> Scene:
    """Find the bands that a model needs in a source, check them, and describe them as one scene.

    Bands of different pixel size share the grid of the finest band. What was assumed is in the warnings of the scene.
    A scene that is opened under a confinement (``confine``) is read under it by every process.

    Args:
        source: A raster (path, http(s) URL, ``s3://``, ``/vsi…``, ``.zip``), a folder of band files (also ``s3://…/``),
            or a STAC item (path, http(s) URL or ``s3://`` of its JSON, or its URL in a STAC API).
        needs: Bands of the model, in order.
        options: What the user says about the scene.
        assumed_nodata: Number of missing pixels in files that declare none.
        reflectance: Whether integers without a scale stand for reflectances.
        georeferenced: Whether files without a place on Earth are refused.

    Returns:
        The scene, its bands in the order of ``needs``.

    Raises:
        InputError: Something would stop the inference or spoil its result.
        RunError: A server does not answer.
    """
    close_cached_rasters()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # check_georeference raises an InputError instead
        found = read_source(source)
        chosen, band_warnings = _choose_bands(needs, found, options.bands)
        contents = _inspect_contents(chosen, georeferenced=georeferenced)
        grid = find_common_grid(contents.files)
        meaning = _interpret_numbers(contents.files, found.product, options, assumed_nodata, reflectance=reflectance)
        return Scene(
            id=make_scene_id(found.name),
            grid=grid,
            bands=_make_bands(needs, contents, meaning),
            dtype=find_common_dtype(contents.files),
            acquired=found.acquired or read_acquisition_time(chosen[0].path),
            aoi=None if options.aoi is None else read_aoi(options.aoi, grid),
            warnings=tuple(to_plain_line(text) for text in (*band_warnings, *meaning.warnings)),
            radiometry=to_plain_line(describe_calibrations(meaning.calibrations)),
            source=redact_address(found.href),
            confinement=get_confinement(),
        )


def _choose_bands(
    needs: Sequence[BandNeed], found: Source, requested: Sequence[str]
) -> tuple[list[BandCandidate], list[str]]:
    """Match the bands, and tell somebody who named a folder of scenes how to name the scenes.

    A folder is one scene, whose bands are its files. Files are scenes where one of them alone has all bands, or where
    each has several.
    """
    try:
        return match_bands(needs, found.bands, requested, found.name, found.product.names)
    except InputError as error:
        files: dict[str, list[BandCandidate]] = {}
        for band in found.bands:
            files.setdefault(band.path, []).append(band)
        if len(files) < 2 or is_remote(found.href) or detect_source_kind(found.href) != "folder":
            raise
        if any(len(bands) < 2 and not _fit(needs, bands, requested) for bands in files.values()):
            raise
        fix = name_as_scenes(found.href, files)
        raise InputError(error.what, got=error.got, expected=error.expected, fix=f"{fix}; or {error.fix}") from error


def _fit(needs: Sequence[BandNeed], bands: Sequence[BandCandidate], requested: Sequence[str]) -> bool:
    """Return whether bands are those that the model needs."""
    try:
        match_bands(needs, bands, requested, bands[0].stem)
    except InputError:
        return False
    return True


@dataclass(frozen=True)
class _Contents:
    """The files of the chosen bands.

    Attributes:
        files: The file of each band.
        versions: ETag of each object, by its path; None outside of object storage.
        stamps: What the local files of each path were.
    """

    files: list[BandFile]
    versions: Mapping[str, str | None]
    stamps: Mapping[str, tuple[FileStamp, ...]]


def _inspect_contents(chosen: Sequence[BandCandidate], *, georeferenced: bool) -> _Contents:
    """Open and check the files of the chosen bands."""
    paths = list(dict.fromkeys(band.path for band in chosen))
    versions = {path: get_object_version(path) for path in paths}
    files = [inspect_band(band) for band in chosen]
    stamps = {path: stamp_files(path) for path in paths}
    for path in paths:
        refuse_remote_mask(path)
    for file in {file.band.path: file for file in files}.values() if georeferenced else ():
        check_georeference(file)
    return _Contents(files, versions, stamps)


def _make_bands(needs: Sequence[BandNeed], contents: _Contents, meaning: _Interpretation) -> tuple[Band, ...]:
    """Return the bands of a scene in the order of the model."""
    return tuple(
        Band(
            name=need.name,
            path=file.band.path,
            index=file.band.index,
            scale=calibration.scale,
            offset=calibration.offset,
            nodata=nodata,
            version=contents.versions[file.band.path],
            stamps=contents.stamps[file.band.path],
        )
        for need, file, calibration, nodata in zip(
            needs, contents.files, meaning.calibrations, meaning.nodata, strict=True
        )
    )


@dataclass(frozen=True)
class _Interpretation:
    """What the numbers of some bands mean.

    Attributes:
        nodata: Number of missing pixels of each band; None if no number means missing.
        calibrations: How other numbers become values.
        warnings: What was assumed.
    """

    nodata: list[float | None]
    calibrations: list[Calibration]
    warnings: list[str]


def _interpret_numbers(
    files: Sequence[BandFile],
    product: ProductEvidence,
    options: SceneOptions,
    assumed_nodata: float | None,
    *,
    reflectance: bool,
) -> _Interpretation:
    """Decide which pixels of the bands are missing and what the others mean, by all evidence and a sample of them."""
    nodata, nodata_warnings = choose_nodata(files, options.nodata, assumed_nodata)
    samples, sample_warnings = sample_valid_pixels(files, nodata, is_settled=options.nodata is not None)
    numbers = [BandNumbers(sample.file, sample.counts) for sample in samples]
    calibrations, warnings = choose_calibrations(
        numbers, product, options.scale, options.offset, reflectance=reflectance
    )
    if reflectance and options.nodata != "none":
        warnings += tell_impossible_values(samples, [calibration.apply for calibration in calibrations])
    return _Interpretation(nodata, calibrations, [*nodata_warnings, *sample_warnings, *warnings])


def make_scene_id(name: str) -> str:
    """Return the id of the scene in a file, folder or item of this name: safe as the name of a folder.

    Names of ASCII letters, digits, "-", "_" and "." are kept. Of others the id ends with a hash of the whole name, so
    that no two of them are one scene.
    """
    letters = unicodedata.normalize("NFC", name)  # macOS writes accents as letters of their own
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", letters).strip("._-") or "scene"
    if safe != letters:
        safe = f"{safe}-{hashlib.sha256(letters.encode()).hexdigest()[:8]}"
    if safe in _RESERVED_NAMES:
        return f"{safe}-scene"
    if len(safe) > _MAX_ID_LENGTH:
        return f"{safe[:_MAX_ID_LENGTH]}-{hashlib.sha256(safe.encode()).hexdigest()[:12]}"
    return safe
