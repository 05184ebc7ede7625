"""Matching the bands of a source with the bands that a model needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from seamline.pipeline.common.errors import InputError

_SYNONYMS = {
    "b": "blue",
    "g": "green",
    "r": "red",
    "n": "nir",
    "nir08": "nir",
    "swir1": "swir16",
    "swir2": "swir22",
}
_SENSORS: dict[str, dict[str, str]] = {
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
_SENSORS["HLS S30"] = _SENSORS["Sentinel-2"] | {"nir": "8A 8"}
# The Multispectral Scanner has no blue, and two near infrareds that are not those of the others.
_SENSORS["Landsat 1-3 MSS"] = {"green": "4", "red": "5"}
_SENSORS["Landsat 4-5 MSS"] = {"green": "1", "red": "2"}
_WELL_KNOWN = ("Sentinel-2", "Landsat 8/9", "Landsat 4-7")
"""Sensors whose numbers are understood where no sensor is named."""
_SENSOR_NAMES = {
    "HLS S30": re.compile(r"HLS2?[._-]?S30", re.IGNORECASE),
    # Satellite, mission, or the tile of a granule.
    "Sentinel-2": re.compile(
        r"(?<![A-Z0-9])(S2[A-D]?(?![A-Z0-9])|S2[A-D]_|T\d\d[C-X][A-Z]{2}(?![A-Z0-9])|SENTINEL[-_ ]?2)", re.IGNORECASE
    ),
    # Of the sensors whose surface reflectance is named SR_B1 to SR_B7, only Landsat 8 and 9 have an SR_B6.
    "Landsat 8/9": re.compile(
        r"(?<![A-Z0-9])(L[COT]0[89]|L[COT][89]\d{13}|LANDSAT[-_ ]?[89](?!\d)|HLS2?[._-]?L30|SR_B6)", re.IGNORECASE
    ),
    "Landsat 4-7": re.compile(r"(?<![A-Z0-9])(L[TE]0[4-7]|L[TE][4-7]\d{13}|LANDSAT[-_ ]?[4-7](?!\d))", re.IGNORECASE),
    "Landsat 1-3 MSS": re.compile(r"(?<![A-Z0-9])(LM0[1-3]|LM[1-3]\d{13})", re.IGNORECASE),
    "Landsat 4-5 MSS": re.compile(r"(?<![A-Z0-9])(LM0[45]|LM[45]\d{13})", re.IGNORECASE),
}
_SENSOR_NUMBERS = {
    "Sentinel-2": {"8A", *map(str, range(1, 13))},
    "HLS S30": {"8A", *map(str, range(1, 13))},
    "Landsat 8/9": set(map(str, range(1, 12))),
    "Landsat 4-7": {"61", "62", *map(str, range(1, 9))},
    "Landsat 1-3 MSS": set(map(str, range(4, 9))),
    "Landsat 4-5 MSS": set(map(str, range(1, 5))),
}
"""All numbers that bands of a sensor have."""
_WHOLE_STACKS = {"Landsat 8/9": (7, 9, 11), "Landsat 4-7": (7, 8), "Landsat 4-5 MSS": (4,)}
"""How many bands a stack has whose positions are the numbers of its sensor."""
_BAND_NUMBER = re.compile(r"(?<![A-Z0-9])B(?:AND)?[ _-]?0*(8A|\d{1,2})(?![A-Z0-9])", re.IGNORECASE)
_COUNTED = re.compile(r"B(?:AND)?[ _-]?0*(\d+)(?![A-Z0-9])", re.IGNORECASE)
"""Begin of a description that may be no more than the position of a band in its file."""
_BY_WAVELENGTH = (
    *("coastal", "blue", "green", "red", "rededge", "rededge071", "rededge075", "rededge078"),
    *("nir", "nir09", "cirrus", "swir16", "swir22", "lwir", "lwir11", "lwir12"),
)
_COLOURS = 4
"""Red, green, blue and near infrared."""
_FIX = "name the bands in the model's order with --bands (numbers, descriptions or file names)"


@dataclass(frozen=True)
class BandNeed:
    """A band that the model needs.

    Attributes:
        name: Name of the band in the model.
        wavelength: Centre in µm, if known.
        aliases: Other names of the band.
    """

    name: str
    wavelength: float | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class BandCandidate:
    """A band of a source.

    Attributes:
        path: File that holds the band.
        index: Index of the band in the file, counted from 1.
        labels: Names of the band, the best one first.
        stem: Name of the file without its ending, or key of the STAC asset.
        is_only_band: Whether the file has no other band.
        is_described: Whether a description names the band, and not just a colour interpretation.
        is_alpha: Whether it seems to be an alpha band, which is taken only if the user names it.
        pixel_size: Edge of a pixel in a unit that all bands of a source share; tells resolutions of one band apart.
        wavelength: Centre in µm, if known.
        scale: Scale in the catalogue, or None.
        offset: Offset in the catalogue, or None.
        nodata: Nodata value in the catalogue, or None.
    """

    path: str
    index: int
    labels: tuple[str, ...]
    stem: str
    is_only_band: bool
    is_described: bool
    pixel_size: float | None = None
    wavelength: float | None = None
    scale: float | None = None
    offset: float | None = None
    nodata: float | None = None
    is_alpha: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The labels of the band. A band without labels that is alone in its file has the name of the file."""
        return self.labels or ((self.stem,) if self.is_only_band else ())

    @property
    def number(self) -> str | None:
        """The sensor's number of the band, such as "4" or "8A".

        It is taken from the labels if they describe the band, otherwise from the name of a file that has no other band.
        """
        texts: tuple[str, ...] = ()
        if self.is_described:
            texts = self.labels
        elif self.is_only_band:
            texts = (self.stem,)
        for text in texts:
            if found := _BAND_NUMBER.findall(text):
                return str(found[-1]).upper()
        return None

    def __str__(self) -> str:
        name = self.labels[0] if self.labels else f"band {self.index}"
        return name if self.is_only_band and self.is_described else f"{self.stem}: {name}"


def match_bands(
    needs: Sequence[BandNeed],
    candidates: Sequence[BandCandidate],
    requested: Sequence[str],
    origin: str,
    names: Sequence[str] = (),
) -> tuple[list[BandCandidate], list[str]]:
    """Return the band of the source for each band that the model needs.

    These ways are tried in turn: the user's request; names; band numbers of Sentinel-2 and Landsat in descriptions and
    file names, unless they may be positions; the order of the bands in a single file that describes nothing, where
    files have only one order.

    Args:
        needs: Bands of the model, in order.
        candidates: Bands of the source.
        requested: What the user named with ``--bands``; empty if nothing.
        origin: Name of the source, which helps to recognise the sensor.
        names: Other texts that may name it, such as those of a catalogue.

    Returns:
        The chosen bands in the order of ``needs``, and warnings about what was assumed.

    Raises:
        InputError: Bands are missing, or more than one fits.
    """
    if requested:
        chosen = _match_by_request(needs, candidates, requested)
        return chosen, _tell_repeated(needs, chosen)
    candidates = [c for c in candidates if not c.is_alpha]
    if named := _match_by_name(needs, candidates):
        return named, []
    numbered, warnings = _match_by_number(needs, candidates, origin, names)
    if numbered:
        return numbered, warnings
    if _are_in_usual_order(needs, candidates, origin):
        names = ", ".join(need.name for need in needs)
        return list(candidates), [
            f"{origin} does not name its bands: they are taken in the order {names}; --bands says otherwise"
        ]
    raise InputError(
        f"the bands of {origin} do not match the model",
        got=_join_names(map(str, candidates)),
        expected=_join_names(need.name for need in needs),
        fix=_FIX,
    )


def recognize_sensors(text: str) -> list[str]:
    """Return the sensors that are named in a text, such as the name of a product."""
    known = [sensor for sensor, pattern in _SENSOR_NAMES.items() if pattern.search(text)]
    # Harmonized products name the tile of Sentinel-2, also those of Landsat.
    return [sensor for sensor in known if sensor != "Sentinel-2"] if "HLS" in text.upper() and len(known) > 1 else known


def may_be_sentinel_2(bands: Iterable[BandCandidate]) -> bool:
    """Return whether bands have numbers, and all of them could be those of Sentinel-2."""
    numbers = {band.number for band in bands} - {None}
    return bool(numbers) and numbers <= _SENSOR_NUMBERS["Sentinel-2"]


def find_sensor_number(band: BandCandidate, sensor: str) -> str | None:
    """Return the number of a band in a sensor, by its own number or by its common name; None if neither tells."""
    table = _SENSORS[sensor]
    named = (table[name].split()[0] for name in map(_canonical_name, band.names) if name in table)
    return band.number or next(named, None)


def _are_in_usual_order(needs: Sequence[BandNeed], candidates: Sequence[BandCandidate], origin: str) -> bool:
    """Return whether the bands of a file that describes nothing are surely those that the model needs, in its order.

    Stacks of five bands and more are ordered by wavelength, as nearly all models are. Four bands are found as red,
    green, blue, near infrared and as blue, green, red, near infrared. The stacks of a known sensor have bands left out
    or moved. A colour interpretation that says another order than the model's leaves it open.
    """
    if len({c.path for c in candidates}) > 1 or len(candidates) != len(needs):
        return False
    if any(c.is_described for c in candidates) or any(pattern.search(origin) for pattern in _SENSOR_NAMES.values()):
        return False
    known = [_canonical_name(need.name) for need in needs]
    if not all(name in _BY_WAVELENGTH for name in known):
        return True  # the model's bands have no meaning of their own
    positions = [_BY_WAVELENGTH.index(name) for name in known]
    for name, candidate in zip(known, candidates, strict=True):
        if any(label in _BY_WAVELENGTH and label != name for label in map(_canonical_name, candidate.labels)):
            return False
    return len(needs) > _COLOURS and positions == sorted(positions)


def _match_by_request(
    needs: Sequence[BandNeed], candidates: Sequence[BandCandidate], requested: Sequence[str]
) -> list[BandCandidate]:
    if len(requested) != len(needs):
        raise InputError(
            "--bands does not fit the model",
            got=f"{len(requested)} bands ({', '.join(requested)})",
            expected=f"{len(needs)} ({', '.join(need.name for need in needs)})",
            fix="name one band for each, in this order",
        )
    one_file = len({c.path for c in candidates}) == 1
    chosen = []
    for request in requested:
        key = request.strip().casefold()
        fitting = [c for c in candidates if key in (*(name.casefold() for name in c.labels), c.stem.casefold())]
        if one_file and key.isdigit():
            fitting = [c for c in candidates if c.index == int(key)]
        if not fitting and (number := _BAND_NUMBER.fullmatch(key.removeprefix("sr_"))):
            fitting = [c for c in candidates if c.number == number[1].upper()]
        if not fitting:
            raise InputError(
                f"no band {request!r}",
                got=_join_names(map(str, candidates)),
                expected="a number of the file's bands, a description, a file name, or the sensor's name of a band",
                fix="correct --bands",
            )
        chosen.append(_pick_best(fitting, request, None))
    return chosen


def _tell_repeated(needs: Sequence[BandNeed], chosen: Sequence[BandCandidate]) -> list[str]:
    """Return a warning for each band that was chosen for several bands of the model."""
    uses: dict[tuple[str, int], list[str]] = {}
    for need, band in zip(needs, chosen, strict=True):
        uses.setdefault((band.path, band.index), []).append(need.name)
    repeated = {place: names for place, names in uses.items() if len(names) > 1}
    return [f"--bands gives band {index} of {path} for {', '.join(names)}" for (path, index), names in repeated.items()]


def _match_by_name(needs: Sequence[BandNeed], candidates: Sequence[BandCandidate]) -> list[BandCandidate] | None:
    chosen = []
    for need in needs:
        aliases = {alias.casefold() for alias in need.aliases}
        canonical = {_canonical_name(name) for name in (need.name, *need.aliases)}
        fitting = (
            [c for c in candidates if need.name.casefold() in map(str.casefold, c.names)]
            or [c for c in candidates if aliases.intersection(map(str.casefold, c.names))]
            or [c for c in candidates if canonical.intersection(map(_canonical_name, c.names))]
        )
        if not fitting:
            return None
        chosen.append(_pick_best(fitting, need.name, need.wavelength))
    return chosen


def _match_by_number(
    needs: Sequence[BandNeed], candidates: Sequence[BandCandidate], origin: str, names: Sequence[str]
) -> tuple[list[BandCandidate] | None, list[str]]:
    text = " ".join([origin, *names, *(c.stem for c in candidates), *(label for c in candidates for label in c.labels)])
    known = recognize_sensors(text)
    numbers = {c.number for c in candidates if c.number}
    if not known and numbers & {"8A", "12"}:
        known = ["Sentinel-2"]
    answers: dict[str, tuple[BandCandidate, ...]] = {}
    for sensor in known or _WELL_KNOWN:
        if not _may_be_numbers_of(sensor, candidates):
            continue
        found = [band for need in needs if (band := _find_by_number(need, candidates, _SENSORS[sensor]))]
        if len(found) == len(needs):
            answers[sensor] = tuple(found)
    if not answers:
        return None, []
    if len(set(answers.values())) > 1:
        raise InputError(
            f"the band numbers of {origin} have more than one meaning",
            got=_join_names(sorted(numbers)),
            expected=f"the bands of one of {', '.join(answers)}",
            fix=_FIX,
        )
    if not known and _is_run(numbers):
        return None, []
    sensor, chosen = next(iter(answers.items()))
    if known or len(answers) > 1:
        return list(chosen), []
    return list(chosen), [f"{origin} names no sensor: its band numbers are taken for those of {sensor}"]


def _may_be_numbers_of(sensor: str, candidates: Sequence[BandCandidate]) -> bool:
    """Return whether the numbers of some bands are those of a sensor, and not their positions in a file.

    Positions go beyond the numbers of the sensor, miss its 8A, or count all bands of a file that is not known to hold
    all bands of the sensor in their order.
    """
    numbered = [c for c in candidates if c.number]
    numbers = {str(c.number) for c in numbered}
    if not numbers <= _SENSOR_NUMBERS[sensor]:
        return False
    if "8A" in _SENSOR_NUMBERS[sensor] - numbers and numbers >= set(map(str, range(1, 10))):
        return False
    is_counted = _is_run(numbers) and all(
        not c.is_only_band and c.number == str(c.index) and any(map(_COUNTED.match, c.labels)) for c in numbered
    )
    return not is_counted or len(numbers) in _WHOLE_STACKS.get(sensor, ())


def _is_run(numbers: set[str]) -> bool:
    """Return whether numbers are 1, 2, 3, … without a gap, as positions are."""
    return numbers == set(map(str, range(1, len(numbers) + 1)))


def _find_by_number(need: BandNeed, candidates: Sequence[BandCandidate], table: dict[str, str]) -> BandCandidate | None:
    """Return the band with the number that a sensor's table gives for the needed band; None if there is none."""
    for name in (need.name, *need.aliases):
        for number in table.get(_canonical_name(name), "").split():
            if fitting := [c for c in candidates if c.number == number]:
                return _pick_best(fitting, need.name, need.wavelength)
    return None


def _pick_best(fitting: Sequence[BandCandidate], name: str, wavelength: float | None) -> BandCandidate:
    """Return the best of bands that match equally well.

    The order of preference: nearest in wavelength, finest pixels, not part of a composite, in a file or asset of that
    name.

    Raises:
        InputError: Several are equally good.
    """

    def rank(band: BandCandidate) -> tuple[float, float, bool, bool]:
        known = wavelength is not None and band.wavelength is not None
        distance = abs((band.wavelength or 0) - (wavelength or 0)) if known else float("inf")
        names = {name.casefold(), *map(str.casefold, band.labels)}
        return (
            round(distance, 3),
            band.pixel_size or float("inf"),
            not band.is_only_band,
            band.stem.casefold() not in names,
        )

    best, *rest = sorted(fitting, key=rank)
    if rest and rank(rest[0]) == rank(best):
        tied = [str(band) for band in fitting if rank(band) == rank(best)]
        raise InputError(f"more than one band is {name!r}", got=_join_names(tied), expected="one", fix=_FIX)
    return best


def _canonical_name(label: str) -> str:
    """Return the STAC common name of a band for its short and older names."""
    name = label.casefold()
    return _SYNONYMS.get(name, name)


def _join_names(names: Iterable[str]) -> str:
    """Return up to twelve names as one text."""
    listed = list(names)
    return (", ".join(listed[:12]) + (", …" if len(listed) > 12 else "")) or "none"
