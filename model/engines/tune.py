"""The measurement that chooses how a network runs on this machine: engine, precision, layout, threads and batch.

Engines, precisions and layouts are timed together on small windows, then the best of each engine once more on larger
ones. Threads follow, then the batch, each with the best settings so far. Everything else than plain float32 is taken
only if its labels agree with those of plain float32.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from seamline.model.engines.agreement import argmax_labels, compute_agreement
from seamline.model.engines.candidates import choose_plain_settings, vary_batch, vary_engine, vary_threads
from seamline.model.engines.runtime import Runtime
from seamline.model.engines.timing import time_in_turns
from seamline.model.spec.config import Engine, EngineRequest, EngineSettings, Radiometry
from seamline.model.spec.errors import ModelError
from seamline.model.spec.measurement import Measurement, Sample, Trial
from seamline.model.spec.metrics import confusion_matrix, iou
from seamline.model.spec.spec import ModelSpec

log = logging.getLogger("seamline.tune")

_SAME_TIME_RATIO = 1.1
"""Times that differ by a smaller factor count as equal."""
_HOPELESS_TIME_RATIO = 1.5
"""Settings that took this many times the least time in the first round, or on small windows, are not tried again."""


@dataclass(frozen=True)
class Candidate:
    """Settings that work here.

    Attributes:
        settings: how the network runs.
        forward: runs one batch of windows; this is what is timed.
        labels: of the sample (H, W).
    """

    settings: EngineSettings
    forward: Callable[[], object]
    labels: NDArray[np.uint8]


@dataclass(frozen=True)
class Tuner:
    """Measures one model on one machine. Picklable, since it is sent to the worker that measures.

    Attributes:
        spec: what the model is.
        folder: the model's folder.
        radiometry: meaning of the sample's digital numbers.
        halo: pixels on every side of a window that are thrown away.
        request: the settings that the user fixes; all others are measured.
        threads: the most threads this worker may use; 0 stands for all that torch sees.
        reset_peak_memory: starts the count of ``peak_memory`` anew.
        peak_memory: returns the most bytes that the process held since the last reset.
    """

    spec: ModelSpec
    folder: Path
    radiometry: Radiometry
    halo: int
    request: EngineRequest
    threads: int
    reset_peak_memory: Callable[[], None]
    peak_memory: Callable[[], int]

    def __call__(self, sample: Sample, sizes: Sequence[int]) -> Measurement:
        """Choose settings on windows of the smallest size, then measure time and memory of all sizes with them.

        Args:
            sample: digital numbers (bands, N, N) and valid (N, N) of the scene.
            sizes: edges, in pixels, of the windows that a plan might take.

        Returns:
            The chosen settings, their time and memory, and all trials.

        Raises:
            ModelError: the plain settings do not run here.
        """
        network, request = self.spec.network, self.request
        edge = min(sizes)
        threads = request.threads or self.threads or torch.get_num_threads()
        base = choose_plain_settings(network, request, threads)
        candidates = self.load_candidates(list(vary_engine(network, request, base)), sample, edge)
        reference = candidates[0].labels
        trials = self.time_candidates(candidates, edge, reference)
        del candidates  # with their networks, which would count in the memory of what follows
        finals = self._time_finalists(trials, sample, sorted(sizes)[len(sizes) // 2])
        best = self._choose_best(finals or trials)
        trials += finals
        variants = list(vary_threads(request, best, threads))
        best, thread_trials = self._choose_variant(best, variants, sample, edge, reference)
        variants = list(vary_batch(request, best))
        best, batch_trials = self._choose_variant(best, variants, sample, edge, reference)
        trials += thread_trials + batch_trials
        measurement = self._measure_windows(best, sample, sizes, tuple(trials))
        _release_memory()  # the run that follows in this process starts without the memory of the largest window
        return measurement

    def load_candidates(self, variants: Sequence[EngineSettings], sample: Sample, edge: int) -> list[Candidate]:
        """Load and run the network once with each settings, which compiles kernels and fills caches.

        Args:
            variants: settings; the first must work, and others that do not run here or do not fit into the device's
                memory are logged and left out.
            sample: digital numbers (bands, N, N) and valid (N, N).
            edge: of the windows to run, in pixels.

        Returns:
            The settings that work, in the same order.

        Raises:
            ModelError: the first settings do not work.
        """
        candidates: list[Candidate] = []
        for settings in variants:
            try:
                forward = self._make_forward(settings, sample, edge)
                candidates.append(Candidate(settings, forward, argmax_labels(forward())))
            except (ModelError, torch.cuda.OutOfMemoryError) as error:
                if not candidates:
                    raise
                log.warning("%s in %s is not tried: %s", settings.engine, settings.precision, error)
        return candidates

    def time_candidates(self, candidates: Sequence[Candidate], edge: int, reference: NDArray[np.uint8]) -> list[Trial]:
        """Time candidates in turns and compare their labels with a reference.

        Args:
            candidates: from ``load_candidates``.
            edge: of their windows, in pixels.
            reference: labels (H, W) of plain float32.

        Returns:
            One trial for each candidate.
        """
        classes = len(self.spec.classes)
        one_batch_size = len({candidate.settings.batch for candidate in candidates}) == 1
        times = time_in_turns(
            [candidate.forward for candidate in candidates], _HOPELESS_TIME_RATIO if one_batch_size else math.inf
        )
        return [
            Trial(
                candidate.settings,
                edge,
                seconds / (edge**2 * candidate.settings.batch),
                compute_agreement(candidate.labels, reference),
                float(np.nanmean(iou(confusion_matrix(candidate.labels, reference, classes)))),
            )
            for candidate, seconds in zip(candidates, times, strict=True)
        ]

    def _time_finalists(self, trials: Sequence[Trial], sample: Sample, edge: int) -> list[Trial]:
        """Time the best trial of each engine that might win on larger windows; do nothing if only one engine might."""
        accurate = self._select_accurate(trials)
        least = min(trial.seconds_per_pixel for trial in accurate)
        best: dict[Engine, Trial] = {}
        for trial in sorted(accurate, key=lambda trial: trial.seconds_per_pixel):
            if trial.seconds_per_pixel <= _HOPELESS_TIME_RATIO * least:
                best.setdefault(trial.settings.engine, trial)
        if len(best) < 2 or edge == trials[0].window:
            return []
        finalists = {trial.settings: trial for trial in trials if trial in best.values()}  # in the order of trials
        candidates = self.load_candidates(list(finalists), sample, edge)
        times = time_in_turns([candidate.forward for candidate in candidates])
        return [
            replace(
                finalists[candidate.settings],
                window=edge,
                seconds_per_pixel=seconds / (edge**2 * candidate.settings.batch),
            )
            for candidate, seconds in zip(candidates, times, strict=True)
        ]

    def _choose_variant(
        self,
        best: EngineSettings,
        variants: list[EngineSettings],
        sample: Sample,
        edge: int,
        reference: NDArray[np.uint8],
    ) -> tuple[EngineSettings, list[Trial]]:
        """Time variants of the best settings, if there are any; return the best of them and the trials."""
        if variants == [best]:
            return best, []
        trials = self.time_candidates(self.load_candidates(variants, sample, edge), edge, reference)
        return self._choose_best(trials), trials

    def _select_accurate(self, trials: Sequence[Trial]) -> list[Trial]:
        """Return the trials whose labels agree with float32; all of them if the user fixed the precision."""
        return [trial for trial in trials if trial.is_accurate or self.request.precision != "auto"]

    def _choose_best(self, trials: Sequence[Trial]) -> EngineSettings:
        """Return the first settings that are about as fast as the fastest: plain and small ones come first."""
        accurate = self._select_accurate(trials)
        least = min(trial.seconds_per_pixel for trial in accurate)
        return next(trial for trial in accurate if trial.seconds_per_pixel <= _SAME_TIME_RATIO * least).settings

    def _make_forward(self, settings: EngineSettings, sample: Sample, edge: int) -> Callable[[], Tensor]:
        """Load the network and return a function that runs one batch of windows and returns the first's scores."""
        runtime = Runtime(self.spec, self.folder, settings, self.radiometry, self.halo)
        pixels, valid = _resize_sample(sample, edge)
        runtime.prepare(edge)

        def forward() -> Tensor:
            if settings.threads:  # torch's threads are those of the process, so each candidate sets its own
                torch.set_num_threads(settings.threads)
            scores, *_ = runtime.predict([pixels] * settings.batch, [valid] * settings.batch)
            if settings.device == "cuda":
                torch.cuda.synchronize()
            return scores

        return forward

    def _measure_windows(
        self, settings: EngineSettings, sample: Sample, sizes: Sequence[int], trials: tuple[Trial, ...]
    ) -> Measurement:
        """Measure time and memory of windows of all sizes, up to the largest that fits into the device's memory."""
        smallest = min(sizes)
        measurement = Measurement(
            settings,
            {smallest: 0.0},
            _release_memory(),
            0.0,
            trials,
            _read_device_memory(settings),
            batch=self.request.batch,
        )
        forwards: dict[int, Callable[[], object]] = {}
        for edge in sorted(sizes):
            edge_settings = measurement.settings_for(edge)
            forward, before = self._make_forward(edge_settings, sample, edge), _release_memory()
            self.reset_peak_memory()
            try:
                forward()
            except torch.cuda.OutOfMemoryError:
                break  # larger windows do not fit either
            added = torch.cuda.max_memory_allocated() if edge_settings.device == "cuda" else self.peak_memory() - before
            forwards[edge] = forward
            # Only the smallest window's process memory counts: some engines keep what they plan for earlier windows.
            process_bytes = max(measurement.process_bytes, before) if edge == smallest else measurement.process_bytes
            measurement = replace(
                measurement,
                process_bytes=process_bytes,
                bytes_per_pixel=max(measurement.bytes_per_pixel, added / (edge**2 * edge_settings.batch)),
            )
        times = time_in_turns(list(forwards.values()))
        pixels = [edge**2 * measurement.settings_for(edge).batch for edge in forwards]
        seconds = {edge: time / count for edge, time, count in zip(forwards, times, pixels, strict=True)}
        return replace(measurement, seconds=seconds)


def _read_device_memory(settings: EngineSettings) -> int:
    """Return the bytes of the CUDA device; 0 on a CPU."""
    return int(torch.cuda.mem_get_info()[1]) if settings.device == "cuda" else 0


def _release_memory() -> int:
    """Give unused memory back to the system and return the bytes that the process still holds."""
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


def _resize_sample(sample: Sample, edge: int) -> Sample:
    """Repeat or cut a sample to ``edge``² pixels."""
    pixels, valid = sample
    times = -(-edge // valid.shape[-1])
    return (
        np.ascontiguousarray(np.tile(pixels, (1, times, times))[:, :edge, :edge]),
        np.ascontiguousarray(np.tile(valid, (times, times))[:edge, :edge]),
    )
