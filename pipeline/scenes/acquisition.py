"""When a scene was acquired, as its files tell it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from seamline.pipeline.raster_io.gdal import gdal_environment
from seamline.pipeline.scenes.band_files import open_source_raster

_MAX_METADATA = 2**20
"""Characters of a product's metadata that are read; there are some ten thousand."""
_NAME_PATTERNS = (
    # Landsat Collection 2: sensor and level, path and row, acquired, processed. Of the time only the day.
    re.compile(r"L[COTEM]\d\d_L\w{3}_\d{6}_(?P<day>\d{8})_\d{8}_\d\d_(?:T1|T2|RT)"),
    # Sentinel-2 products, and their band files: tile, acquired, band.
    re.compile(r"S2[ABCD]_MSIL\d\w_(?P<day>\d{8})T(?P<time>\d{6})"),
    re.compile(r"T\d\d[A-Z]{3}_(?P<day>\d{8})T(?P<time>\d{6})_"),
)


def read_acquisition_time(path: str) -> datetime | None:
    """When a file was taken, in UTC (as which a time without a zone is taken): by its tags, otherwise by its name."""
    with gdal_environment(path):
        dataset = open_source_raster(path).dataset
        tags = {**dataset.tags(), **dataset.tags(ns="IMAGERY")}
    for name in ("ACQUISITIONDATETIME", "datetime", "TIFFTAG_DATETIME"):
        # TIFF writes the date with colons.
        text = re.sub(r"^(\d{4}):(\d\d):(\d\d)", r"\1-\2-\3", tags.get(name, ""))
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            continue  # a tag may hold anything, and the time is no more than a description
        return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
    return _parse_time_in_name(path)


def _parse_time_in_name(path: str) -> datetime | None:
    for pattern in _NAME_PATTERNS:
        for found in pattern.finditer(path):
            parts = found.groupdict()
            time = parts["time"] if "time" in parts else _read_landsat_time(Path(path), found[0])
            try:
                when = datetime.strptime(parts["day"] + time, "%Y%m%d%H%M%S")
            except ValueError:
                continue
            return when.replace(tzinfo=UTC)
    return None


def _read_landsat_time(path: Path, product: str) -> str:
    """Of a Landsat product, by the metadata beside its files; midnight, as the day is called, where there is none."""
    try:
        with path.with_name(f"{product}_MTL.txt").open(encoding="utf-8") as file:
            found = re.search(r'SCENE_CENTER_TIME = "?(\d\d):(\d\d):(\d\d)', file.read(_MAX_METADATA))
    except (OSError, ValueError):
        found = None
    return "".join(found.groups()) if found else "000000"
