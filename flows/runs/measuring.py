"""Measure a model on a worker once, and remember it for this kind of machine."""

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

import numpy as np
from distributed import Client

from seamline.flows.settings.model_folder import Model, get_radiometry
from seamline.flows.settings.options import SegmentOptions
from seamline.model.spec.measurement import Measurement, Sample
from seamline.pipeline.common.memory import read_peak_memory, reset_peak_memory
from seamline.pipeline.execution.cluster import list_first_host_workers, run_on_first_host
from seamline.pipeline.execution.planning import UNBOUNDED_HALO, Reach
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.scenes.scene import Scene, read_block
from seamline.pipeline.storage.atomic import atomic_write

log = logging.getLogger("seamline.measuring")

TIMED_WINDOWS = (512, 1024, 2048)
"""Edges of the windows that are timed; a scene smaller than one is not timed with larger ones."""
COMPARED_EDGE = 256
"""Edge of the labels that are compared at the widest margin."""
_MEASURING_LOCK = Lock()
"""Scenes that a flow plans at once are measured once: two measurements would slow each other."""


def measure(
    client: Client,
    scene: Scene,
    model: Model,
    options: SegmentOptions,
    halo: int,
    threads: int,
    say: Callable[[str], None] = lambda text: None,
) -> Measurement:
    """How ``model`` runs best on the client's workers; measured in a few seconds, as ``say`` is told.

    All workers of the first one's host measure at once, since they will run at once: they share its cores, caches and
    memory, or its devices.

    The outcome is kept in ``$XDG_CACHE_HOME/seamline`` (default ``~/.cache/seamline``) under the model's digest, the
    kind of device and the options, so that later scenes start at once. A scene that can use larger windows than those
    before has them all measured anew.
    """
    sizes = choose_timed_windows(max(scene.grid.shape), halo, model.reach, options.window)
    host = len(list_first_host_workers(client))
    (device,) = run_on_first_host(client, 1, describe_device)
    path = _get_cache_path(device, host, model.digest, halo, options.engine_request, threads)
    with _MEASURING_LOCK:
        known = _read_cached_measurement(path)
        if known is not None and (options.window is not None or set(sizes) <= set(known.seconds)):
            return known  # of a window that the user fixed no more is asked than how it runs
        say(f"measuring how {model.spec.name} runs best here; it is remembered")
        sizes = tuple(sorted({*sizes, *(known.seconds if known else ())}))
        from seamline.model.engines.tune import Tuner  # torch, which takes seconds to import: where it is needed

        tuner = Tuner(
            model.spec,
            model.folder,
            get_radiometry(scene),
            halo,
            options.engine_request,
            threads,
            reset_peak_memory,
            read_peak_memory,
        )
        sample = read_sample(scene, min(sizes))
        found = run_on_first_host(client, None, tuner, sample, sizes)[0]
        _write_cache(path, found.to_dict())
    return found


def measure_context(
    client: Client, scene: Scene, model: Model, options: SegmentOptions, tried: tuple[int, ...], threads: int
) -> dict[int, float]:
    """For each margin of ``tried`` the share of the scene's labels that more context would change.

    Found on a sample, on one worker, and kept beside the other measurements under the sample's digest; ``{}`` for a
    network whose only window is too small to be compared with another.
    """
    reach = model.reach
    edge, around = _choose_context_sizes(tried, reach)
    if not tried or not around:
        return {}
    pixels, valid = sample = read_sample(scene, edge + 2 * around)
    digest = hashlib.sha256(pixels.tobytes() + valid.tobytes()).hexdigest()
    (device,) = run_on_first_host(client, 1, describe_device)
    path = _get_cache_path(
        "context", device, model.digest, digest, get_radiometry(scene), options.engine_request, tried
    )
    with suppress(OSError, ValueError, TypeError, AttributeError):
        known = {int(margin): float(share) for margin, share in json.loads(path.read_text(encoding="utf-8")).items()}
        if not known or (set(known) == set(tried) and all(0 <= share <= 1 for share in known.values())):
            return known
    from seamline.model.engines.context_meter import ContextMeter  # torch, as above

    meter = ContextMeter(model.spec, model.folder, get_radiometry(scene), options.engine_request, threads)
    (found,) = run_on_first_host(client, 1, meter, sample, edge, tried)
    _write_cache(path, found)
    return found


def _choose_context_sizes(tried: tuple[int, ...], reach: Reach) -> tuple[int, int]:
    """Edge of the window that is compared, and of the band around it that it is compared with."""
    if reach.window is not None:
        return reach.window, reach.window // 4 // reach.divisor * reach.divisor
    most = max((*tried, UNBOUNDED_HALO))
    return reach.round_up_to_lattice(2 * most + COMPARED_EDGE), reach.round_up_to_lattice(most)


def _write_cache(path: Path, values: object) -> None:
    """Where it cannot be kept, it is measured again another time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, shared=True) as part:
            part.write_text(json.dumps(values, indent=2), encoding="utf-8")
    except OSError as error:
        log.warning("what was measured cannot be kept: %s", error)


def describe_device() -> str:
    """What a worker computes on, and with: two that say the same run a network alike."""
    import torch

    software = ", ".join(f"{name} {number}" for name, number in list_engine_versions().items())
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {software}"
    flags = torch.backends.cpu.get_cpu_capability()
    return f"{platform.processor() or platform.machine()} {flags}, {os.cpu_count()} cores, {software}"


def list_engine_versions() -> dict[str, str]:
    """Of what runs networks here."""
    found = {}
    for name in ("torch", "onnxruntime", "openvino", "onnx"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def read_sample(scene: Scene, edge: int) -> Sample:
    """A window of the scene with as many valid pixels as seven places have to offer, mirrored where it overhangs."""
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
    """Edges of the windows to time: the one that is fixed, otherwise those that the scene can use."""
    if (only := reach.window or fixed) is not None:
        return (only,)
    useful = tuple(size for size in TIMED_WINDOWS if 2 * halo < size <= extent + 2 * halo)
    return useful or ((2 * halo // reach.divisor + 8) * reach.divisor,)


def _get_cache_path(*what: object) -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    digest = hashlib.sha256(json.dumps([str(part) for part in what]).encode()).hexdigest()
    return root / "seamline" / f"{digest[:24]}.json"


def _read_cached_measurement(path: Path) -> Measurement | None:
    try:
        return Measurement.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None  # never measured, or by another version
