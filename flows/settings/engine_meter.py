"""What a worker finds out about itself: what it computes on, and how a model runs best there."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from seamline.flows.settings.model_folder import Model
from seamline.model.spec.config import EngineRequest, EngineSettings, Radiometry, UNetConfig
from seamline.model.spec.measurement import Measurement, Sample
from seamline.pipeline.cluster.inference_thread import run_on_inference_thread
from seamline.pipeline.cluster.machine import CORES, read_processor_name
from seamline.pipeline.common.memory import read_peak_memory, reset_peak_memory

if TYPE_CHECKING:
    from seamline.model.engines.tune import Tuner


@dataclass(frozen=True)
class EngineMeter:
    """Checks or measures a model on a worker, on the same kind of thread as the network of a run. Picklable.

    Attributes:
        model: the model.
        radiometry: meaning of the sample's digital numbers.
        halo: pixels on every side of a window that are thrown away.
        request: what the user fixes.
        threads: the most threads of the network; 0 leaves them to torch.
    """

    model: Model
    radiometry: Radiometry
    halo: int
    request: EngineRequest
    threads: int

    def can_estimate(self, window: int | None) -> bool:
        """Return whether nothing is left to measure: what the user fixes, and the network, say all.

        Of programs nothing is known without running them.

        Args:
            window: edge in pixels of the windows that the user asks for, if any.
        """
        fixed = {"precision", "engine", "batch", "threads"} <= self.request.get_fixed_settings().keys()
        return fixed and window is not None and isinstance(self.model.spec.network, UNetConfig)

    def estimate(self, edge: int) -> Measurement:
        """Estimate time and memory of windows of this edge in pixels without running one."""
        from seamline.model.engines.estimate import estimate_measurement  # imports torch, as below

        spec, folder = self.model.spec, self.model.folder
        return run_on_inference_thread(estimate_measurement, spec, folder, self.request, self.threads, edge)

    def check(self, sample: Sample, edge: int) -> Measurement:
        """Compare the settings that are known to be fast with float32 (``Tuner.check``)."""
        return run_on_inference_thread(self._make_tuner().check, sample, edge)

    def measure(
        self, sample: Sample, sizes: tuple[int, ...], known: EngineSettings | None = None, seconds: float = math.inf
    ) -> Measurement:
        """Measure every promising way to run the network, within so many seconds (``Tuner.__call__``).

        Args:
            sample: digital numbers (bands, N, N) and valid (N, N) of the scene.
            sizes: edges, in pixels, of the windows that a plan might take.
            known: settings that the check chose.
            seconds: how long it may take.
        """
        return run_on_inference_thread(self._make_tuner(), sample, sizes, known, seconds)

    def _make_tuner(self) -> Tuner:
        from seamline.model.engines.tune import Tuner  # imports torch, which takes seconds: only on workers

        spec, folder = self.model.spec, self.model.folder
        return Tuner(
            spec, folder, self.radiometry, self.halo, self.request, self.threads, reset_peak_memory, read_peak_memory
        )


def describe_device() -> str:
    """Return a description of what this worker computes on and with; equal ones run a network alike.

    Containers on machines of one kind that may use as many cores have the same one.
    """
    import torch  # takes seconds to import; this runs on a worker

    software = ", ".join(f"{name} {number}" for name, number in list_engine_versions().items())
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {software}"
    flags = torch.backends.cpu.get_cpu_capability()
    return f"{read_processor_name()} {flags}, {CORES} cores, {software}"


@cache
def list_engine_versions() -> dict[str, str]:
    """Return the versions of the installed packages that run networks, by name."""
    versions = {}
    for name in ("torch", "onnxruntime", "openvino", "onnx"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions
