"""When a scene was acquired, by the tags or the name of its files."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from seamline.pipeline.raster_io.gdal import gdal_environment, read_tags
from seamline.pipeline.scenes.band_files import open_source_raster
from seamline.pipeline.scenes.products import read_landsat_metadata

_NAME_PATTERNS = (
    # Landsat Collection 2: sensor and level, path and row, day of acquisition, day of processing.
    re.compile(r"L[COTEM]\d\d_L\w{3}_\d{6}_(?P<day>\d{8})_\d{8}_\d\d_(?:T1|T2|RT)"),
    # Sentinel-2 products, and their band files: tile, time of acquisition, band.
    re.compile(r"S2[ABCD]_MSIL\d\w_(?P<day>\d{8})T(?P<time>\d{6})"),
    re.compile(r"T\d\d[A-Z]{3}_(?P<day>\d{8})T(?P<time>\d{6})_"),
)


def to_utc(time: datetime) -> datetime:
    """Return a time in UTC; a time without a zone is taken as UTC.

    Raises:
        ValueError: In UTC it lies before the year 1 or after 9999.
    """
    try:
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except OverflowError as error:
        raise ValueError(f"{time} is no time in UTC") from error


def read_acquisition_time(path: str) -> datetime | None:
    """Return when the image in a file was taken, in UTC.

    Tags that say so take precedence over the name of the product. The tag of TIFF comes last: programs that convert
    files write there when they did so.

    Returns:
        None if neither tells.
    """
    with gdal_environment(path):
        file = open_source_raster(path)
        tags = {**read_tags(file), **read_tags(file, domain="IMAGERY")}
    return (
        _parse_time(tags.get("ACQUISITIONDATETIME", ""))
        or _parse_time(tags.get("datetime", ""))
        or _parse_time_in_name(path)
        or _parse_time(tags.get("TIFFTAG_DATETIME", ""))
    )


def _parse_time(text: str) -> datetime | None:
    """Return the time in a tag in UTC; None for anything else, since the time only describes the scene."""
    try:
        # TIFF writes colons in the date.
        return to_utc(datetime.fromisoformat(re.sub(r"^(\d{4}):(\d\d):(\d\d)", r"\1-\2-\3", text)))
    except ValueError:
        return None


def _parse_time_in_name(path: str) -> datetime | None:
    for pattern in _NAME_PATTERNS:
        for found in pattern.finditer(path):
            parts = found.groupdict()
            time = parts["time"] if "time" in parts else _read_landsat_time(path, found[0])
            try:
                return datetime.strptime(parts["day"] + time, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
            except ValueError:
                continue  # digits that are no date
    return None


def _read_landsat_time(path: str, product: str) -> str:
    """Return the time of a Landsat product (HHMMSS) from the metadata file beside its bands; midnight without one."""
    text = read_landsat_metadata(path, product)[1].get("SCENE_CENTER_TIME", "")
    found = re.match(r"(\d\d):(\d\d):(\d\d)", text)
    return "".join(found.groups()) if found else "000000"
