"""Find out how a network runs best on this machine, by a short measurement on real windows.

Engine, precision and layout are tried together on small windows, the best of each engine once more on larger ones.
Threads and batch follow, each with the best of the ones before. What does not run as the first, plain float32, is taken
only where its labels agree with those of that.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from seamline.model.engines.engines import check_engine, has_onednn, is_installed, list_engines, list_precisions
from seamline.model.engines.runtime import Runtime
from seamline.model.networks.onnx_graphs import not_installed_error
from seamline.model.spec.config import Engine, EngineRequest, EngineSettings, Program, Radiometry, UNetConfig
from seamline.model.spec.errors import ModelError
from seamline.model.spec.measurement import Measurement, Sample, Trial
from seamline.model.spec.metrics import confusion_matrix, iou
from seamline.model.spec.spec import ModelSpec

log = logging.getLogger("seamline.tune")

SAME_TIME_RATIO = 1.1
"""Times that differ by less are the same."""
HOPELESS_TIME_RATIO = 1.5
"""What took so many times the least time in the first round, or on small windows, will not win."""
TIME_BUDGET = 5.0
"""Seconds of a measurement after which another round would tell nothing new."""


@dataclass(frozen=True)
class _Candidate:
    """A way to run that works here: timed by calling ``forward``."""

    settings: EngineSettings
    forward: Callable[[], object]
    labels: NDArray[np.uint8]


@dataclass(frozen=True)
class Tuner:
    """Measures one model on one machine; picklable, to be sent to the worker that shall do it."""

    spec: ModelSpec
    folder: Path
    radiometry: Radiometry
    halo: int
    wish: EngineRequest
    threads: int
    """What this worker may use at most; 0: all that torch sees."""
    reset_peak_memory: Callable[[], None]
    peak_memory: Callable[[], int]
    """The most bytes that the process held since the last reset."""

    def __call__(self, sample: Sample, sizes: Sequence[int]) -> Measurement:
        """Measure on a piece of the scene; ``sizes`` are the edges of windows that a plan might take.

        Labels are compared and settings chosen on the smallest size; the others are timed with the choice.
        """
        first = min(sizes)
        base = self._choose_baseline()
        attempts = self._load_candidates(list(self._vary_engine(base)), sample, first)
        reference = attempts[0].labels
        trials = self._time_candidates(attempts, first, reference)
        del attempts
        finals = self._time_finalists(trials, sample, sorted(sizes)[len(sizes) // 2])
        best = self._best(finals or trials)
        trials += finals
        for candidates in (self._vary_threads, self._vary_batch):
            if (ways := list(candidates(best))) != [best]:
                tried = self._time_candidates(self._load_candidates(ways, sample, first), first, reference)
                best = self._best(tried)
                trials += tried
        measured = self._measure_windows(best, sample, sizes, tuple(trials))
        _release_memory()  # what the largest window took is not the run's
        return measured

    def _choose_baseline(self) -> EngineSettings:
        """The plain way, which must work: its labels are what the others must agree with."""
        return choose_plain_settings(self.spec.network, self.wish, self._threads)

    def _list_engines(self, device: str) -> list[Engine]:
        return _list_engines_to_try(self.spec.network, device)

    @property
    def _threads(self) -> int:
        return self.wish.threads or self.threads or torch.get_num_threads()

    def _vary_engine(self, base: EngineSettings) -> Iterator[EngineSettings]:
        """Engines, precisions and layouts, ``base`` first."""
        network, wish = self.spec.network, self.wish
        for engine in [base.engine] if wish.engine != "auto" else self._list_engines(base.device):
            able = list_precisions(network, engine, base.device)
            if wish.precision != "auto":
                able = (wish.precision,) if engine == base.engine or wish.precision in able else ()
            for precision in able:
                for channels_last in _list_layouts(network, engine):
                    yield replace(base, engine=engine, precision=precision, channels_last=channels_last)

    def _vary_threads(self, base: EngineSettings) -> Iterator[EngineSettings]:
        counts = {self._threads}
        if base.device == "cpu" and self.wish.threads is None:
            counts.add(max(1, self._threads // 2))
        return (replace(base, threads=count) for count in sorted(counts, reverse=True))

    def _vary_batch(self, base: EngineSettings) -> Iterator[EngineSettings]:
        if self.wish.batch is not None or base.engine not in ("torch", "compiled"):
            return iter([base])  # graphs are run window by window
        sizes = (1, 2, 4, 8, 16) if base.device == "cuda" else (1, 2)
        return (replace(base, batch=size) for size in sizes)

    def _load_candidates(self, candidates: Sequence[EngineSettings], sample: Sample, edge: int) -> list[_Candidate]:
        """Run each once, which compiles kernels and fills caches.

        The first must work. What does not run here, or does not fit into the device's memory, is left out.
        """
        attempts: list[_Candidate] = []
        for settings in candidates:
            try:
                forward = self._forward(settings, sample, edge)
                attempts.append(_Candidate(settings, forward, argmax_labels(forward())))
            except (ModelError, torch.cuda.OutOfMemoryError) as error:
                if not attempts:
                    raise
                log.warning("%s in %s is not tried: %s", settings.engine, settings.precision, error)
        return attempts

    def _time_candidates(self, attempts: Sequence[_Candidate], edge: int, reference: NDArray[np.uint8]) -> list[Trial]:
        """Time the attempts in turns."""
        classes = len(self.spec.classes)
        alike = len({attempt.settings.batch for attempt in attempts}) == 1
        times = _time_in_turns([attempt.forward for attempt in attempts], HOPELESS_TIME_RATIO if alike else math.inf)
        return [
            Trial(
                attempt.settings,
                edge,
                seconds / (edge**2 * attempt.settings.batch),
                compute_agreement(attempt.labels, reference),
                float(np.nanmean(iou(confusion_matrix(attempt.labels, reference, classes)))),
            )
            for attempt, seconds in zip(attempts, times, strict=True)
        ]

    def _time_finalists(self, trials: Sequence[Trial], sample: Sample, edge: int) -> list[Trial]:
        """The best way of each engine on larger windows, where it might be the fastest; none if there is one engine."""
        agreeing = self._select_agreeing(trials)
        least = min(trial.seconds_per_pixel for trial in agreeing)
        best: dict[Engine, Trial] = {}
        for trial in sorted(agreeing, key=lambda trial: trial.seconds_per_pixel):
            if trial.seconds_per_pixel <= HOPELESS_TIME_RATIO * least:
                best.setdefault(trial.settings.engine, trial)
        if len(best) < 2 or edge == trials[0].window:
            return []
        finalists = [trial for trial in trials if trial in best.values()]  # in their order
        attempts = self._load_candidates([trial.settings for trial in finalists], sample, edge)
        times = _time_in_turns([attempt.forward for attempt in attempts])
        known = {trial.settings: trial for trial in finalists}
        return [
            replace(known[a.settings], window=edge, seconds_per_pixel=seconds / (edge**2 * a.settings.batch))
            for a, seconds in zip(attempts, times, strict=True)
        ]

    def _select_agreeing(self, trials: Sequence[Trial]) -> list[Trial]:
        return [trial for trial in trials if trial.is_accurate or self.wish.precision != "auto"]

    def _best(self, trials: Sequence[Trial]) -> EngineSettings:
        """The candidates come in the order of what they cost: a later one must be worth it."""
        agreeing = self._select_agreeing(trials)
        least = min(trial.seconds_per_pixel for trial in agreeing)
        return next(trial for trial in agreeing if trial.seconds_per_pixel <= SAME_TIME_RATIO * least).settings

    def _forward(self, settings: EngineSettings, sample: Sample, edge: int) -> Callable[[], Tensor]:
        """One batch of windows; returns the scores of the first."""
        runtime = self._runtime(settings)
        pixels, valid = _resize_sample(sample, edge)
        runtime.prepare(edge)

        def forward() -> Tensor:
            if settings.threads:  # of the process, so each of the candidates sets its own
                torch.set_num_threads(settings.threads)
            scores, *_ = runtime.predict([pixels] * settings.batch, [valid] * settings.batch)
            if settings.device == "cuda":
                torch.cuda.synchronize()
            return scores

        return forward

    def _runtime(self, settings: EngineSettings) -> Runtime:
        return Runtime(self.spec, self.folder, settings, self.radiometry, self.halo)

    def _measure_windows(
        self, settings: EngineSettings, sample: Sample, sizes: Sequence[int], trials: tuple[Trial, ...]
    ) -> Measurement:
        found = Measurement(
            settings,
            {min(sizes): 0.0},
            _release_memory(),
            0.0,
            trials,
            _read_device_memory(settings),
            batch=self.wish.batch,
        )
        forwards: dict[int, Callable[[], object]] = {}
        for edge in sorted(sizes):
            own = found.settings_for(edge)
            forward, before = self._forward(own, sample, edge), _release_memory()
            self.reset_peak_memory()
            try:
                forward()
            except torch.cuda.OutOfMemoryError:
                break  # nor do the larger ones fit
            added = torch.cuda.max_memory_allocated() if own.device == "cuda" else self.peak_memory() - before
            forwards[edge] = forward
            found = replace(
                found,
                # Of the first alone: engines that plan their memory keep it, as long as those runtimes live.
                process_bytes=max(found.process_bytes, before) if edge == min(sizes) else found.process_bytes,
                bytes_per_pixel=max(found.bytes_per_pixel, added / (edge**2 * own.batch)),
            )
        times = _time_in_turns(list(forwards.values()))
        pixels = [edge**2 * found.settings_for(edge).batch for edge in forwards]
        seconds = {edge: time / count for edge, time, count in zip(forwards, times, pixels, strict=True)}
        return replace(found, seconds=seconds)


def _read_device_memory(settings: EngineSettings) -> int:
    return int(torch.cuda.mem_get_info()[1]) if settings.device == "cuda" else 0


def _release_memory() -> int:
    """Bytes that the process holds after it gave back what it does not use."""
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


def choose_plain_settings(network: UNetConfig | Program, wish: EngineRequest, threads: int) -> EngineSettings:
    """The plain way to run a network, within what the user fixes: float32, in the engine that comes first.

    Raises:
        ModelError: that cannot run here.
    """
    device = wish.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = "fp32" if wish.precision == "auto" else wish.precision
    if wish.engine != "auto":
        engine = wish.engine
    elif there := _list_engines_to_try(network, device):
        engine = there[0]
    else:
        raise not_installed_error(list_engines(network, device)[0])
    if engine == "torch" and device == "cpu" and precision in ("bf16", "fp16") and not has_onednn(precision):
        raise ModelError(
            "--precision", got=precision, expected="fp32, which this CPU is made for", fix="leave it to be measured"
        )
    settings = EngineSettings(device, precision, _list_layouts(network, engine)[0], wish.batch or 1, threads, engine)
    check_engine(network, settings)
    return settings


def _list_engines_to_try(network: UNetConfig | Program, device: str) -> list[Engine]:
    """torch's compiler takes minutes on a CPU, and is only taken by those who ask for it."""
    return [
        engine for engine in list_engines(network, device) if engine != "compiled" and is_installed(network, engine)
    ]


def argmax_labels(scores: Tensor) -> NDArray[np.uint8]:
    """The most probable class of each pixel (H, W) of scores (classes, H, W)."""
    return np.asarray(scores.argmax(0).cpu().numpy()).astype(np.uint8)


def compute_agreement(labels: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """The share of pixels (H, W) with the same label, in the quarter of the window where it is least.

    A sample is small beside its scene, and most of it may be easy: its hardest part says more of what is to come.
    """
    alike = labels == reference
    return min(
        float(quarter.mean()) for half in np.array_split(alike, 2) for quarter in np.array_split(half, 2, axis=1)
    )


def _list_layouts(network: object, engine: Engine) -> tuple[bool, ...]:
    """Whether channels come last: both ways where they may and each is quickly tried."""
    if not isinstance(network, UNetConfig):
        return (False,)
    return {"torch": (False, True), "compiled": (True,)}.get(engine, (False,))


def _time_in_turns(forwards: Sequence[Callable[[], object]], beaten: float = math.inf, rounds: int = 3) -> list[float]:
    """Least seconds of each, warmed up before; in turns, so that what else the machine does meets all of them.

    The least, since all that can happen to a measurement makes it longer. A slow network is not timed again:
    what disturbs a measurement is short. Nor is what took ``beaten`` times as long as the fastest.
    """
    least = np.full(len(forwards), np.inf)
    begun = time.perf_counter()
    for _ in range(rounds):
        for position in np.flatnonzero(~np.isfinite(least) | (least <= beaten * least.min())).tolist():
            started = time.perf_counter()
            forwards[position]()
            least[position] = min(least[position], time.perf_counter() - started)
        if time.perf_counter() - begun > TIME_BUDGET:
            break
    return least.tolist()


def _resize_sample(sample: Sample, edge: int) -> Sample:
    """The sample repeated or cut to ``edge``² pixels."""
    pixels, valid = sample
    times = -(-edge // valid.shape[-1])
    return (
        np.ascontiguousarray(np.tile(pixels, (1, times, times))[:, :edge, :edge]),
        np.ascontiguousarray(np.tile(valid, (times, times))[:edge, :edge]),
    )
