"""What was found out about a network on a machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seamline.model.spec.config import EngineSettings

Sample = tuple[NDArray[np.generic], NDArray[np.bool_]]
"""A window of a scene: digital numbers (bands, window, window) and valid (window, window)."""

MAX_DEVICE_MEMORY_SHARE = 0.9
"""Of a device's memory that a batch may take; the rest is the network, the votes and what the driver keeps."""

MIN_LABEL_AGREEMENT = 0.999
MIN_MEAN_IOU = 0.995


@dataclass(frozen=True)
class Trial:
    """One way to run, on windows of an edge of ``window``: ``seconds_per_pixel`` of network input; ``compute_agreement`` is the
    share of labels as in plain float32 (of ``seamline.model.engines.tune.compute_agreement``)."""

    settings: EngineSettings
    window: int
    seconds_per_pixel: float
    agreement: float
    mean_iou: float

    @property
    def is_accurate(self) -> bool:
        """Whether the labels are those of float32, as far as anybody could see."""
        return self.agreement >= MIN_LABEL_AGREEMENT and self.mean_iou >= MIN_MEAN_IOU


@dataclass(frozen=True)
class Measurement:
    """What was found: the settings, the time of windows of several sizes, and memory.

    ``settings.batch`` is for windows of the smallest edge; larger ones go in batches of about as many pixels.
    ``seconds`` maps the edge of a window to seconds per pixel of its area. ``process_bytes`` is what the process
    holds with the network loaded, ``bytes_per_pixel`` what a forward adds for each pixel of a batch: to the process on
    a CPU, to the device otherwise, which has ``device_bytes``. ``batch`` is the one that the user fixed, for windows of
    every size. ``describe_change`` maps margins to the share of a scene's labels that more context would change; empty where
    nobody looked (``seamline.model.engines.context_meter``).
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
        """The settings for windows of this edge."""
        batch = self.batch or max(1, int(self.settings.batch * (min(self.seconds) / window) ** 2))
        return replace(self.settings, batch=batch)

    def fits(self, window: int) -> bool:
        """Whether a batch of such windows fits into the memory of a device of its own."""
        return (
            not self.device_bytes or self._estimate_batch_bytes(window) <= MAX_DEVICE_MEMORY_SHARE * self.device_bytes
        )

    def _estimate_batch_bytes(self, window: int) -> float:
        return self.bytes_per_pixel * window**2 * self.settings_for(window).batch

    def seconds_for(self, window: int) -> float:
        """Seconds for one window of this edge, between measured sizes interpolated, outside as the nearest."""
        edges = sorted(self.seconds)
        return float(np.interp(window, edges, [self.seconds[edge] for edge in edges])) * window**2

    def forward_bytes(self, window: int) -> int:
        """What the forward of a batch of such windows adds to the process's memory; nothing if a device holds it."""
        return 0 if self.settings.device == "cuda" else int(self._estimate_batch_bytes(window))

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for a JSON file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Measurement:
        """The inverse of ``to_dict``."""
        return cls(
            settings=EngineSettings.from_dict(values["settings"]),
            seconds={int(edge): seconds for edge, seconds in values["seconds"].items()},
            process_bytes=values["process_bytes"],
            bytes_per_pixel=values["bytes_per_pixel"],
            device_bytes=values["device_bytes"],
            batch=values["batch"],
            changed={int(margin): share for margin, share in values["changed"].items()},
            trials=tuple(Trial(**{**t, "settings": EngineSettings.from_dict(t["settings"])}) for t in values["trials"]),
        )
