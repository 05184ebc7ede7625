"""Satellite sensors: their names, the numbers of their bands, and wavelengths that common names of bands stand for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Set

_SYNONYMS = {
    "b": "blue",
    "g": "green",
    "r": "red",
    "n": "nir",
    "nir08": "nir",
    "swir1": "swir16",
    "swir2": "swir22",
}
NUMBERS_BY_NAME: dict[str, dict[str, str]] = {
    "Sentinel-2": {
        "coastal": "1",
        "blue": "2",
        "green": "3",
        "red": "4",
        "rededge071": "5",
        "rededge075": "6",
        "rededge078": "7",
        "nir": "8 8A",
        "nir09": "9",
        "swir16": "11",
        "swir22": "12",
    },
    "Landsat 8/9": {
        "coastal": "1",
        "blue": "2",
        "green": "3",
        "red": "4",
        "nir": "5",
        "swir16": "6",
        "swir22": "7",
        "pan": "8",
        "cirrus": "9",
        "lwir11": "10",
        "lwir12": "11",
    },
    "Landsat 4-7": {
        "blue": "1",
        "green": "2",
        "red": "3",
        "nir": "4",
        "swir16": "5",
        "lwir": "6",
        "swir22": "7",
    },
}
# The Harmonized Landsat Sentinel-2 product takes the narrow near infrared of Sentinel-2, which is like Landsat's.
NUMBERS_BY_NAME["HLS S30"] = NUMBERS_BY_NAME["Sentinel-2"] | {"nir": "8A 8"}
# The Multispectral Scanner has no blue, and two near infrareds that are not those of the others.
NUMBERS_BY_NAME["Landsat 1-3 MSS"] = {"green": "4", "red": "5"}
NUMBERS_BY_NAME["Landsat 4-5 MSS"] = {"green": "1", "red": "2"}
WELL_KNOWN = ("Sentinel-2", "Landsat 8/9", "Landsat 4-7")
"""Sensors whose numbers are understood where no sensor is named."""
_SENSOR_NAMES = {
    "HLS S30": re.compile(r"HLS2?[._-]?S30", re.IGNORECASE),
    # Satellite, mission, or the tile of a granule.
    "Sentinel-2": re.compile(
        r"(?<![A-Z0-9])(S2[A-D]?(?![A-Z0-9])|S2[A-D]_|T\d\d[C-X][A-Z]{2}(?![A-Z0-9])|SENTINEL[-_ ]?2)", re.IGNORECASE
    ),
    # Of the sensors whose surface reflectance is named SR_B1 to SR_B7, only Landsat 8 and 9 have an SR_B6. Surface
    # temperature is ST_B10 there, and ST_B6 of Landsat 4 to 7.
    "Landsat 8/9": re.compile(
        r"(?<![A-Z0-9])(L[COT]0[89]|L[COT][89]\d{13}|LANDSAT[-_ ]?[89](?!\d)|HLS2?[._-]?L30|SR_B6|ST_B10)",
        re.IGNORECASE,
    ),
    "Landsat 4-7": re.compile(
        r"(?<![A-Z0-9])(L[TE]0[4-7]|L[TE][4-7]\d{13}|LANDSAT[-_ ]?[4-7](?!\d)|ST_B6)", re.IGNORECASE
    ),
    "Landsat 1-3 MSS": re.compile(r"(?<![A-Z0-9])(LM0[1-3]|LM[1-3]\d{13})", re.IGNORECASE),
    "Landsat 4-5 MSS": re.compile(r"(?<![A-Z0-9])(LM0[45]|LM[45]\d{13})", re.IGNORECASE),
}
ALL_NUMBERS = {
    "Sentinel-2": {"8A", *map(str, range(1, 13))},
    "HLS S30": {"8A", *map(str, range(1, 13))},
    "Landsat 8/9": set(map(str, range(1, 12))),
    "Landsat 4-7": {"61", "62", *map(str, range(1, 9))},
    "Landsat 1-3 MSS": set(map(str, range(4, 9))),
    "Landsat 4-5 MSS": set(map(str, range(1, 5))),
}
"""All numbers that bands of a sensor have."""
WHOLE_STACKS = {"Landsat 8/9": (7, 9, 11), "Landsat 4-7": (7, 8), "Landsat 4-5 MSS": (4,)}
"""How many bands a stack has whose positions are the numbers of its sensor."""

_OTHER_SENSORS = re.compile(
    r"(?<![A-Z0-9])((?:LISS[-_ ]?(?:[34]|III|IV)?|AWIFS|RESOURCESAT|CBERS|AMAZONIA|ASTER|MODIS|VIIRS|AVHRR"
    r"|SPOT[-_ ]?\d|PLEIADES|PHR(?:1[AB])?|PNEO|WORLDVIEW|WV0?[1-4]|GEOEYE|GE01|QUICKBIRD|QB02|IKONOS|IK01|GAOFEN"
    r"|GF[-_ ]?[1-7]|HJ[-_ ]?[12]|ZY[-_ ]?[13]|PLANETSCOPE|PSSCENE|SUPERDOVE|SKYSAT|RAPIDEYE|SENTINEL[-_ ]?3|OLCI"
    r"|HYPERION|EO1|ENMAP|PRISMA|EMIT)(?![A-Z])|AST_?(?:L1|0\d)|M[OYC]D\d\d|VNP\d\d|S3[A-D]_|PRS_L)",
    re.IGNORECASE,
)
"""Names of sensors whose bands have numbers with other meanings, which are not known here."""
_OTHER_SATELLITES = re.compile(
    r"(?<![A-Z0-9])(?:S[1-3][A-D](?![A-Z])|SENTINEL[-_ ]?1|LANDSAT|L[COTEM]0?[1-9](?![A-Z])|HLS|PLANET)|_LEVEL[23]_",
    re.IGNORECASE,
)
"""Names of satellites and their products that tell nothing of the numbers of bands."""
_OWN_NUMBER = re.compile(r"(?<![A-Z0-9])B(?:0\d|8A|1[12])(?![A-Z0-9])", re.IGNORECASE)
"""Number of a band as it is written of Sentinel-2 and of hardly another sensor."""
_BAND_NUMBER = re.compile(r"(?<![A-Z0-9])B(?:AND)?[ _-]?0*(8A|\d{1,2})(?![A-Z0-9])", re.IGNORECASE)
_NO_REFLECTANCE = re.compile(
    r"(?<![A-Z0-9])(?:ST|QA|MASK|MSK|DETFOO|QUALIT|CLASSI|EMIS|EMSD)[ _-]?B(?:AND)?[ _-]?\d"
    r"|(?<![A-Z0-9])B(?:AND)?[ _-]?(?:\d{1,2}|8A)[ _-]?(?:QA|MASK|QUALITY|CLOUDS?)(?:[ _-]?\d+m?)?$",
    re.IGNORECASE,
)
"""Temperatures, masks and the like, whose names hold the number of the band that they belong to."""
_WAVELENGTHS = {
    "coastal": (0.40, 0.443, 0.45),
    "blue": (0.45, 0.49, 0.53),
    "green": (0.51, 0.56, 0.60),
    "yellow": (0.58, 0.60, 0.62),
    "red": (0.62, 0.66, 0.69),
    "rededge": (0.69, 0.705, 0.79),
    "rededge071": (0.69, 0.705, 0.73),
    "rededge075": (0.73, 0.74, 0.76),
    "rededge078": (0.76, 0.783, 0.79),
    "nir": (0.76, 0.842, 0.90),
    "nir09": (0.85, 0.945, 1.05),
    "cirrus": (1.35, 1.375, 1.40),
    "swir16": (1.55, 1.61, 1.75),
    "swir22": (2.08, 2.19, 2.35),
    "lwir11": (10.5, 10.9, 11.5),
    "lwir12": (11.5, 12.0, 12.5),
}
"""Least, usual and largest centre in µm of the bands that a common name of STAC stands for."""
_UNITS = {"nanomet": 1e-3, "nm": 1e-3, "micromet": 1.0, "micron": 1.0, "um": 1.0, "µm": 1.0, "μm": 1.0}
_WAVELENGTH_IN_TEXT = re.compile(r"(\d+(?:\.\d+)?) ?(nanomet|nm|micromet|micron|um|µm|μm)", re.IGNORECASE)
_PLAUSIBLE = (0.2, 100.0)
"""Wavelengths in µm; numbers beyond these, and above 100 up to 100,000, are nanometres."""


def to_common_name(label: str) -> str:
    """Return the STAC common name of a band for its short and older names."""
    name = label.casefold()
    return _SYNONYMS.get(name, name)


def recognize_sensors(text: str) -> list[str]:
    """Return the sensors that are named in a text, such as the name of a product."""
    known = [sensor for sensor, pattern in _SENSOR_NAMES.items() if pattern.search(text)]
    # Harmonized products name the tile of Sentinel-2, also those of Landsat.
    return [sensor for sensor in known if sensor != "Sentinel-2"] if "HLS" in text.upper() and len(known) > 1 else known


def find_other_sensor(text: str) -> str | None:
    """Return the name of a sensor in a text whose band numbers are not known here; None if there is none."""
    found = _OTHER_SENSORS.search(text)
    return found[1] if found else None


def names_satellite(text: str) -> bool:
    """Return whether a text, such as the name of a file, names a satellite, a sensor or a product of one."""
    return bool(recognize_sensors(text) or find_other_sensor(text) or _OTHER_SATELLITES.search(text))


def may_be_sentinel_2(numbers: Set[str]) -> bool:
    """Return whether there are numbers of bands, and all of them could be those of Sentinel-2."""
    return bool(numbers) and numbers <= ALL_NUMBERS["Sentinel-2"]


def is_numbered_as_sentinel_2(numbers: Set[str], names: Iterable[str]) -> bool:
    """Return whether bands have the numbers of Sentinel-2, and some of them as hardly another sensor has them.

    Args:
        numbers: All numbers of the bands.
        names: Labels of the bands and names of their files.
    """
    return may_be_sentinel_2(numbers) and any(map(_OWN_NUMBER.search, names))


def parse_band_number(text: str) -> str | None:
    """Return the number in the name of a band, such as "4" of "SR_B4" or "8A" of "B8A"; None if it has none.

    Bands of surface temperature, masks and quality have none.
    """
    found = [] if _NO_REFLECTANCE.search(text) else _BAND_NUMBER.findall(text)
    return str(found[-1]).upper() if found else None


def parse_wavelength(value: object, unit: str = "") -> float | None:
    """Return a wavelength in µm; None if it is none.

    Args:
        value: A number or its text.
        unit: Name of the unit. If there is none, numbers above 100 are nanometres, others micrometres.
    """
    try:
        number = float(str(value))
    except ValueError:
        return None
    name = unit.strip().casefold()
    factor = next((factor for begin, factor in _UNITS.items() if name.startswith(begin)), None)
    if factor is None:
        if name not in {"", "unknown"}:
            return None
        factor = 1.0 if number <= _PLAUSIBLE[1] else _UNITS["nm"]
    return number * factor if _PLAUSIBLE[0] <= number * factor <= _PLAUSIBLE[1] else None


def find_wavelength(text: str) -> float | None:
    """Return the first wavelength in µm that a text states with its unit, such as "665 Nanometers"."""
    found = _WAVELENGTH_IN_TEXT.search(text)
    return parse_wavelength(found[1], found[2]) if found else None


def find_wavelengths(name: str) -> tuple[float, float, float] | None:
    """Return the least, usual and largest centre in µm of bands of this name; None if it is no common name."""
    return _WAVELENGTHS.get(to_common_name(name))
