"""Find out how a model runs best on the workers, and cache the result for this kind of machine.

A window of the scene is checked, which takes a second or two. Only where the run is long is more measured, for at most
a tenth of what it takes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import numpy as np
from distributed import Client, fire_and_forget

from seamline.flows.settings.engine_meter import EngineMeter, describe_device
from seamline.flows.settings.findings import Findings, get_cache_path, read_findings, write_cache, write_findings
from seamline.flows.settings.model_folder import Model, get_radiometry
from seamline.flows.settings.options import SegmentOptions
from seamline.model.spec.config import EngineRequest
from seamline.model.spec.measurement import Measurement, Sample
from seamline.pipeline.cluster.inference_thread import run_on_inference_thread
from seamline.pipeline.cluster.losses import get_known_workers
from seamline.pipeline.cluster.workers import list_first_host_workers, run_on_first_host
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.planning.tilings import UNBOUNDED_HALO, Reach
from seamline.pipeline.scenes.scene import Scene, read_block

log = logging.getLogger("seamline.measuring")

TIMED_WINDOWS = (512, 1024, 2048)
"""Edges in pixels of the windows that are timed. Windows larger than the scene are not."""

_COMPARED_EDGE = 256
"""Edge in pixels of the labels that are compared with the largest halo."""

_MEASURING_SHARE = 0.1
"""Share of a run's projected seconds that may be spent on finding out how it runs best."""

_LEAST_CHECKS = 4
"""A measurement that may take less than so many times as long as the check would try nothing that is not known."""

_RENEWAL_RATIO = 2
"""A measurement is made anew where it may take at least so many times as long as the last one."""

_MEMORY_GROWTH = {"torch": 1.3, "compiled": 1.3}
_GRAPH_MEMORY_GROWTH = 1.75
"""Factors on the memory per pixel of windows larger than those measured, by engine; of graphs. Measured from 512 to
2560 pixels: up to 1.3 in torch, 1.74 in ONNX Runtime, 1.5 in OpenVINO."""

_MEASURING_LOCK = Lock()
"""Held while a model is measured: two measurements at once, of scenes that one flow plans, would slow each other."""


def locate_findings(client: Client, meter: EngineMeter) -> Path:
    """Return the file of what is known of a model on the workers; it need not exist.

    It lies in ``$XDG_CACHE_HOME/seamline`` (default ``~/.cache/seamline``). Its key holds the model's digest, the kind
    of device, the number of workers on a host and the options, and nothing that tells machines of one kind apart.

    Raises:
        RunError: there are no workers and none joins.
    """
    addresses = list_first_host_workers(client)
    # A worker in the client's own process shares its memory with the client.
    processes = 0 if addresses[0].startswith("inproc://") else len(addresses)
    (device,) = run_on_first_host(client, 1, describe_device)
    return get_cache_path(device, processes, meter.model.digest, meter.halo, meter.request, meter.threads)


def measure(
    client: Client,
    scene: Scene,
    meter: EngineMeter,
    window: int | None,
    path: Path,
    project: Callable[[Measurement], float],
    say: Callable[[str], None] = lambda text: None,
) -> Measurement:
    """Find out how a model runs well on the workers: by a quick check, and by measuring where the run is long.

    The check runs one window in the settings that are known to be fast on such a machine and in float32. For a U-Net of
    which the user fixes all settings and the window nothing is run: time and memory are estimated, and checked only if
    the estimate does not fit into memory. A measurement
    follows only if the user leaves settings open and a tenth of the projected run is long enough; then it takes at
    most this tenth. Both are done by all workers on the first worker's host at once. In a run, too, they share its
    cores, caches and memory, or its devices. What was measured is measured anew where a longer run allows twice as
    long; between that, runs correct it (``Findings.correct``).

    Args:
        client: client of the cluster.
        scene: the scene; a sample of it is inferred.
        meter: the model, the halo and what the user fixes.
        window: edge in pixels of the windows that the user asks for, if any.
        path: file of what is known (``locate_findings``).
        project: returns the seconds that the run takes; raises ``InputError`` where it does not fit into memory.
        say: is called with a sentence before anything that is not cached.

    Returns:
        Settings, times and memory.

    Raises:
        InputError: no tiling fits into memory.
        ModelError: the network does not run on the workers.
        RunError: there are no workers and none joins.
    """
    reach = meter.model.reach
    windows = choose_timed_windows(max(scene.grid.shape), meter.halo, reach, window)
    check_window = _choose_check_window(windows, meter.halo, reach)
    workers = _Workers(client, scene, meter, say)
    is_fixed = meter.can_estimate(window)
    with _MEASURING_LOCK:
        known, spent = read_findings(path), 0.0
        if known is None or (known.is_estimate and not is_fixed):
            known = workers.estimate(windows[0]) if is_fixed else workers.check(check_window)
            spent = known.check_seconds
            write_findings(path, known)
        try:
            seconds = project(_allow_for_growth(known.corrected, windows))
        except InputError:
            if known.is_estimate:  # which is on the safe side
                known = workers.check(windows[0])
                write_findings(path, known)
                return known.measurement
            if window is None or window <= max(known.measurement.seconds):
                raise
            return workers.check(window).measurement  # what a window really needs may fit
        budget = _MEASURING_SHARE * seconds - spent
        if is_worth_measuring(meter.request, budget, known.check_seconds, known.budget):
            name = meter.model.spec.name
            say(f"a run of {seconds:.0f} s: measuring how {name} runs best here, at most {budget:.0f} s")
            known = workers.measure(tuple(sorted({check_window, *windows})), known, budget)
            write_findings(path, known)
    return _allow_for_growth(known.corrected, windows)


@dataclass(frozen=True)
class _Workers:
    """The workers of the first host, which check and measure a model all at once."""

    client: Client
    scene: Scene
    meter: EngineMeter
    say: Callable[[str], None]

    def estimate(self, edge: int) -> Findings:
        """Estimate what windows of this edge in pixels take, of a model whose settings are all fixed."""
        (estimated,) = run_on_first_host(self.client, 1, self.meter.estimate, edge)
        return Findings(estimated, check_seconds=0.0)

    def check(self, edge: int) -> Findings:
        """Check the model on a window of this edge in pixels."""
        self.say(f"checking on a window of {edge} how {self.meter.model.spec.name} runs here")
        started = time.monotonic()
        checked = run_on_first_host(self.client, None, self.meter.check, read_sample(self.scene, edge), edge)[0]
        return Findings(checked, time.monotonic() - started)

    def measure(self, sizes: tuple[int, ...], known: Findings, budget: float) -> Findings:
        """Measure windows of these edges in pixels within so many seconds."""
        started = time.monotonic()

        def show_progress() -> None:
            self.say(f"measuring: {time.monotonic() - started:.0f} of at most {budget:.0f} s")

        arguments = (read_sample(self.scene, min(sizes)), sizes, known.measurement.settings, budget)
        work = self.meter.measure
        measured = run_on_first_host(self.client, None, work, *arguments, while_waiting=show_progress)[0]
        return Findings(measured, known.check_seconds, budget)


def is_worth_measuring(request: EngineRequest, budget: float, check_seconds: float, last_budget: float) -> bool:
    """Return whether a measurement may find anything that is not known.

    Args:
        request: what the user fixes; if that is everything, nothing is measured.
        budget: seconds that the measurement may take.
        check_seconds: how long the check took.
        last_budget: seconds that an earlier measurement was given; 0 without one.
    """
    is_open = {"precision", "engine", "batch", "threads"} - set(request.get_fixed_settings())
    return bool(is_open) and budget >= max(_LEAST_CHECKS * check_seconds, _RENEWAL_RATIO * last_budget)


def _allow_for_growth(measurement: Measurement, windows: tuple[int, ...]) -> Measurement:
    """Return a measurement with more memory per pixel if windows may be larger than those that were measured."""
    if max(windows) <= max(measurement.seconds):
        return measurement
    growth = _MEMORY_GROWTH.get(measurement.settings.engine, _GRAPH_MEMORY_GROWTH)
    return replace(measurement, bytes_per_pixel=growth * measurement.bytes_per_pixel)


def measure_context(
    client: Client, scene: Scene, model: Model, options: SegmentOptions, halos: tuple[int, ...], threads: int
) -> dict[int, float]:
    """Measure the share of the scene's labels that more context would change, for each of several halos.

    A sample of the scene is inferred on one worker. The result is cached beside the other measurements; the digest of
    the sample is part of its key.

    Args:
        client: client of the cluster.
        scene: the scene.
        model: the model.
        options: what the user fixes.
        halos: halos in pixels.
        threads: the most threads of the worker's network; 0 leaves them to torch.

    Returns:
        Halo → share from 0 to 1. Empty for a network whose only window is too small to be compared with another.

    Raises:
        ModelError: the network does not run on the worker.
        RunError: there are no workers and none joins.
    """
    edge, around = _choose_context_sizes(halos, model.reach)
    if not halos or not around:
        return {}
    pixels, valid = sample = read_sample(scene, edge + 2 * around)
    digest = hashlib.sha256(pixels.tobytes() + valid.tobytes()).hexdigest()
    radiometry = get_radiometry(scene)
    (device,) = run_on_first_host(client, 1, describe_device)
    path = get_cache_path("context", device, model.digest, digest, radiometry, options.engine_request, halos)
    cached = _read_cached_context(path, halos)
    if cached is not None:
        return cached
    from seamline.model.engines.context_meter import ContextMeter  # imports torch, which takes seconds

    meter = ContextMeter(model.spec, model.folder, radiometry, options.engine_request, threads)
    changed: dict[int, float]
    (changed,) = run_on_first_host(client, 1, run_on_inference_thread, meter, sample, edge, halos)
    write_cache(path, changed)
    return changed


def _choose_context_sizes(halos: tuple[int, ...], reach: Reach) -> tuple[int, int]:
    """Return the edge of the window that is compared, and the width of the context around it, in pixels."""
    if reach.window is not None:
        return reach.window, reach.window // 4 // reach.divisor * reach.divisor
    largest = max((*halos, UNBOUNDED_HALO))
    return reach.round_up_to_lattice(2 * largest + _COMPARED_EDGE), reach.round_up_to_lattice(largest)


def load_engines(client: Client) -> Client:
    """Let all workers that are there begin to import torch, which takes seconds, and return the client.

    Nobody waits for them here: whoever needs a worker notices that it is lost. What one is asked another may answer,
    so that nothing is left that nobody can do.
    """
    with suppress(OSError, RuntimeError):
        for address in get_known_workers(client):
            asked = client.submit(describe_device, workers=[address], allow_other_workers=True, pure=False)
            fire_and_forget(asked)
    return client


def read_sample(scene: Scene, edge: int) -> Sample:
    """Read the window with the most valid pixels of seven places in the scene, mirrored where it overhangs.

    Args:
        scene: the scene.
        edge: of the window, in pixels.

    Returns:
        Digital numbers (bands, edge, edge) and valid (edge, edge).
    """
    height, width = scene.grid.shape
    best: Sample | None = None
    for down, across in ((0.5, 0.5), (0.5, 0.25), (0.5, 0.75), (0.25, 0.5), (0.75, 0.5), (0.25, 0.25), (0.75, 0.75)):
        window = Window(int(height * down) - edge // 2, int(width * across) - edge // 2, edge, edge)
        block = read_block(scene, window, "nodata")
        if best is None or block.valid.sum() > best[1].sum():
            best = np.ascontiguousarray(block.pixels), block.valid
        if block.valid.all():
            break
    assert best is not None
    return best


def choose_timed_windows(extent: int, halo: int, reach: Reach, fixed: int | None) -> tuple[int, ...]:
    """Return the edges of the windows to time: the fixed one, otherwise those that the scene can use.

    Args:
        extent: longer side of the scene in pixels.
        halo: pixels on every side of a window that are thrown away.
        reach: what the network needs; it may take one window only.
        fixed: the window that the user asks for, if any.

    Returns:
        Edges in pixels; at least one.
    """
    if (only := reach.window or fixed) is not None:
        return (only,)
    useful = tuple(edge for edge in TIMED_WINDOWS if 2 * halo < edge <= extent + 2 * halo)
    return useful or ((2 * halo // reach.divisor + 8) * reach.divisor,)


def _choose_check_window(windows: tuple[int, ...], halo: int, reach: Reach) -> int:
    """Return the edge of the window that is checked: the smallest that says something, in pixels."""
    smallest = min(windows)
    if reach.window is not None:
        return reach.window
    return next((edge for edge in TIMED_WINDOWS if 2 * halo < edge <= smallest), smallest)


def _read_cached_context(path: Path, halos: tuple[int, ...]) -> dict[int, float] | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8")).items()
        changed = {int(halo): float(share) for halo, share in values}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None  # never measured, or damaged
    is_usable = not changed or (set(changed) == set(halos) and all(0 <= share <= 1 for share in changed.values()))
    return changed if is_usable else None
