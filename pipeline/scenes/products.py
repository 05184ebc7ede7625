"""What is known of satellite products whose files do not say what their numbers mean.

Sources: Sentinel-2 Products Specification (radiometric offset since processing baseline 04.00), Landsat 8-9
Collection 2 Level 2 Science Product Guide, Landsat 8-9 Data Users Handbook (reflectance of level 1), HLS Product User
Guide v2.0, Planet's item types.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.sensors import NUMBERS_BY_NAME, recognize_sensors, to_common_name
from seamline.pipeline.raster_io.gdal import gdal_environment, read_tags
from seamline.pipeline.scenes.band_files import BandFile, open_source_raster, parse_number
from seamline.pipeline.scenes.band_matching import BandCandidate
from seamline.pipeline.storage.atomic import refuse_special_file
from seamline.pipeline.storage.confinement import open_confined
from seamline.pipeline.storage.json_documents import read_document
from seamline.pipeline.storage.object_store import is_object_url
from seamline.pipeline.storage.web_requests import is_url

_BASELINE_OFFSET = -0.1
"""Offset of reflectances of Sentinel-2 since processing baseline 04.00, of 25 January 2022."""
_OFFSET_BASELINE, _OFFSET_DAY = 4.0, "20220125"
_NO_BASELINE = 50.0
"""Baselines from here on are none: Sen2Cor states 99.99 where it does not run at ESA."""

_BASELINE = re.compile(r"N?(\d{1,2})(?:\.(\d{1,2})|(\d\d))?", re.IGNORECASE)
_BASELINE_IN_NAME = re.compile(r"S2[A-D]_\w{1,60}?_N(\d\d)\.?(\d\d)(?!\d)", re.IGNORECASE)
_BASELINE_IN_METADATA = re.compile(r"<PROCESSING_BASELINE>([^<]*)<")
# Day of acquisition in ESA's names of a product, a granule and its files; a product's last day is that of processing.
# Other names that hold a tile and a day are those of many providers, some of which take the offset away.
_ACQUISITION = re.compile(
    r"(?<![A-Z0-9])(?:S2[A-D]_MSIL\d\w|(?<!_R\d{3}_)T\d\d[A-Z]{3})_(\d{8})T\d{6}(?!\d)", re.IGNORECASE
)
# Products whose makers take the offset away: of Earth Engine, mosaics of Copernicus, MAJA's of THEIA.
_WITHOUT_OFFSET = re.compile(
    r"(?:S2_|SENTINEL-?2)[\w-]{0,60}HARMONI[SZ]ED|SENTINEL-2_MOSAIC_\d{4}|SENTINEL2[A-D]_\d{8}-\d{6}-\d{3}_L[23]A_T",
    re.IGNORECASE,
)
_LANDSAT = re.compile(
    r"L[COTEM]0(?P<mission>[1-9])_(?P<level>L\d)\w\w_\d{6}_\d{8}(?:_\d{8})?_(?P<collection>0\d)_(?:T1|T2|RT)",
    re.IGNORECASE,
)
# Before there were collections: path and row, year and day, station and version.
_OLD_LANDSAT = re.compile(r"(?<![A-Z0-9])L[COTEM](?P<mission>[1-8])\d{13}[A-Z]{3}\d\d", re.IGNORECASE)
_LANDSAT_COLLECTION_2 = re.compile(r"landsat\w{0,20}?[-_ ]?c0?2[-_ ]?(?:t\d[-_ ])?l2", re.IGNORECASE)
_ORDERED_LANDSAT = re.compile(r"_(?:sr|toa)_band\d+$", re.IGNORECASE)
_SURFACE_REFLECTANCE_BAND = re.compile(r"(?:^|_)SR_B\d(?![A-Z0-9])", re.IGNORECASE)
_HLS = re.compile(r"HLS2?[._-]?[LS]30", re.IGNORECASE)
_PLANET_RADIANCE = re.compile(
    r"_(?:3[AB]|BGRN|ssc\d+_u\d+)_(?:ortho_)?analytic(?:MS)?(?!\w*_SR(?![A-Z]))", re.IGNORECASE
)
_FIRST_OF_16_BITS = 8
"""Mission of Landsat since which level 1 has more than eight bits."""
_PRODUCT_TAGS = ("PRODUCT_URI", "DATATAKE_1_ID", "DATATAKE_1_SPACECRAFT_NAME", "SPACECRAFT_NAME")
"""Tags of a file, by GDAL and others, that name a product of Sentinel-2 or its satellite."""
_BASELINE_TAG = "PROCESSING_BASELINE"
_ADDED_TAGS = ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET")
"""Tags with minus the number that is added to all numbers of a product of Sentinel-2; 0 if none is."""
_HLS_TAG = "HLS_PROCESSING_TIME"
PRODUCT_TAGS = (*_PRODUCT_TAGS, _BASELINE_TAG, *_ADDED_TAGS, _HLS_TAG)
"""All tags that tell the product."""
_METADATA_SUFFIXES = (".txt", ".json", ".xml")
_METADATA_VALUE = re.compile(r'\b(\w{1,60}+)"?[ \t]{0,20}+[=:>][ \t]{0,20}+"?([^"<>\n,]{1,200})')
"""Name and value in each of these kinds of files."""
_MAX_METADATA = 2**20
"""Bytes or characters that are read of a product's metadata file, which has some ten thousand."""


@dataclass(frozen=True)
class ProductEvidence:
    """What names and a catalogue tell of the product that a scene comes from.

    Attributes:
        names: Texts that may hold the name of a product, a collection or a satellite: of the source, of the item.
        baseline: Processing baseline of Sentinel-2 by the catalogue, such as 5.09.
        is_offset_applied: What the catalogue says: whether the offset of Sentinel-2 is in the numbers already.
        may_be_sentinel_2: Whether the bands are numbered as those of Sentinel-2 are.
        is_numbered_as_sentinel_2: Whether they are numbered as those of hardly another sensor are.
    """

    names: tuple[str, ...] = ()
    baseline: float | None = None
    is_offset_applied: bool | None = None
    may_be_sentinel_2: bool = False
    is_numbered_as_sentinel_2: bool = False


@dataclass(frozen=True)
class Calibration:
    """How the numbers of a band become values: number × ``scale`` + ``offset``.

    Attributes:
        scale: Factor, not 0.
        offset: Summand.
        origin: What says so, such as "the tags of the file".
        is_stated: Whether that is part of the scene, and not what is known of its product or usual.
    """

    scale: float
    offset: float
    origin: str
    is_stated: bool = True

    def means_the_same(self, other: Calibration) -> bool:
        """Return whether both give the same values, but for rounding."""
        same_scale = math.isclose(self.scale, other.scale, rel_tol=1e-4)
        return same_scale and math.isclose(self.offset, other.offset, abs_tol=1e-6)

    def apply(self, numbers: NDArray[Any]) -> NDArray[np.float64]:
        """Return the values of some numbers."""
        with np.errstate(over="ignore", invalid="ignore"):  # values that are none are refused
            values: NDArray[np.float64] = numbers.astype(np.float64) * self.scale + self.offset
        return values

    def __str__(self) -> str:
        inverse = round(1 / self.scale) if abs(self.scale) > 1e-300 else 0
        by = f"number / {inverse}" if inverse in (255, 10000, 65535) and not self.offset else f"number × {self.scale:g}"
        return f"{by} {self.offset:+g}" if self.offset else by


@dataclass(frozen=True)
class ProductCalibration:
    """Reflectance = number × ``scale`` + one of ``offsets``, as ``product`` has it.

    Attributes:
        scale: Factor.
        offsets: The offset; two where the product had one only for a time, and nothing says when it was made.
        product: Name of the product, for messages.
        least_number: Nearly all numbers are larger if it is this product; None if it surely is.
        is_offset_constant: Whether all scenes of the product have the same offset.
    """

    scale: float
    offsets: tuple[float, ...]
    product: str
    least_number: int | None = None
    is_offset_constant: bool = True


_LANDSAT_LEVEL_2 = ProductCalibration(2.75e-5, (-0.2,), "Landsat Collection 2 level 2")
_LIKELY_LANDSAT_LEVEL_2 = ProductCalibration(2.75e-5, (-0.2,), "Landsat, whose numbers are those of level 2", 7000)
_LANDSAT_COLLECTION_1 = ProductCalibration(1e-4, (0.0,), "Landsat Collection 1, reflectance")


def parse_baseline(value: object) -> float | None:
    """Return a processing baseline of Sentinel-2, stated as 5.09, "05.09", "0509" or "N0509"; None if it is none."""
    found = _BASELINE.fullmatch(str(value).strip())
    baseline = float(f"{found[1]}.{found[2] or found[3] or 0}") if found else _NO_BASELINE
    return baseline if baseline < _NO_BASELINE else None


def find_product_by_scale(scale: float) -> ProductCalibration | None:
    """Return the product whose numbers have a scale that no other's have; None if there is none."""
    return _LIKELY_LANDSAT_LEVEL_2 if math.isclose(scale, _LIKELY_LANDSAT_LEVEL_2.scale, rel_tol=1e-4) else None


def calibrate_by_product(
    file: BandFile, evidence: ProductEvidence, *, is_stated: bool = False
) -> ProductCalibration | None:
    """Return what the numbers of a band mean by its product; None if no product is recognised.

    Args:
        file: The band, whose file, labels, number and tags may tell the product.
        evidence: What else tells it.
        is_stated: Whether a scale is stated or the values are no integers: many sensors have bands that are numbered as
            some of Sentinel-2, which only tells where nothing else does.

    Raises:
        InputError: It is Landsat level 1, and the file of metadata that has its factors is not beside it; or radiance.
    """
    band, tags = file.band, file.tags
    tagged = tuple(tags[name] for name in _PRODUCT_TAGS if name in tags)
    texts = (*evidence.names, band.path, band.stem, *tagged)
    own = (*evidence.names, band.stem, *band.labels, *tagged)
    level_1 = _find_landsat_level_1(texts)
    # Numbers of eight bits have level 1 of Landsat 1 to 7 alone, and pictures of all products.
    if file.dtype.itemsize == 1 and (level_1 is None or int(level_1["mission"]) >= _FIRST_OF_16_BITS):
        return None
    if _HLS_TAG in tags or any(_HLS.search(text) for text in texts):
        return ProductCalibration(1e-4, (0.0,), "HLS")
    if _search(_ORDERED_LANDSAT, (band.stem, *band.labels)):
        return _LANDSAT_COLLECTION_1
    if level_1:
        return _read_level_1(band, level_1[0])
    if landsat := _search(_LANDSAT, texts):
        return _LANDSAT_LEVEL_2 if landsat["collection"] == "02" else _LANDSAT_COLLECTION_1
    if _search(_SURFACE_REFLECTANCE_BAND, (*band.labels, band.stem)) or _search(_LANDSAT_COLLECTION_2, own):
        return _LANDSAT_LEVEL_2
    if radiance := _search(_PLANET_RADIANCE, (band.stem, PurePosixPath(band.path).name)):
        raise InputError(
            f"the numbers of {band.path}",
            got=f"radiances of Planet (…{radiance[0]})",
            expected="reflectances, as in files with _SR in their name",
            fix="take those, or give --scale and --offset",
        )
    sensors = recognize_sensors(" ".join(own)) or recognize_sensors(band.path)
    is_tagged = not sensors and not tags.keys().isdisjoint((_BASELINE_TAG, *_ADDED_TAGS))
    is_told = evidence.baseline is not None or evidence.is_offset_applied is not None
    if "Sentinel-2" in sensors or is_tagged or is_told or _search(_BASELINE_IN_NAME, tagged):
        return _calibrate_sentinel_2(band.path, texts, evidence, tags)
    if sensors:
        return None if band.number else _LIKELY_LANDSAT_LEVEL_2  # level 2 has bands that are called SR_B2
    if evidence.is_numbered_as_sentinel_2 or (evidence.may_be_sentinel_2 and not is_stated):
        return ProductCalibration(1e-4, (0.0, _BASELINE_OFFSET), "bands numbered as those of Sentinel-2")
    return None


def _find_landsat_level_1(texts: Iterable[str]) -> re.Match[str] | None:
    found = _search(_LANDSAT, texts)
    if found is None:
        return _search(_OLD_LANDSAT, texts)
    return found if found["level"].upper() == "L1" else None


def _calibrate_sentinel_2(
    path: str, texts: Sequence[str], evidence: ProductEvidence, tags: Mapping[str, str]
) -> ProductCalibration:
    if evidence.is_offset_applied:
        return ProductCalibration(1e-4, (0.0,), "Sentinel-2, whose catalogue says that the offset is applied")
    if _search(_WITHOUT_OFFSET, texts):
        return ProductCalibration(1e-4, (0.0,), "Sentinel-2, harmonized")
    named = (parse_baseline(found[1] + found[2]) for text in texts for found in _BASELINE_IN_NAME.finditer(text))
    stated = [*named, evidence.baseline, parse_baseline(tags.get(_BASELINE_TAG))]
    known = [baseline for baseline in stated if baseline is not None] or _read_baselines(path)
    offsets = {_BASELINE_OFFSET if baseline >= _OFFSET_BASELINE else 0.0 for baseline in known}
    numbers = [parse_number(tags.get(name)) for name in _ADDED_TAGS]
    added = {_BASELINE_OFFSET if number else 0.0 for number in numbers if number is not None}
    if len(offsets | added) == 1:
        what = f"processing baseline {known[0]:05.2f}" if known else "by its tags"
        return ProductCalibration(1e-4, tuple(offsets | added), f"Sentinel-2, {what}")
    acquired = _search(_ACQUISITION, texts)
    if not offsets | added and acquired is not None and acquired[1] >= _OFFSET_DAY:
        return ProductCalibration(1e-4, (_BASELINE_OFFSET,), "Sentinel-2 since 25 January 2022")
    what = "whose names, tags and catalogue differ in it" if offsets | added else "of an unknown processing baseline"
    return ProductCalibration(1e-4, (0.0, _BASELINE_OFFSET), f"Sentinel-2 {what}")


def _read_baselines(path: str) -> list[float]:
    """Return the processing baselines in the metadata files of the unpacked product that a band lies in."""
    found: list[float | None] = []
    product = next((folder.parent for folder in Path(path).parents if folder.name == "GRANULE"), None)
    with suppress(OSError, ValueError):
        for file in filter(Path.is_file, product.glob("MTD_MSIL*.xml") if product else ()):
            with open_confined(str(file)) as name, Path(name).open(encoding="utf-8") as text:
                found += map(parse_baseline, _BASELINE_IN_METADATA.findall(text.read(_MAX_METADATA)))
    return [baseline for baseline in found if baseline is not None]


def _read_level_1(band: BandCandidate, product: str) -> ProductCalibration:
    """Return the calibration of a band of Landsat level 1: top-of-atmosphere reflectance, by its metadata file.

    The factors there are for a sun in the zenith; reflectance is divided by the sine of the sun's elevation.
    """
    name, values = read_landsat_metadata(band.path, product)
    sensors = recognize_sensors(product)
    number = _find_sensor_number(band, sensors[0]) if sensors else band.number
    try:
        scale, offset = (float(values[f"REFLECTANCE_{what}_BAND_{number}"]) for what in ("MULT", "ADD"))
        sun = math.sin(math.radians(float(values["SUN_ELEVATION"])))
    except (KeyError, ValueError) as error:
        missing = f"REFLECTANCE_MULT_BAND_{number}" if number else f"number of the band {band}"
        raise InputError(
            f"the numbers of {band.path}, Landsat level 1",
            got=f"no {missing} in {name}" if values else f"no {name} beside it",
            expected="the factors and the elevation of the sun that come with the product",
            fix="put it beside the bands, or give --scale and --offset",
        ) from error
    if not sun > 0:
        raise InputError(
            f"{name}: SUN_ELEVATION",
            got=values["SUN_ELEVATION"],
            expected="a sun above the horizon",
            fix="give --scale and --offset",
        )
    return ProductCalibration(scale / sun, (offset / sun,), f"Landsat level 1, by {name}", is_offset_constant=False)


def _find_sensor_number(band: BandCandidate, sensor: str) -> str | None:
    """Return the number of a band in a sensor, by its own number or by its common name; None if neither tells."""
    table = NUMBERS_BY_NAME[sensor]
    named = (table[name].split()[0] for name in map(to_common_name, band.names) if name in table)
    return band.number or next(named, None)


def read_landsat_metadata(path: str, product: str) -> tuple[str, Mapping[str, str]]:
    """Read the metadata file (``…_MTL.txt``, ``.json``, ``.xml``) of a Landsat product.

    Args:
        path: A band of the product, also in an archive or on a server, which has to have the metadata as JSON.
        product: Name of the product.

    Returns:
        Name of the file, and the last value of each name in it; no values if there is none that can be read.
    """
    names = [f"{product}_MTL{suffix}" for suffix in _METADATA_SUFFIXES]
    if is_url(path) or is_object_url(path):
        with suppress(InputError):
            document = read_document(f"{path.partition('?')[0].rpartition('/')[0]}/{product}_MTL.json")
            return f"{product}_MTL.json", dict(_METADATA_VALUE.findall(json.dumps(document, indent=0)))
        return f"{product}_MTL.json", {}
    wanted = {name.casefold() for name in names}
    with suppress(OSError, ValueError):
        found = [file for file in Path(path).parent.iterdir() if file.name.casefold() in wanted]
        for file in sorted(found, key=lambda file: _METADATA_SUFFIXES.index(file.suffix.lower())):
            refuse_special_file(file)
            with suppress(OSError, ValueError), open_confined(str(file)) as name, Path(name).open("rb") as stream:
                text = stream.read(_MAX_METADATA).decode("utf-8")
                if values := dict(_METADATA_VALUE.findall(text)):
                    return file.name, values
    # GDAL looks for the file in the archive.
    with gdal_environment(path):
        tags = read_tags(open_source_raster(path), domain="IMD")
    return names[0], {name.rpartition(".")[2]: value for name, value in tags.items()}


def _search(pattern: re.Pattern[str], texts: Iterable[str]) -> re.Match[str] | None:
    return next((found for text in texts if (found := pattern.search(text))), None)
