"""Find out how a network runs best on this machine, by a short measurement on real windows.

Layout, precision, threads and batch are tried one after the other, each with the best of the ones before. A reduced
precision is taken only where its labels agree with those of float32.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from model.config import Precision, Radiometry, Settings, UNetConfig
from model.engines import has_onednn, precisions
from model.errors import ModelError
from model.measurement import Measurement, Sample, Trial
from model.metrics import confusion_matrix, iou
from model.runtime import Runtime
from model.spec import ModelSpec

NOISE = 1.1
"""Times that differ by less are the same."""
ENOUGH = 5.0
"""Seconds of a measurement after which another round would tell nothing new."""


@dataclass(frozen=True)
class Tuner:
    """Measures one model on one machine; picklable, to be sent to the worker that shall do it."""

    spec: ModelSpec
    folder: Path
    radiometry: Radiometry
    halo: int
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto"] | Precision
    threads: int
    """What this worker may use at most; 0: all that torch sees."""
    reset_peak_memory: Callable[[], None]
    peak_memory: Callable[[], int]
    """The most bytes that the process held since the last reset."""

    def __call__(self, sample: Sample, sizes: Sequence[int]) -> Measurement:
        """Measure on a piece of the scene; ``sizes`` are the edges of windows that a plan might take.

        Labels are compared and settings chosen on the smallest size; the others are timed with the choice. The sample
        is half as large again as the smallest window: two windows, half a window apart, tell how far they disagree.
        """
        first = min(sizes)
        trials: list[Trial] = []
        best = self._baseline()
        reference = self._labels(best, sample, first)
        for candidates in (self._layouts, self._thread_counts, self._batches):
            tried = self._trials(list(candidates(best)), sample, first, reference)
            trials += tried
            agreeing = [trial for trial in tried if trial.agrees or self.precision != "auto"]
            fastest = min(agreeing, key=lambda trial: trial.seconds_per_pixel)
            # The candidates come in the order of what they cost: a larger one must be worth it.
            best = next(t for t in agreeing if t.seconds_per_pixel <= NOISE * fastest.seconds_per_pixel).settings
        measured = self._measured(best, sample, sizes, tuple(trials))
        measured = replace(measured, disagreement=self._disagreement(best, sample, first))
        _released()  # what the largest window took is not the run's
        return measured

    def _baseline(self) -> Settings:
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        precision = "fp32" if self.precision == "auto" else self.precision
        if device == "cpu" and precision in ("bf16", "fp16") and not has_onednn(precision):
            raise ModelError(
                "--precision", got=precision, expected="fp32, which this CPU is made for", fix="leave it to be measured"
            )
        return Settings(device, precision, threads=self._threads)

    @property
    def _threads(self) -> int:
        return self.threads or torch.get_num_threads()

    def _layouts(self, base: Settings) -> Iterator[Settings]:
        reduced = precisions(self.spec.network, base.device) if self.precision == "auto" else ()
        layouts = (False, True) if isinstance(self.spec.network, UNetConfig) else (False,)
        for precision in (base.precision, *reduced):
            for channels_last in layouts:
                yield replace(base, precision=precision, channels_last=channels_last)

    def _thread_counts(self, base: Settings) -> Iterator[Settings]:
        counts = {self._threads, max(1, self._threads // 2)} if base.device == "cpu" else {self._threads}
        return (replace(base, threads=count) for count in sorted(counts, reverse=True))

    def _batches(self, base: Settings) -> Iterator[Settings]:
        sizes = (1, 2, 4, 8, 16) if base.device == "cuda" else (1, 2)
        return (replace(base, batch=size) for size in sizes)

    def _trials(
        self, candidates: Sequence[Settings], sample: Sample, edge: int, reference: NDArray[np.uint8]
    ) -> list[Trial]:
        """Time the candidates in turns; those that do not fit into the device's memory are left out."""
        fitting, forwards, labels = [], [], []
        for settings in candidates:
            forward = self._forward(settings, sample, edge)
            with suppress(torch.cuda.OutOfMemoryError):
                forward()  # compiles kernels, fills caches
                labels.append(self._labels(settings, sample, edge))
                fitting.append(settings)
                forwards.append(forward)
        return [
            Trial(
                settings,
                seconds / (edge**2 * settings.batch),
                float((found == reference).mean()),
                float(np.nanmean(iou(confusion_matrix(found, reference, len(self.spec.classes))))),
            )
            for settings, seconds, found in zip(fitting, _times_in_turns(forwards), labels, strict=True)
        ]

    def _forward(self, settings: Settings, sample: Sample, edge: int) -> Callable[[], None]:
        runtime = self._runtime(settings)
        pixels, valid = _resized(sample, edge)

        def forward() -> None:
            if settings.threads:  # of the process, so each of the candidates sets its own
                torch.set_num_threads(settings.threads)
            for _ in runtime.predict([pixels] * settings.batch, [valid] * settings.batch):
                pass
            if settings.device == "cuda":
                torch.cuda.synchronize()

        return forward

    def _labels(self, settings: Settings, sample: Sample, edge: int) -> NDArray[np.uint8]:
        runtime = self._runtime(replace(settings, batch=1))
        pixels, valid = _resized(sample, edge)
        (scores,) = runtime.predict([pixels], [valid])
        return np.asarray(runtime.to_host(scores.argmax(0))).astype(np.uint8)

    def _disagreement(self, settings: Settings, sample: Sample, edge: int) -> float:
        """Share of the labels that two windows see differently, where their supports overlap by half.

        Each has there what the other has in its middle at its edge, ``halo`` pixels of context away from the end of
        what it sees. 0 where the halo is exact.
        """
        pixels, valid = sample
        shift = (edge - 2 * self.halo) // 2 // self.spec.divisor * self.spec.divisor
        room = min(valid.shape) - edge
        if not 0 < shift <= room:
            return 0.0
        here, there = (
            self._labels(
                settings, (pixels[:, at : at + edge, at : at + edge], valid[at : at + edge, at : at + edge]), edge
            )
            for at in (0, shift)
        )
        common = len(here) - shift
        known = valid[shift + self.halo :, shift + self.halo :][:common, :common]
        differs = (here[shift:, shift:] != there[:common, :common])[known]
        return float(differs.mean()) if differs.size else 0.0

    def _runtime(self, settings: Settings) -> Runtime:
        return Runtime(self.spec, self.folder, settings, self.radiometry, self.halo)

    def _measured(
        self, settings: Settings, sample: Sample, sizes: Sequence[int], trials: tuple[Trial, ...]
    ) -> Measurement:
        found = Measurement(settings, {min(sizes): 0.0}, _released(), 0.0, trials, _device_bytes(settings))
        forwards: dict[int, Callable[[], None]] = {}
        for edge in sorted(sizes):
            own = found.settings_for(edge)
            forward, before = self._forward(own, sample, edge), _released()
            self.reset_peak_memory()
            try:
                forward()
            except torch.cuda.OutOfMemoryError:
                break  # nor do the larger ones fit
            added = torch.cuda.max_memory_allocated() if own.device == "cuda" else self.peak_memory() - before
            forwards[edge] = forward
            found = replace(
                found,
                process_bytes=max(found.process_bytes, before),
                bytes_per_pixel=max(found.bytes_per_pixel, added / (edge**2 * own.batch)),
            )
        times = _times_in_turns(list(forwards.values()))
        pixels = [edge**2 * found.settings_for(edge).batch for edge in forwards]
        seconds = {edge: time / count for edge, time, count in zip(forwards, times, pixels, strict=True)}
        return replace(found, seconds=seconds)


def _device_bytes(settings: Settings) -> int:
    return int(torch.cuda.mem_get_info()[1]) if settings.device == "cuda" else 0


def _released() -> int:
    """Bytes that the process holds after it gave back what it does not use."""
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


def _times_in_turns(forwards: Sequence[Callable[[], None]], rounds: int = 3) -> list[float]:
    """Least seconds of each, warmed up before; in turns, so that what else the machine does meets all of them.

    The least, since all that can happen to a measurement makes it longer. A slow network is not timed again:
    what disturbs a measurement is short.
    """
    least = np.full(len(forwards), np.inf)
    begun = time.perf_counter()
    for _ in range(rounds):
        for position, forward in enumerate(forwards):
            started = time.perf_counter()
            forward()
            least[position] = min(least[position], time.perf_counter() - started)
        if time.perf_counter() - begun > ENOUGH:
            break
    return least.tolist()


def _resized(sample: Sample, edge: int) -> Sample:
    """The sample repeated or cut to ``edge``² pixels."""
    pixels, valid = sample
    times = -(-edge // valid.shape[-1])
    return (
        np.ascontiguousarray(np.tile(pixels, (1, times, times))[:, :edge, :edge]),
        np.ascontiguousarray(np.tile(valid, (times, times))[:edge, :edge]),
    )
