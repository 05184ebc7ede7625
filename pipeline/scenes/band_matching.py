"""Which band of a source is which band of the model."""

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
_SENSOR_NAMES = {
    "Sentinel-2": re.compile(r"(?<![A-Z0-9])(S2[ABC]?(?![A-Z0-9])|S2[ABC]_|T\d\d[A-Z]{3}_\d{8}T)", re.IGNORECASE),
    "Landsat 8/9": re.compile(r"(?<![A-Z0-9])L[COT]0[89]", re.IGNORECASE),
    "Landsat 4-7": re.compile(r"(?<![A-Z0-9])L[TEM]0[4-7]", re.IGNORECASE),
}
_BAND_NUMBER = re.compile(r"(?<![A-Z0-9])B(?:AND)?[ _-]?0*(8A|\d{1,2})(?![A-Z0-9])", re.IGNORECASE)
_FIX = "name the bands in the model's order with --bands (numbers, descriptions or file names)"


@dataclass(frozen=True)
class BandNeed:
    """A band that the model needs: its name, its centre ``wavelength`` in µm and other names it goes by."""

    name: str
    wavelength: float | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class BandCandidate:
    """A band of a source. ``labels`` are what it is called, ``stem`` names its file or asset.

    ``alone``: its file has no other band. ``described``: more than a colour interpretation names it.
    ``pixel_size``, in one unit for all bands of a source, tells equal bands of several resolutions apart;
    ``wavelength`` is the centre in µm. ``scale``, ``offset`` and ``nodata`` are what a catalogue says, None
    where it is silent.
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

    @property
    def names(self) -> tuple[str, ...]:
        """What the band is called; a band that is alone in its file and says nothing is called as the file."""
        return self.labels or ((self.stem,) if self.is_only_band else ())

    @property
    def number(self) -> str | None:
        """The sensor's number of the band ("4", "8A") in its description, or else its file name."""
        for text in self.labels if self.is_described else [self.stem] if self.is_only_band else []:
            if found := _BAND_NUMBER.findall(text):
                return str(found[-1]).upper()
        return None

    def __str__(self) -> str:
        name = self.labels[0] if self.labels else f"band {self.index}"
        return name if self.is_only_band and self.is_described else f"{self.stem}: {name}"


def match_bands(
    needs: Sequence[BandNeed], candidates: Sequence[BandCandidate], requested: Sequence[str], origin: str
) -> tuple[list[BandCandidate], list[str]]:
    """The candidate for each need, in order, and warnings about what was assumed.

    Tried in turn: the user's request; names; the band numbers of Sentinel-2 and Landsat in descriptions and
    file names (``origin``, the name of the source, helps to tell them apart); the position in one file that
    describes nothing. Raises ``InputError`` where bands are missing or more than one fits.
    """
    if requested:
        return _match_by_request(needs, candidates, requested), []
    if named := _match_by_name(needs, candidates):
        return named, []
    numbered, warnings = _match_by_number(needs, candidates, origin)
    if numbered:
        return numbered, warnings
    one_file = len({c.path for c in candidates}) == 1
    if one_file and len(candidates) == len(needs) and not any(c.is_described for c in candidates):
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
    for wanted in requested:
        key = wanted.strip().casefold()
        fitting = [c for c in candidates if key in (*(name.casefold() for name in c.labels), c.stem.casefold())]
        if one_file and key.isdigit():
            fitting = [c for c in candidates if c.index == int(key)]
        if not fitting and (number := _BAND_NUMBER.fullmatch(key)):
            fitting = [c for c in candidates if c.number == number[1].upper()]
        if not fitting:
            raise InputError(
                f"no band {wanted!r}",
                got=_join_names(map(str, candidates)),
                expected="a number of the file's bands, a description or a file name",
                fix="correct --bands",
            )
        chosen.append(_pick_best(fitting, wanted, None))
    return chosen


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
    needs: Sequence[BandNeed], candidates: Sequence[BandCandidate], origin: str
) -> tuple[list[BandCandidate] | None, list[str]]:
    numbers = {c.number for c in candidates}
    text = " ".join([origin, *(c.stem for c in candidates)])
    known = [sensor for sensor, pattern in _SENSOR_NAMES.items() if pattern.search(text)]
    if not known and numbers & {"8A", "12"}:
        known = ["Sentinel-2"]
    answers: dict[str, tuple[BandCandidate, ...]] = {}
    for sensor in known or _SENSORS:
        found = [band for need in needs if (band := _find_by_number(need, candidates, _SENSORS[sensor]))]
        if len(found) == len(needs):
            answers[sensor] = tuple(found)
    if not answers:
        return None, []
    if len(set(answers.values())) > 1:
        raise InputError(
            f"the band numbers of {origin} have more than one meaning",
            got=_join_names(sorted(number for number in numbers if number)),
            expected=f"the bands of one of {', '.join(answers)}",
            fix=_FIX,
        )
    sensor, chosen = next(iter(answers.items()))
    if known or len(answers) > 1:
        return list(chosen), []
    return list(chosen), [f"{origin} names no sensor: its band numbers are taken for those of {sensor}"]


def _find_by_number(need: BandNeed, candidates: Sequence[BandCandidate], table: dict[str, str]) -> BandCandidate | None:
    for name in (need.name, *need.aliases):
        for number in table.get(_canonical_name(name), "").split():
            if fitting := [c for c in candidates if c.number == number]:
                return _pick_best(fitting, need.name, need.wavelength)
    return None


def _pick_best(fitting: Sequence[BandCandidate], name: str, wavelength: float | None) -> BandCandidate:
    """The best of bands that fit alike.

    Nearest in wavelength, then of the finest pixels, then not part of a composite, then in the file or asset
    of that name. Raises ``InputError`` when none is best.
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
    name = label.casefold()
    return _SYNONYMS.get(name, name)


def _join_names(names: Iterable[str]) -> str:
    listed = list(names)
    return (", ".join(listed[:12]) + (", …" if len(listed) > 12 else "")) or "none"
