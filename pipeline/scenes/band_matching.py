"""Matching the bands of a source with the bands that a model needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.sensors import (
    ALL_NUMBERS,
    NUMBERS_BY_NAME,
    WELL_KNOWN,
    WHOLE_STACKS,
    find_other_sensor,
    find_wavelengths,
    is_numbered_as_sentinel_2,
    parse_band_number,
    recognize_sensors,
    to_common_name,
)

_COUNTED = re.compile(r"B(?:AND)?[ _-]?0*(\d+)(?![A-Z0-9])", re.IGNORECASE)
"""Begin of a description that may be no more than the position of a band in its file."""
_SHORT_NAME = re.compile(r"(?:sr_)?b(?:and)?[ _-]?(?:8a|\d{1,2})")
_BY_WAVELENGTH = (
    *("coastal", "blue", "green", "red", "rededge", "rededge071", "rededge075", "rededge078"),
    *("nir", "nir09", "cirrus", "swir16", "swir22", "lwir", "lwir11", "lwir12"),
)
_TOLERANCE = 0.05
"""How far the wavelengths of bands may be from what a name or a model says, as a share."""
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
        is_picture: Whether it is part of a picture beside other bands, and is taken only if the user names it.
        pixel_size: Edge of a pixel in a unit that all bands of a source share; tells resolutions of one band apart.
        wavelength: Centre in µm, if known.
        data_type: numpy's name of the type of the pixels, if known.
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
    data_type: str | None = None
    is_alpha: bool = False
    is_picture: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The labels of the band. A band without labels that is alone in its file has the name of the file."""
        return self.labels or ((self.stem,) if self.is_only_band else ())

    @property
    def all_names(self) -> tuple[str, ...]:
        """The labels of the band and the name of its file or asset."""
        return (*self.labels, self.stem)

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
        return next((number for text in texts if (number := parse_band_number(text))), None)

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

    These ways are tried in turn: the user's request; names; band numbers, if a known sensor is named; wavelengths; band
    numbers that may be those of Sentinel-2 or Landsat, unless they may be positions; the order of the bands in a single
    file that describes nothing, where files have only one order. Where wavelengths are known, they have to agree.

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
    offered, candidates = candidates, [c for c in candidates if not (c.is_alpha or c.is_picture)]
    text = " ".join([origin, *names, *(name for c in candidates for name in c.all_names)])
    chosen, warnings = _match_by_evidence(needs, candidates, origin, text)
    if not chosen and _are_in_usual_order(needs, candidates, text):
        order = ", ".join(need.name for need in needs)
        chosen = list(candidates)
        warnings = [f"{origin} does not name its bands: they are taken in the order {order}; --bands says otherwise"]
    if not chosen:
        raise InputError(
            f"the bands of {origin} do not match the model",
            got=_join_names(str(c) for c in offered if not c.is_alpha),
            expected=_join_names(need.name for need in needs),
            fix=_FIX,
        )
    _check_wavelengths(needs, chosen, origin)
    return chosen, warnings


def _match_by_evidence(
    needs: Sequence[BandNeed], candidates: Sequence[BandCandidate], origin: str, text: str
) -> tuple[list[BandCandidate], list[str]]:
    """Return the bands by names, numbers or wavelengths, and warnings; no bands if these do not tell all of them."""
    if named := _match_by_name(needs, candidates):
        return named, []
    numbers, other = {c.number for c in candidates if c.number}, find_other_sensor(text)
    is_sentinel_2 = not other and is_numbered_as_sentinel_2(numbers, (name for c in candidates for name in c.all_names))
    possible = [sensor for sensor in WELL_KNOWN if _may_be_numbers_of(sensor, candidates)]
    known = recognize_sensors(text) or (possible if is_sentinel_2 and possible == ["Sentinel-2"] else [])
    if answers := _ask_sensors(needs, candidates, known, origin):
        return next(iter(answers.values())), []
    if measured := _match_by_wavelength(needs, candidates):
        found = _join_names(f"{need.name} {band.wavelength:g} µm" for need, band in zip(needs, measured, strict=True))
        return measured, [f"the bands of {origin} are chosen by their wavelengths: {found}"]
    answers = {} if known else _ask_sensors(needs, candidates, WELL_KNOWN, origin)
    if not answers or _is_run(numbers):
        return [], []
    if other:
        raise InputError(
            f"the band numbers of {origin} have a meaning that is not known",
            got=f"{_join_names(sorted(numbers))} of {other}",
            expected=f"numbers of {', '.join(WELL_KNOWN)}, or names",
            fix=_FIX,
        )
    sensors = " or ".join(answers)
    assumed = f"{origin} names no sensor: its band numbers are taken for those of {sensors}; --bands says otherwise"
    return next(iter(answers.values())), [] if is_sentinel_2 and "Sentinel-2" in answers else [assumed]


def _are_in_usual_order(needs: Sequence[BandNeed], candidates: Sequence[BandCandidate], text: str) -> bool:
    """Return whether the bands of a file that describes nothing are surely those that the model needs, in its order.

    Stacks of five bands and more are ordered by wavelength, as nearly all models are. Four bands are found as red,
    green, blue, near infrared and as blue, green, red, near infrared. The stacks of a sensor that is named have bands
    left out or moved. A colour interpretation or a wavelength that says another order than the model's leaves it open.
    """
    if len({c.path for c in candidates}) > 1 or len(candidates) != len(needs):
        return False
    if any(c.is_described for c in candidates) or recognize_sensors(text) or find_other_sensor(text):
        return False
    if any(c.wavelength for c in candidates) and any(map(_find_limits, needs)):
        return False
    known = [to_common_name(need.name) for need in needs]
    if not all(name in _BY_WAVELENGTH for name in known):
        return True  # the model's bands have no meaning of their own
    positions = [_BY_WAVELENGTH.index(name) for name in known]
    for name, candidate in zip(known, candidates, strict=True):
        if any(label in _BY_WAVELENGTH and label != name for label in map(to_common_name, candidate.labels)):
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
        fitting = [c for c in candidates if key in map(str.casefold, c.all_names)]
        if one_file and key.isdigit():
            fitting = [c for c in candidates if c.index == int(key)]
        if not fitting and _SHORT_NAME.fullmatch(key):
            fitting = [c for c in candidates if c.number == parse_band_number(key)]
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
        canonical = {to_common_name(name) for name in (need.name, *need.aliases)}
        fitting = (
            [c for c in candidates if need.name.casefold() in map(str.casefold, c.names)]
            or [c for c in candidates if aliases.intersection(map(str.casefold, c.names))]
            or [c for c in candidates if canonical.intersection(map(to_common_name, c.names))]
        )
        if not fitting:
            return None
        chosen.append(_pick_best(fitting, need.name, need.wavelength))
    return chosen


def _ask_sensors(
    needs: Sequence[BandNeed], candidates: Sequence[BandCandidate], sensors: Sequence[str], origin: str
) -> dict[str, list[BandCandidate]]:
    """Return the bands by their numbers in each of some sensors that has them all; these have to agree.

    Raises:
        InputError: The numbers mean different bands in two of the sensors.
    """
    answers: dict[str, list[BandCandidate]] = {}
    for sensor in sensors:
        if not _may_be_numbers_of(sensor, candidates):
            continue
        found = [band for need in needs if (band := _find_by_number(need, candidates, NUMBERS_BY_NAME[sensor]))]
        if len(found) == len(needs):
            answers[sensor] = found
    if len(set(map(tuple, answers.values()))) > 1:
        raise InputError(
            f"the band numbers of {origin} have more than one meaning",
            got=_join_names(sorted({c.number for c in candidates if c.number})),
            expected=f"the bands of one of {', '.join(answers)}",
            fix=_FIX,
        )
    return answers


def _match_by_wavelength(needs: Sequence[BandNeed], candidates: Sequence[BandCandidate]) -> list[BandCandidate] | None:
    """Return the band nearest to the wavelength of each need, among those that its name may stand for."""
    chosen = []
    for need in needs:
        if (limits := _find_limits(need)) is None:
            return None
        least, usual, largest = limits
        fitting = [c for c in candidates if c.wavelength is not None and least <= c.wavelength <= largest]
        if not fitting:
            return None
        chosen.append(_pick_best(fitting, need.name, need.wavelength or usual))
    return chosen if len({(c.path, c.index) for c in chosen}) == len(chosen) else None


def _find_limits(need: BandNeed) -> tuple[float, float, float] | None:
    """Return the least, usual and largest wavelength in µm that a band for a need has; None if nothing tells."""
    named = (limits for name in (need.name, *need.aliases) if (limits := find_wavelengths(name)))
    usual = need.wavelength
    return next(named, (usual * (1 - _TOLERANCE), usual, usual * (1 + _TOLERANCE)) if usual else None)


def _check_wavelengths(needs: Sequence[BandNeed], chosen: Sequence[BandCandidate], origin: str) -> None:
    """Refuse bands whose names, numbers or places say one thing and whose wavelengths say another."""
    for need, band in zip(needs, chosen, strict=True):
        limits = find_wavelengths(need.name)
        if limits is None or band.wavelength is None:
            continue
        least, _, largest = limits
        if not least * (1 - _TOLERANCE) <= band.wavelength <= largest * (1 + _TOLERANCE):
            raise InputError(
                f"the bands of {origin} contradict their wavelengths",
                got=f"{band} for {need.name}, at {band.wavelength:g} µm",
                expected=f"{least:g} to {largest:g} µm",
                fix=_FIX,
            )


def _may_be_numbers_of(sensor: str, candidates: Sequence[BandCandidate]) -> bool:
    """Return whether the numbers of some bands are those of a sensor, and not their positions in a file.

    Positions go beyond the numbers of the sensor, miss its 8A, or count all bands of a file that is not known to hold
    all bands of the sensor in their order.
    """
    numbered = [c for c in candidates if c.number]
    numbers = {str(c.number) for c in numbered}
    if not numbers <= ALL_NUMBERS[sensor]:
        return False
    if "8A" in ALL_NUMBERS[sensor] - numbers and numbers >= set(map(str, range(1, 10))):
        return False
    is_counted = _is_run(numbers) and all(
        not c.is_only_band and c.number == str(c.index) and any(map(_COUNTED.match, c.labels)) for c in numbered
    )
    return not is_counted or len(numbers) in WHOLE_STACKS.get(sensor, ())


def _is_run(numbers: set[str]) -> bool:
    """Return whether numbers are 1, 2, 3, … without a gap, as positions are."""
    return numbers == set(map(str, range(1, len(numbers) + 1)))


def _find_by_number(need: BandNeed, candidates: Sequence[BandCandidate], table: dict[str, str]) -> BandCandidate | None:
    """Return the band with the number that a sensor's table gives for the needed band; None if there is none."""
    for name in (need.name, *need.aliases):
        for number in table.get(to_common_name(name), "").split():
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


def _join_names(names: Iterable[str]) -> str:
    """Return up to twelve names as one text."""
    listed = list(names)
    return (", ".join(listed[:12]) + (", …" if len(listed) > 12 else "")) or "none"
