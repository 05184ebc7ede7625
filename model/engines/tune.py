"""The check and the measurement that choose how a network runs on this machine.

The check takes the settings that are known to be fast here if their labels agree with those of float32. It takes one
window in both. The measurement looks for better ones, as far as its budget goes: engines, precisions and layouts are
timed together on small windows, then the best of each engine once more on larger ones. Threads follow, then the batch,
each with the best settings so far. Everything else than plain float32 is taken only if its labels agree with those of
plain float32.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from seamline.model.engines.agreement import argmax_labels, compute_agreement
from seamline.model.engines.candidates import (
    choose_default_settings,
    choose_plain_settings,
    order_by_promise,
    vary_batch,
    vary_engine,
    vary_threads,
)
from seamline.model.engines.runtime import Runtime
from seamline.model.engines.timing import Budget, time_in_turns
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
_LOADING_RATIO = 3
"""How many times as long as the slowest so far other settings may take to be loaded and run."""
_WINDOW_RATIO = 3
"""How many times as long as the last window, by pixel, the next larger one may take: it is run twice, the last once
more."""
_FORWARDS = 4
"""Forwards, with the slower first one, that it takes to time settings."""


@dataclass(frozen=True)
class Candidate:
    """Settings that work here.

    Attributes:
        settings: how the network runs.
        forward: runs one batch of windows; this is what is timed.
        labels: of the sample (H, W).
        loading_seconds: what it took to load the network.
        first_seconds: what the first forward took, which also compiles kernels and fills caches.
    """

    settings: EngineSettings
    forward: Callable[[], Tensor]
    labels: NDArray[np.uint8]
    loading_seconds: float
    first_seconds: float


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
        clock: returns the time in seconds.
    """

    spec: ModelSpec
    folder: Path
    radiometry: Radiometry
    halo: int
    request: EngineRequest
    threads: int
    reset_peak_memory: Callable[[], None]
    peak_memory: Callable[[], int]
    clock: Callable[[], float] = time.perf_counter

    def check(self, sample: Sample, edge: int) -> Measurement:
        """Take the settings that are known to be fast here, if they are and their labels are those of float32.

        Otherwise float32 is taken. Some processors have instructions for bf16 and are slower with them, for instance as
        virtual machines, so each of both is timed once after its first window.

        Args:
            sample: digital numbers (bands, N, N) and valid (N, N) of the scene.
            edge: of the window, in pixels.

        Returns:
            The settings, with time and memory of such a window, and what was compared.

        Raises:
            ModelError: the settings do not run here.
        """
        with _collect_only_own_garbage():
            return self._check(sample, edge)

    def _check(self, sample: Sample, edge: int) -> Measurement:
        settings = choose_default_settings(self.spec.network, self.request, self._threads)
        trials: list[Trial] = []
        if self.request.precision == "auto" and settings.precision != "fp32":
            exact = replace(settings, precision="fp32")
            candidates = self.load_candidates([exact, settings], sample, edge)
            trials = self.time_candidates(candidates, edge, candidates[0].labels, Budget(0, self.clock))
            del candidates  # with their networks, which would count in the memory of what follows
            is_good = len(trials) == 2 and trials[1].is_accurate
            limit = _SAME_TIME_RATIO * trials[0].seconds_per_pixel
            settings = settings if is_good and trials[1].seconds_per_pixel <= limit else exact
        measurement = self._measure_windows(settings, sample, (edge,), tuple(trials), Budget(0, self.clock))
        release_memory()
        return measurement

    def __call__(
        self, sample: Sample, sizes: Sequence[int], known: EngineSettings | None = None, seconds: float = math.inf
    ) -> Measurement:
        """Choose settings on windows of the smallest size, then measure time and memory of all sizes with them.

        Args:
            sample: digital numbers (bands, N, N) and valid (N, N) of the scene.
            sizes: edges, in pixels, of the windows that a plan might take.
            known: settings that the check chose; tried first. None for those of ``choose_default_settings``.
            seconds: how long it may take. What is not measured by then is left out: first the larger windows, then
                other batches and threads, then engines and precisions that promise less.

        Returns:
            The chosen settings, their time and memory, and all trials.

        Raises:
            ModelError: the plain settings do not run here.
        """
        network, request, budget = self.spec.network, self.request, Budget(seconds, self.clock)
        edge = min(sizes)
        base = choose_plain_settings(network, request, self._threads)
        known = known or choose_default_settings(network, request, self._threads)
        variants = order_by_promise(vary_engine(network, request, base), known)
        candidates = self.load_candidates(variants, sample, edge, budget)
        reference = candidates[0].labels
        trials = self.time_candidates(candidates, edge, reference, budget)
        loading = max(candidate.loading_seconds for candidate in candidates)
        del candidates  # with their networks, which would count in the memory of what follows
        finals = self._time_finalists(trials, sample, sorted(sizes)[len(sizes) // 2], loading, budget)
        best = self._choose_best(finals or trials)
        trials += finals
        for vary in (partial(vary_threads, threads=self._threads), vary_batch):
            variants = list(vary(request, best))
            if variants == [best]:
                continue
            if budget.allows(_expect_seconds(variants, edge, trials, loading)):
                more = self.time_candidates(self.load_candidates(variants, sample, edge), edge, reference, budget)
                best = self._choose_best(more)
                trials += more
            else:
                best = replace(best, batch=known.batch)
        measurement = self._measure_windows(best, sample, sizes, tuple(trials), budget)
        release_memory()  # the run that follows in this process starts without the memory of the largest window
        return measurement

    @property
    def _threads(self) -> int:
        return self.request.threads or self.threads or torch.get_num_threads()

    def load_candidates(
        self, variants: Sequence[EngineSettings], sample: Sample, edge: int, budget: Budget | None = None
    ) -> list[Candidate]:
        """Load and run the network once with each settings, which compiles kernels and fills caches.

        Args:
            variants: settings; the first must work, and others that do not run here or do not fit into the device's
                memory are logged and left out.
            sample: digital numbers (bands, N, N) and valid (N, N).
            edge: of the windows to run, in pixels.
            budget: what is begun after the second settings only as far as it goes; None for no end.

        Returns:
            The settings that work, in the same order.

        Raises:
            ModelError: the first settings do not work.
        """
        budget = budget or Budget(clock=self.clock)
        candidates: list[Candidate] = []
        slowest = forwards = 0.0
        for tried, settings in enumerate(variants):
            # What follows the loading must fit, too: a forward of each, and the windows with the best of them.
            if tried > 1 and not budget.allows((_LOADING_RATIO + 2) * slowest + forwards):
                break
            try:
                candidates.append(self._load_candidate(settings, sample, edge))
                slowest = max(slowest, candidates[-1].loading_seconds + candidates[-1].first_seconds)
                forwards += candidates[-1].first_seconds
            except (ModelError, torch.cuda.OutOfMemoryError) as error:
                if not candidates:
                    raise
                log.warning("%s in %s is not tried: %s", settings.engine, settings.precision, error)
        return candidates

    def _load_candidate(self, settings: EngineSettings, sample: Sample, edge: int) -> Candidate:
        started = self.clock()
        forward = self._make_forward(settings, sample, edge)
        loaded = self.clock()
        labels = argmax_labels(forward())
        return Candidate(settings, forward, labels, loaded - started, self.clock() - loaded)

    def time_candidates(
        self,
        candidates: Sequence[Candidate],
        edge: int,
        reference: NDArray[np.uint8],
        budget: Budget | None = None,
    ) -> list[Trial]:
        """Time candidates in turns and compare their labels with a reference.

        Args:
            candidates: from ``load_candidates``.
            edge: of their windows, in pixels.
            reference: labels (H, W) of plain float32.
            budget: how long it may take; None for no end.

        Returns:
            One trial for each candidate.
        """
        one_batch_size = len({candidate.settings.batch for candidate in candidates}) == 1
        times = time_in_turns(
            [candidate.forward for candidate in candidates],
            budget or Budget(clock=self.clock),
            _HOPELESS_TIME_RATIO if one_batch_size else math.inf,
        )
        return [
            self._judge(candidate, seconds, edge, reference)
            for candidate, seconds in zip(candidates, times, strict=True)
        ]

    def _judge(self, candidate: Candidate, seconds: float, edge: int, reference: NDArray[np.uint8]) -> Trial:
        """Return the trial of a candidate whose forward of a batch took so many seconds."""
        return Trial(
            candidate.settings,
            edge,
            seconds / (edge**2 * candidate.settings.batch),
            compute_agreement(candidate.labels, reference),
            float(np.nanmean(iou(confusion_matrix(candidate.labels, reference, len(self.spec.classes))))),
        )

    def _time_finalists(
        self, trials: Sequence[Trial], sample: Sample, edge: int, loading: float, budget: Budget
    ) -> list[Trial]:
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
        if not budget.allows(_expect_seconds(list(finalists), edge, list(finalists.values()), loading)):
            return []
        candidates = self.load_candidates(list(finalists), sample, edge)
        times = time_in_turns([candidate.forward for candidate in candidates], budget)
        return [
            replace(
                finalists[candidate.settings],
                window=edge,
                seconds_per_pixel=seconds / (edge**2 * candidate.settings.batch),
            )
            for candidate, seconds in zip(candidates, times, strict=True)
        ]

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
        self,
        settings: EngineSettings,
        sample: Sample,
        sizes: Sequence[int],
        trials: tuple[Trial, ...],
        budget: Budget,
    ) -> Measurement:
        """Measure time and memory of windows, up to the largest that the device's memory and the budget allow."""
        smallest = min(sizes)
        measurement = Measurement(
            settings, {smallest: 0.0}, release_memory(), 0.0, trials, read_device_memory(settings), self.request.batch
        )
        forwards: dict[int, Callable[[], object]] = {}
        expected = 0.0  # seconds of the next larger window, per pixel of a batch
        for edge in sorted(sizes):
            edge_settings = measurement.settings_for(edge)
            pixels = edge**2 * edge_settings.batch
            if forwards and not budget.allows(expected * pixels):
                break
            started = self.clock()
            forward, before = self._make_forward(edge_settings, sample, edge), release_memory()
            self.reset_peak_memory()
            try:
                forward()
            except torch.cuda.OutOfMemoryError:
                break  # larger windows do not fit either
            expected = _WINDOW_RATIO * (self.clock() - started) / pixels
            added = torch.cuda.max_memory_allocated() if edge_settings.device == "cuda" else self.peak_memory() - before
            forwards[edge] = forward
            # Only the smallest window's process memory counts: some engines keep what they plan for earlier windows.
            process_bytes = max(measurement.process_bytes, before) if edge == smallest else measurement.process_bytes
            measurement = replace(
                measurement,
                process_bytes=process_bytes,
                bytes_per_pixel=max(measurement.bytes_per_pixel, added / pixels),
            )
        times = time_in_turns(list(forwards.values()), budget)
        counts = [edge**2 * measurement.settings_for(edge).batch for edge in forwards]
        return replace(
            measurement, seconds={edge: time / count for edge, time, count in zip(forwards, times, counts, strict=True)}
        )


def _expect_seconds(
    variants: Sequence[EngineSettings], edge: int, trials: Sequence[Trial], loading_seconds: float
) -> float:
    """Return how long it may take to load settings and to time them on windows of this edge.

    Args:
        variants: the settings.
        edge: of the windows, in pixels.
        trials: what is known of the speed.
        loading_seconds: what it took at most to load a network.
    """
    batch_seconds = _FORWARDS * edge**2 * max(trial.seconds_per_pixel for trial in trials)
    return sum(loading_seconds + batch_seconds * variant.batch for variant in variants)


def read_device_memory(settings: EngineSettings) -> int:
    """Return the bytes of the CUDA device; 0 on a CPU."""
    return int(torch.cuda.mem_get_info()[1]) if settings.device == "cuda" else 0


@contextmanager
def _collect_only_own_garbage() -> Iterator[None]:
    """Let collections of garbage look only at what is made inside; the rest of the process costs each 0.1 s."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def release_memory() -> int:
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
