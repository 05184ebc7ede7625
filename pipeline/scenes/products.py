"""What is known of satellite products whose files do not say what their numbers mean.

Sources: Sentinel-2 Products Specification (radiometric offset since processing baseline 04.00), Landsat 8-9
Collection 2 Level 2 Science Product Guide, Landsat 8-9 Data Users Handbook (reflectance of level 1), HLS Product User
Guide v2.0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.scenes.band_matching import BandCandidate

_BASELINE_OFFSET = -0.1
"""Offset of reflectances of Sentinel-2 since processing baseline 04.00, of 25 January 2022."""
_OFFSET_BASELINE, _OFFSET_DAY = 4.0, "20220125"

_SENTINEL_2 = re.compile(r"(?<![A-Z0-9])S2[A-D]?(?![A-Z0-9])|(?<![A-Z0-9])S2[A-D](?=_)|sentinel-?2", re.IGNORECASE)
_SENTINEL_2_BASELINE = re.compile(r"S2[A-D]_MSIL(?:1C|2A)_\d{8}T\w+?_N(\d\d)(\d\d)_")
_SENTINEL_2_BAND_FILE = re.compile(r"T\d\d[A-Z]{3}_(\d{8})T\d{6}_B(?:\d\d|8A)")
_LANDSAT = re.compile(r"L[COTEM]0[4-9]_(?P<level>L\d)\w\w_\d{6}_\d{8}_\d{8}_(?P<collection>0\d)_(?:T1|T2|RT)")
_SURFACE_REFLECTANCE_BAND = re.compile(r"(?:^|_)SR_B\d$")
_HLS = re.compile(r"HLS\.?[LS]30", re.IGNORECASE)
_MAX_METADATA = 2**20
"""Characters that are read of a product's metadata file, which has some ten thousand."""


@dataclass(frozen=True)
class ProductEvidence:
    """What names and a catalogue tell of the product that a scene comes from.

    Attributes:
        names: Texts that may hold a product's name: of the source, of the item.
        baseline: Processing baseline of Sentinel-2 by the catalogue, such as 5.09.
        is_offset_applied: What the catalogue says: whether the offset of Sentinel-2 is in the numbers already.
    """

    names: tuple[str, ...] = ()
    baseline: float | None = None
    is_offset_applied: bool | None = None


@dataclass(frozen=True)
class ProductCalibration:
    """Reflectance = number × ``scale`` + one of ``offsets``, as ``product`` has it.

    Attributes:
        scale: Factor.
        offsets: The offset; two where the product had one only for a time, and nothing says when it was made.
        product: Name of the product, for messages.
    """

    scale: float
    offsets: tuple[float, ...]
    product: str


_LANDSAT_LEVEL_2 = ProductCalibration(2.75e-5, (-0.2,), "Landsat Collection 2 level 2")


def calibrate_by_product(band: BandCandidate, evidence: ProductEvidence) -> ProductCalibration | None:
    """Return what the numbers of a band of integers mean by its product; None if no product is recognised.

    Args:
        band: The band, whose file, labels and number may tell the product.
        evidence: What else tells it.

    Raises:
        InputError: It is Landsat level 1, and the file of metadata that has its factors is not beside it.
    """
    texts = (*evidence.names, band.path, band.stem)
    if any(_HLS.search(text) for text in texts):
        return ProductCalibration(1e-4, (0.0,), "HLS")
    if landsat := _search(_LANDSAT, texts):
        if landsat["level"] == "L1":
            return _read_level_1(band, landsat[0])
        return _LANDSAT_LEVEL_2 if landsat["collection"] == "02" else None
    if _search(_SURFACE_REFLECTANCE_BAND, (*band.labels, band.stem)):
        return _LANDSAT_LEVEL_2
    is_sentinel_2 = evidence.baseline is not None or evidence.is_offset_applied is not None
    if is_sentinel_2 or _search(_SENTINEL_2, texts) or _search(_SENTINEL_2_BAND_FILE, texts):
        return _calibrate_sentinel_2(texts, evidence)
    return None


def _calibrate_sentinel_2(texts: Iterable[str], evidence: ProductEvidence) -> ProductCalibration:
    if evidence.is_offset_applied:
        return ProductCalibration(1e-4, (0.0,), "Sentinel-2, whose catalogue says that the offset is applied")
    named, file = _search(_SENTINEL_2_BASELINE, texts), _search(_SENTINEL_2_BAND_FILE, texts)
    baseline = float(f"{named[1]}.{named[2]}") if named else evidence.baseline
    if baseline is not None:
        is_later = baseline >= _OFFSET_BASELINE
        product = f"Sentinel-2, processing baseline {baseline:05.2f}"
        return ProductCalibration(1e-4, (_BASELINE_OFFSET if is_later else 0.0,), product)
    if file is not None and file[1] >= _OFFSET_DAY:
        return ProductCalibration(1e-4, (_BASELINE_OFFSET,), "Sentinel-2 since 25 January 2022")
    return ProductCalibration(1e-4, (0.0, _BASELINE_OFFSET), "Sentinel-2 of an unknown processing baseline")


def _read_level_1(band: BandCandidate, product: str) -> ProductCalibration:
    """Return the calibration of a band of Landsat level 1: top-of-atmosphere reflectance, by its metadata file.

    The factors there are for a sun in the zenith; reflectance is divided by the sine of the sun's elevation.
    """
    path = Path(band.path).with_name(f"{product}_MTL.txt")
    values = read_landsat_metadata(path)
    try:
        scale, offset = (float(values[f"REFLECTANCE_{what}_BAND_{band.number}"]) for what in ("MULT", "ADD"))
        sun = math.sin(math.radians(float(values["SUN_ELEVATION"])))
    except (KeyError, ValueError) as error:
        raise InputError(
            f"the numbers of {band.path}, Landsat level 1",
            got=f"no REFLECTANCE_MULT_BAND_{band.number} in {path.name}" if values else f"no {path.name} beside it",
            expected="the factors and the elevation of the sun that come with the product",
            fix="put it beside the bands, or give --scale and --offset",
        ) from error
    if not sun > 0:
        raise InputError(
            f"{path}: SUN_ELEVATION",
            got=values["SUN_ELEVATION"],
            expected="a sun above the horizon",
            fix="give --scale and --offset",
        )
    return ProductCalibration(scale / sun, (offset / sun,), f"Landsat level 1, by {path.name}")


def read_landsat_metadata(path: Path) -> Mapping[str, str]:
    """Return the last value of each name in a metadata file (``…_MTL.txt``); nothing if it cannot be read."""
    try:
        with path.open(encoding="utf-8") as file:
            return dict(re.findall(r'^\s*(\w+) = "?([^"\n]*)', file.read(_MAX_METADATA), re.MULTILINE))
    except (OSError, ValueError):
        return {}


def _search(pattern: re.Pattern[str], texts: Iterable[str]) -> re.Match[str] | None:
    return next((found for text in texts if (found := pattern.search(text))), None)
