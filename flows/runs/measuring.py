"""Measure how a model runs on a worker, and cache the result for this kind of machine."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from distributed import Client

from seamline.flows.settings.folders import get_cache_folder
from seamline.flows.settings.model_folder import Model, get_radiometry
from seamline.flows.settings.options import SegmentOptions
from seamline.model.spec.config import Radiometry
from seamline.model.spec.measurement import Measurement, Sample
from seamline.pipeline.cluster.losses import get_known_workers
from seamline.pipeline.cluster.workers import list_first_host_workers, run_on_first_host
from seamline.pipeline.common.memory import read_peak_memory, reset_peak_memory
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.planning.tilings import UNBOUNDED_HALO, Reach
from seamline.pipeline.scenes.scene import Scene, read_block
from seamline.pipeline.storage.atomic import atomic_write

if TYPE_CHECKING:
    from seamline.model.engines.tune import Tuner

log = logging.getLogger("seamline.measuring")

TIMED_WINDOWS = (512, 1024, 2048)
"""Edges in pixels of the windows that are timed. Windows larger than the scene are not."""

_COMPARED_EDGE = 256
"""Edge in pixels of the labels that are compared with the largest halo."""

_MEASURING_LOCK = Lock()
"""Held while a model is measured: two measurements at once, of scenes that one flow plans, would slow each other."""


def measure(
    client: Client,
    scene: Scene,
    model: Model,
    options: SegmentOptions,
    halo: int,
    threads: int,
    say: Callable[[str], None] = lambda text: None,
) -> Measurement:
    """Measure how a model runs best on the workers; takes seconds unless the result is cached.

    All workers on the first worker's host measure at once. In a run, too, they share its cores, caches and memory, or
    its devices.

    The cache is in ``$XDG_CACHE_HOME/seamline`` (default ``~/.cache/seamline``). Its key holds the model's digest, the
    kind of device and the options. For a scene that can use larger windows than those before, all are measured anew.

    Args:
        client: client of the cluster.
        scene: the scene; a sample of it is inferred.
        model: the model.
        options: what the user fixes.
        halo: pixels on every side of a window that are thrown away.
        threads: the most threads of a worker's network; 0 leaves them to torch.
        say: is called with a sentence before a measurement that is not cached.

    Returns:
        Settings, times and memory.

    Raises:
        ModelError: the network does not run on the workers.
        RunError: there are no workers and none joins.
    """
    windows = choose_timed_windows(max(scene.grid.shape), halo, model.reach, options.window)
    processes = len(list_first_host_workers(client))
    (device,) = run_on_first_host(client, 1, describe_device)
    path = _get_cache_path(device, processes, model.digest, halo, options.engine_request, threads)
    with _MEASURING_LOCK:
        cached = _read_cached_measurement(path)
        if cached is not None and (options.window is not None or set(windows) <= set(cached.seconds)):
            return cached  # of a window that the user fixes only the settings matter, not the time
        say(f"measuring how {model.spec.name} runs best here; it is remembered")
        windows = tuple(sorted({*windows, *(cached.seconds if cached else ())}))
        tuner = make_tuner(model, get_radiometry(scene), halo, options, threads)
        sample = read_sample(scene, min(windows))
        measurement = run_on_first_host(client, None, tuner, sample, windows)[0]
        _write_cache(path, measurement.to_dict())
    return measurement


def make_tuner(model: Model, radiometry: Radiometry, halo: int, options: SegmentOptions, threads: int) -> Tuner:
    """Return the callable that measures a model on a worker.

    Args:
        model: the model.
        radiometry: meaning of the sample's digital numbers.
        halo: pixels on every side of a window that are thrown away.
        options: what the user fixes.
        threads: the most threads of the network; 0 leaves them to torch.

    Returns:
        A picklable callable that takes a sample and the edges of windows.
    """
    from seamline.model.engines.tune import Tuner  # imports torch, which takes seconds: only where it is needed

    return Tuner(
        model.spec,
        model.folder,
        radiometry,
        halo,
        options.engine_request,
        threads,
        reset_peak_memory,
        read_peak_memory,
    )


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
    path = _get_cache_path("context", device, model.digest, digest, radiometry, options.engine_request, halos)
    cached = _read_cached_context(path, halos)
    if cached is not None:
        return cached
    from seamline.model.engines.context_meter import ContextMeter  # imports torch, which takes seconds

    meter = ContextMeter(model.spec, model.folder, radiometry, options.engine_request, threads)
    (changed,) = run_on_first_host(client, 1, meter, sample, edge, halos)
    _write_cache(path, changed)
    return changed


def _choose_context_sizes(halos: tuple[int, ...], reach: Reach) -> tuple[int, int]:
    """Return the edge of the window that is compared, and the width of the context around it, in pixels."""
    if reach.window is not None:
        return reach.window, reach.window // 4 // reach.divisor * reach.divisor
    largest = max((*halos, UNBOUNDED_HALO))
    return reach.round_up_to_lattice(2 * largest + _COMPARED_EDGE), reach.round_up_to_lattice(largest)


def describe_device() -> str:
    """Return a description of what this worker computes on and with; equal ones run a network alike."""
    import torch  # takes seconds to import; this runs on a worker

    software = ", ".join(f"{name} {number}" for name, number in list_engine_versions().items())
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {software}"
    flags = torch.backends.cpu.get_cpu_capability()
    return f"{platform.processor() or platform.machine()} {flags}, {os.cpu_count()} cores, {software}"


def load_engines(client: Client) -> Client:
    """Let all workers that are there import torch, which takes seconds, and return the client."""
    with suppress(OSError, RuntimeError):  # lost workers are noticed by whoever needs them
        workers = get_known_workers(client)
        client.gather([client.submit(describe_device, workers=[address], pure=False) for address in workers], "skip")
    return client


def list_engine_versions() -> dict[str, str]:
    """Return the versions of the installed packages that run networks, by name."""
    versions = {}
    for name in ("torch", "onnxruntime", "openvino", "onnx"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


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


def _get_cache_path(*key: object) -> Path:
    """Return the cache file for a key; the key's values are told apart by ``str``."""
    digest = hashlib.sha256(json.dumps([str(part) for part in key]).encode()).hexdigest()
    return get_cache_folder() / f"{digest[:24]}.json"


def _read_cached_measurement(path: Path) -> Measurement | None:
    try:
        return Measurement.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None  # never measured, or by another version


def _read_cached_context(path: Path, halos: tuple[int, ...]) -> dict[int, float] | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8")).items()
        changed = {int(halo): float(share) for halo, share in values}
    except (OSError, ValueError, TypeError, AttributeError):
        return None  # never measured, or damaged
    is_usable = not changed or (set(changed) == set(halos) and all(0 <= share <= 1 for share in changed.values()))
    return changed if is_usable else None


def _write_cache(path: Path, values: object) -> None:
    """Write a cache file. A failed write only costs another measurement, so it is logged and not raised."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, shared=True) as part:
            part.write_text(json.dumps(values, indent=2), encoding="utf-8")
    except OSError as error:
        log.warning("what was measured cannot be kept: %s", error)
