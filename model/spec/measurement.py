"""Measured speed, memory and accuracy of a network on a machine."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seamline.model.spec.config import EngineSettings

Sample = tuple[NDArray[np.generic], NDArray[np.bool_]]
"""A window of a scene: digital numbers (bands, window, window) and valid (window, window)."""

_MAX_DEVICE_MEMORY_SHARE = 0.9
"""Share of a device's memory that a batch may take; the rest is for the network, the votes and the driver."""

MIN_LABEL_AGREEMENT = 0.999
MIN_MEAN_IOU = 0.995


@dataclass(frozen=True)
class Trial:
    """One way to run the network, timed on windows of one size and compared with plain float32.

    Attributes:
        settings: the way to run it.
        window: edge of the windows in pixels.
        seconds_per_pixel: seconds per pixel of network input.
        agreement: share of the labels that equal those of float32 (``seamline.model.engines.tune.compute_agreement``).
        mean_iou: intersection over union with the labels of float32, mean of the classes.
    """

    settings: EngineSettings
    window: int
    seconds_per_pixel: float
    agreement: float
    mean_iou: float

    @property
    def is_accurate(self) -> bool:
        """Whether the labels are close enough to those of float32 to take this way."""
        return self.agreement >= MIN_LABEL_AGREEMENT and self.mean_iou >= MIN_MEAN_IOU


@dataclass(frozen=True)
class Measurement:
    """The settings that a measurement chose, the times of windows of several sizes, and memory.

    Attributes:
        settings: the chosen way to run the network; its batch is for windows of the smallest size, and larger windows
            go in batches of about as many pixels.
        seconds: edge of a window in pixels → seconds per pixel of its area.
        process_bytes: memory of the process with the network loaded.
        bytes_per_pixel: memory that a forward adds for each pixel of a batch: to the process on a CPU, otherwise to
            the device.
        trials: all ways that were tried.
        device_bytes: memory of the device; 0 on a CPU.
        batch: the batch that the user fixed, for windows of every size; ``None`` if the user fixed none.
        changed: margin in pixels → share of a scene's labels that more context would change; empty where this was not
            measured (``seamline.model.engines.context_meter``).
    """

    settings: EngineSettings
    seconds: dict[int, float]
    process_bytes: int
    bytes_per_pixel: float
    trials: tuple[Trial, ...]
    device_bytes: int = 0
    batch: int | None = None
    changed: dict[int, float] = field(default_factory=dict)

    def settings_for(self, window: int) -> EngineSettings:
        """Return the settings for windows of this edge in pixels: the chosen ones with a batch of this size."""
        batch = self.batch or max(1, int(self.settings.batch * (min(self.seconds) / window) ** 2))
        return replace(self.settings, batch=batch)

    def fits(self, window: int) -> bool:
        """Return whether a batch of windows of this edge fits into the device's memory; always true on a CPU."""
        return not self.device_bytes or self.batch_bytes(window) <= _MAX_DEVICE_MEMORY_SHARE * self.device_bytes

    def chunk_bytes(self, window: int) -> int:
        """Return the bytes of the device's memory that are left for chunks beside a batch of windows; 0 on a CPU."""
        return max(0, int(_MAX_DEVICE_MEMORY_SHARE * self.device_bytes - self.batch_bytes(window)))

    def batch_bytes(self, window: int) -> float:
        """Return the bytes that a batch of windows of this edge adds, to the process or to the device."""
        return self.bytes_per_pixel * window**2 * self.settings_for(window).batch

    def seconds_for(self, window: int) -> float:
        """Return the seconds for one window of this edge.

        Between measured sizes the time per pixel is interpolated; outside of them it is that of the nearest size.
        """
        edges = sorted(self.seconds)
        return float(np.interp(window, edges, [self.seconds[edge] for edge in edges])) * window**2

    def forward_bytes(self, window: int) -> int:
        """Return the bytes that a batch of windows of this edge adds to the process; 0 where a device holds them."""
        return 0 if self.settings.device == "cuda" else int(self.batch_bytes(window))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Measurement:
        """Return the measurement that ``to_dict`` turned into plain values, before or after a way through JSON.

        Raises:
            ValueError, LookupError, TypeError, AttributeError: the values are none of a measurement.
        """
        seconds = {int(edge): _check_number("seconds", value) for edge, value in values["seconds"].items()}
        if not seconds:
            raise ValueError("measurement: no windows")
        return cls(
            settings=EngineSettings.from_dict(values["settings"]),
            seconds=seconds,
            process_bytes=int(_check_number("process_bytes", values["process_bytes"])),
            bytes_per_pixel=_check_number("bytes_per_pixel", values["bytes_per_pixel"]),
            device_bytes=int(_check_number("device_bytes", values["device_bytes"])),
            batch=None if values["batch"] is None else int(_check_number("batch", values["batch"])),
            changed={int(margin): _check_number("changed", share) for margin, share in values["changed"].items()},
            trials=tuple(Trial(**{**t, "settings": EngineSettings.from_dict(t["settings"])}) for t in values["trials"]),
        )


def _check_number(name: str, value: object) -> float:
    """Return a number that is finite and not below 0.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
        raise ValueError(f"measurement: {name}: got {value!r}, expected a number of at least 0")
    return value
