"""What is known of a model on a kind of machine: measured once, corrected by every run, kept in the cache folder."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from seamline.flows.settings.folders import get_cache_folder
from seamline.model.spec.config import EngineSettings
from seamline.model.spec.measurement import Measurement
from seamline.pipeline.planning.chunks_at_once import SECONDS_BESIDE
from seamline.pipeline.storage.atomic import atomic_write

log = logging.getLogger("seamline.findings")

_LARGEST_STEP = 1.5
"""A run changes a correction by at most this factor, up or down."""

_LARGEST_FACTOR = 4.0
"""A correction is never larger than this factor, and never smaller than its inverse."""


@dataclass(frozen=True)
class RunCosts:
    """What a run took under its real conditions: all workers busy, with the other work of the machine.

    Attributes:
        settings: how the network ran.
        window: edge of the windows in pixels.
        seconds_per_pixel: of network input, of a typical chunk; None if the run had too few chunks to tell.
        excess_bytes: how much more a process held than was projected; 0 or less where the projection was enough.
        device_bytes: the most that was taken on a device with its own memory; 0 without one.
        seconds_beside: of a pixel of network input, to read and write a typical chunk; None if the run had too few.
    """

    settings: EngineSettings
    window: int
    seconds_per_pixel: float | None
    excess_bytes: int = 0
    device_bytes: int = 0
    seconds_beside: float | None = None


@dataclass(frozen=True)
class Correction:
    """Factors that runs put on what was measured.

    Attributes:
        seconds: on the seconds of windows of all sizes, so that their relation stays the measured one.
        process_bytes: on the memory of a process.
        bytes_per_pixel: on the memory of a forward.
        beside: on the seconds of reading and writing a pixel, ``SECONDS_BESIDE``.
    """

    seconds: float = 1.0
    process_bytes: float = 1.0
    bytes_per_pixel: float = 1.0
    beside: float = 1.0

    def __post_init__(self) -> None:
        for name, factor in asdict(self).items():
            if not (isinstance(factor, int | float) and math.isfinite(factor) and factor > 0):
                raise ValueError(f"correction of {name}: got {factor!r}, expected a number above 0")

    def apply(self, measurement: Measurement) -> Measurement:
        """Return a measurement with these factors; its trials stay as they were measured."""
        return replace(
            measurement,
            seconds={edge: self.seconds * seconds for edge, seconds in measurement.seconds.items()},
            process_bytes=int(self.process_bytes * measurement.process_bytes),
            bytes_per_pixel=self.bytes_per_pixel * measurement.bytes_per_pixel,
        )


@dataclass(frozen=True)
class Findings:
    """What is known of a model on a kind of machine.

    Attributes:
        measurement: settings, times and memory as they were measured.
        check_seconds: how long the check took; 0 for an estimate, for which nothing was run.
        budget: seconds that the measurement was given; 0 after the check alone.
        correction: what runs have shown since.
    """

    measurement: Measurement
    check_seconds: float
    budget: float = 0.0
    correction: Correction = Correction()

    @property
    def is_estimate(self) -> bool:
        """Whether nothing was measured."""
        return self.check_seconds == 0

    @property
    def corrected(self) -> Measurement:
        """The measurement as runs have corrected it: what plans are made from."""
        return self.correction.apply(self.measurement)

    @property
    def seconds_beside(self) -> float:
        """Seconds of one core for a pixel of network input beside the network, as runs have corrected them."""
        return self.correction.beside * SECONDS_BESIDE

    def correct(self, costs: RunCosts) -> Findings:
        """Return the findings with the correction that a run calls for.

        Times follow those of the run, up or down. Memory only grows: a run that needed less says nothing of the next
        one. A run that something else disturbed does little harm: its time is the median of its chunks, it changes a
        correction by a factor of 1.5 at most, and all runs together by 4. The next undisturbed run takes it back.

        Args:
            costs: what the run took. If it had other settings than those that were measured, nothing changes.
        """
        known, window = self.corrected, costs.window
        if known.settings_for(window) != costs.settings:
            return self
        changed = self.correction
        if costs.seconds_per_pixel is not None:
            ratio = costs.seconds_per_pixel * window**2 / known.seconds_for(window)
            changed = replace(changed, seconds=_limit(changed.seconds, ratio))
        if costs.seconds_beside is not None:
            changed = replace(changed, beside=_limit(changed.beside, costs.seconds_beside / self.seconds_beside))
        forward_bytes = known.forward_bytes(window)  # 0 where a device holds them
        growth = 1 + max(costs.excess_bytes, 0) / (known.process_bytes + forward_bytes)
        changed = replace(changed, process_bytes=_limit(changed.process_bytes, growth))
        if not forward_bytes:
            growth = max(costs.device_bytes / known.batch_bytes(window), 1.0)
        return replace(self, correction=replace(changed, bytes_per_pixel=_limit(changed.bytes_per_pixel, growth)))


def _limit(factor: float, ratio: float) -> float:
    """Return a factor times a ratio, within what one run and all runs may change."""
    step = min(max(ratio, 1 / _LARGEST_STEP), _LARGEST_STEP)
    return min(max(factor * step, 1 / _LARGEST_FACTOR), _LARGEST_FACTOR)


def get_cache_path(*key: object) -> Path:
    """Return the cache file for a key; the key's values are told apart by ``str``."""
    digest = hashlib.sha256(json.dumps([str(part) for part in key]).encode()).hexdigest()
    return get_cache_folder() / f"{digest[:24]}.json"


def read_findings(path: Path) -> Findings | None:
    """Return what ``write_findings`` was given; None if nothing usable is there."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        measurement, correction = Measurement.from_dict(values["measurement"]), Correction(**values["correction"])
        return Findings(measurement, float(values["check_seconds"]), float(values["budget"]), correction)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None  # never checked, by another version, or damaged


def read_seconds_beside(path: Path) -> float:
    """Return the seconds of one core for a pixel beside the network; ``SECONDS_BESIDE`` where nothing is known."""
    known = read_findings(path)
    return SECONDS_BESIDE if known is None else known.seconds_beside


def write_findings(path: Path, known: Findings) -> None:
    """Keep what is known; see ``write_cache``."""
    values: dict[str, Any] = {
        "measurement": known.measurement.to_dict(),
        "check_seconds": known.check_seconds,
        "budget": known.budget,
        "correction": asdict(known.correction),
    }
    write_cache(path, values)


def correct_findings(path: Path, costs: RunCosts) -> None:
    """Correct what is kept by what a run took. Of two runs that end at once, the correction of one may be lost.

    Args:
        path: file of the findings; nothing happens if it is gone.
        costs: what the run took.
    """
    known = read_findings(path)
    if known is not None and (corrected := known.correct(costs)) != known:
        write_findings(path, corrected)


def write_cache(path: Path, values: object) -> None:
    """Write a cache file. A failed write only costs another measurement, so it is logged and not raised."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, shared=True) as part:
            part.write_text(json.dumps(values, indent=2), encoding="utf-8")
    except OSError as error:
        log.warning("what was measured cannot be kept: %s", error)
