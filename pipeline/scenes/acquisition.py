"""When a scene was acquired, by the tags or the name of its files."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime, time
from pathlib import PurePath

from seamline.pipeline.common.sensors import names_satellite
from seamline.pipeline.common.time_span import TimeSpan, to_utc
from seamline.pipeline.raster_io.gdal import gdal_environment, is_remote, read_tags
from seamline.pipeline.scenes.band_files import open_source_raster
from seamline.pipeline.scenes.products import read_landsat_metadata

_SECOND, _PLAIN_SECOND, _DAY, _DAY_OF_YEAR = "%Y%m%dT%H%M%S", "%Y%m%d%H%M%S", "%Y%m%d", "%Y%j"
_LANDSAT = re.compile(r"L[COTEM]\d\d_L\w{3}_\d{6}_(\d{8})(?:_\d{8})?_\d\d_(?:T1|T2|RT)")
"""Sensor and level, path and row, day of acquisition, in most names day of processing, collection."""
_OLD_LANDSAT = re.compile(r"(?<![A-Z0-9])L[COTEM][1-8]\d{6}(\d{7})[A-Z]{3}\d\d")
"""Before there were collections: path and row, year and day, station and version."""
_NAME_PATTERNS = (
    (_LANDSAT, _DAY),
    (_OLD_LANDSAT, _DAY_OF_YEAR),
    # Landsat in Earth Engine.
    (re.compile(r"(?<![A-Z0-9])L[COTEM]0\d_\d{6}_(\d{8})(?!\d)"), _DAY),
    (re.compile(r"HLS[._][LS]30[._]T\w{5}[._](\d{7}T\d{6})"), "%Y%jT%H%M%S"),
    # Sentinel-2: products, those of before 2017, granules and their band files, in Earth Engine, in Earth Search.
    (re.compile(r"S2[A-D]_MSIL\d\w_(\d{8}T\d{6})"), _SECOND),
    (re.compile(r"S2[A-D]_OPER_\w+_V(\d{8}T\d{6})"), _SECOND),
    (re.compile(r"(?<![A-Z0-9])T\d\d[A-Z]{3}_(?:A\d+_)?(\d{8}T\d{6})(?!\d)"), _SECOND),
    (re.compile(r"(?<!\d)(\d{8}T\d{6})_\d{8}T\d{6}_T\d\d[A-Z]{3}"), _SECOND),
    (re.compile(r"S2[A-D]_T?\d\d[A-Z]{3}_(\d{8})(?!\d|T\d)"), _DAY),
    # A granule of before 2017 was made a few hours later, unless it was made again at another station.
    (re.compile(r"S2[A-D]_OPER_MSI_\w{3}_TL_(?!EPA)\w{4}_(\d{8}T\d{6})"), _SECOND),
    (re.compile(r"S1[A-D]_\w\w_\w{4}_\w{4}_(\d{8}T\d{6})"), _SECOND),
    (re.compile(r"S1[A-D]_(?:IW|EW|SM|S\d)_(\d{8}T\d{6})_"), _SECOND),
    (re.compile(r"S3[A-D]_(?:OL|SL|SR|SY)_[12]_\w{6}_(\d{8}T\d{6})"), _SECOND),
    # Sentinel-2 and Landsat of others: MAJA, Sen2Like, sen2r, FORCE, Landsat's ARD and orders, DEA, Sentinel Hub.
    (re.compile(r"(?:SENTINEL2|LANDSAT\d|VENUS|SPOT\d)[A-Z\d-]*_(\d{8}-\d{6})-\d+_L\d"), "%Y%m%d-%H%M%S"),
    (re.compile(r"(?<![A-Z0-9])L2[FH]_T\d\d[A-Z]{3}_(\d{8})_"), _DAY),
    (re.compile(r"(?<![A-Z0-9])S2[A-D][12][AC]_(\d{8})_\d{3}_"), _DAY),
    (re.compile(r"(?<!\d)(\d{8})_LEVEL2_(?:SEN2|LND0)\w_"), _DAY),
    (re.compile(r"L[COTEM]\d\d_(?:CU|AK|HI)_\d{6}_(\d{8})_\d{8}_"), _DAY),
    (re.compile(r"(?<![A-Z0-9])L[COTEM]\d{8}(\d{8})\d\d(?:T1|T2|RT)"), _DAY),
    (re.compile(r"(?<![A-Z0-9])GA_(?:LS|S2)\w+_[\d-]+_\w{5,6}_(\d{4}-\d\d-\d\d)(?!\d)"), "%Y-%m-%d"),
    (re.compile(r"(\d{4}-\d\d-\d\d)-\d\d.\d\d_\d{4}-\d\d-\d\d-\d\d.\d\d_(?:SENTINEL|LANDSAT)"), "%Y-%m-%d"),
    # Planet, RapidEye, Maxar, Pléiades and SPOT, CBERS and Amazônia, Resourcesat, Gaofen.
    (re.compile(r"(?<!\d)(\d{8}_\d{6})_(?:\w\w_)?(?:\w{4}_[13][AB](?![A-Z0-9])|SSC\d)"), "%Y%m%d_%H%M%S"),
    (re.compile(r"(?<!\d)\d{7}_(\d{4}-\d\d-\d\d)_RE\d_"), "%Y-%m-%d"),
    (re.compile(r"(?<![A-Z0-9])(\d\d[A-Z]{3}\d{8})-[A-Z]\d[A-Z]{2}-"), "%y%b%d%H%M%S"),
    (re.compile(r"(?<![A-Z0-9])(?:WV0[1-4]|GE01|QB02|IK01)_(\d{14})"), _PLAIN_SECOND),
    (re.compile(r"(?:PHR1[AB]|PNEO\d|SPOT[67])_\w{1,6}_(\d{14})"), _PLAIN_SECOND),
    (re.compile(r"(?:CBERS|AMAZONIA)_\w{1,2}_\w{3,5}_(\d{8})_"), _DAY),
    (re.compile(r"(?<![A-Z0-9])R2[A-Z]?(\d\d[A-Z]{3}\d{4})"), "%d%b%Y"),
    (re.compile(r"(?<![A-Z0-9])(?:GF|ZY|HJ)\w+_E[\d.]+_[NS][\d.]+_(\d{8})_"), _DAY),
    # MODIS and VIIRS, also of AppEEARS, ASTER, EMIT, EnMAP, PRISMA, NAIP.
    (re.compile(r"(?:M[OYC]D|V(?:NP|J1|J2))\w+\.A(\d{7})(?!\d)"), _DAY_OF_YEAR),
    (re.compile(r"(?:M[OYC]D|V(?:NP|J1|J2)|HLS)[\w.]+_DOY(\d{7})"), _DAY_OF_YEAR),
    (re.compile(r"AST_\w{3}_00[34](\d{14})_"), "%m%d%Y%H%M%S"),
    (re.compile(r"EMIT_L\w+?_\d{3}_(\d{8}T\d{6})"), _SECOND),
    (re.compile(r"ENMAP\d\d-\w+-DT\d+_(\d{8}T\d{6})"), _SECOND),
    (re.compile(r"PRS_L\w+_(\d{14})_\d{14}_"), _PLAIN_SECOND),
    (re.compile(r"(?<![A-Z0-9])M_\d{4,7}_[NS][EW]_\d\d_\w+?_(\d{8})(?!\d)"), _DAY),
)
"""What the names of products look like in capitals, and the form of the time in them."""
TIME_TAGS = (
    *("ACQUISITIONDATETIME", "DATETIME", "SENSING_TIME", "DATATAKE_SENSING_START", "PRODUCT_START_TIME"),
    *("ACQUISITION_DATETIME", "ACQUISITION_TIME", "ACQUIRED", "DATE_ACQUIRED", "ACQUISITION_DATE", "ACQUISITIONDATE"),
)
"""Tags that tell when an image was taken, exact ones first."""
FILE_TIME_TAG = "TIFFTAG_DATETIME"
"""Tag that mostly tells when a file was written."""


def read_acquisition_time(path: str) -> TimeSpan | None:
    """Return when the image in a file was taken, in UTC.

    Tags that say so take precedence over the name of the product. The tag of TIFF comes last, and counts only where
    the file isn't named as the product of a satellite: programs that convert files write there when they did so.

    Returns:
        None if neither tells.
    """
    with gdal_environment(path):
        file = open_source_raster(path)
        tags = {**read_tags(file), **read_tags(file, domain="IMAGERY")}
    named = {name.upper(): text for name, text in tags.items()}
    stated = (found for name in TIME_TAGS if (found := _parse_time(named.get(name, ""))))
    found = next(stated, None) or _parse_time_in_name(path)
    if found is None and not names_satellite(PurePath(path).name):
        found = _parse_time(named.get(FILE_TIME_TAG, ""))
    return None if found is None else TimeSpan.at(found)


def _parse_time(text: str) -> datetime | None:
    """Return the time in a tag in UTC; None for anything else, since the time only describes the scene."""
    try:
        # TIFF writes colons in the date.
        text = re.sub(r"^(\d{4}):(\d\d):(\d\d)", r"\1-\2-\3", text.partition(";")[0])  # mosaics list several
        return to_utc(datetime.fromisoformat(text))
    except ValueError:
        return None


def _parse_time_in_name(path: str) -> datetime | None:
    for pattern, form in _NAME_PATTERNS:
        for found in pattern.finditer(path.upper()):
            with suppress(ValueError):  # digits that are no date
                day = datetime.strptime(found[1], form).replace(tzinfo=UTC)
                if pattern in (_LANDSAT, _OLD_LANDSAT):
                    return datetime.combine(day, _read_landsat_time(path, found[0]))
                return day
    return None


def _read_landsat_time(path: str, product: str) -> time:
    """Return the time of day of a Landsat product from the metadata file that comes with it; midnight without one."""
    text = "" if is_remote(path) else read_landsat_metadata(path, product)[1].get("SCENE_CENTER_TIME", "")
    found = re.match(r"\d\d:\d\d:\d\d", text)
    return time.fromisoformat(found[0] if found else "00:00:00").replace(tzinfo=UTC)
