"""``seamline model tune``: time every promising way to run a network on this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from seamline.flows.runs.measuring import (
    TIMED_WINDOWS,
    choose_timed_windows,
    measure_context,
    read_sample,
)
from seamline.flows.runs.scene_job import describe_raster, open_input
from seamline.flows.settings.credentials import connect_with_credentials, use_credentials
from seamline.flows.settings.engine_meter import EngineMeter
from seamline.flows.settings.model_folder import Model, get_radiometry, open_model
from seamline.flows.settings.options import SegmentOptions
from seamline.model.spec.config import Radiometry
from seamline.model.spec.measurement import Measurement, Sample
from seamline.pipeline.cluster.machine import CORES
from seamline.pipeline.planning.tilings import candidate_halos, resolve_halo


def tune(model_name: str | Path, source: str | None, options: SegmentOptions) -> Measurement:
    """Measure a model anew in one worker process with all of the machine's threads; nothing is cached.

    Args:
        model_name: an embedded model's name or a model folder.
        source: a scene to take a sample of. Without one the sample is noise: its labels say less about reduced
            precisions, and nothing about the context that a scene needs.
        options: what the user fixes.

    Returns:
        Settings, times and memory, with all trials.

    Raises:
        InputError, ModelError: model, scene and options do not go together, or the network does not run here.
    """
    model = open_model(model_name)
    use_credentials(None)
    scene = None if source is None else open_input(source, model, options)
    threads = CORES
    with connect_with_credentials(None, "local", 1) as client:
        changed: dict[int, float] = {}
        if scene is not None:
            halos = candidate_halos(describe_raster(scene, model, options), options.plan_options, model.reach)
            changed = measure_context(client, scene, model, options, halos, threads)
        halo = resolve_halo(options.plan_options, model.reach, changed)
        windows = choose_timed_windows(max(TIMED_WINDOWS), halo, model.reach, options.window)
        if scene is None:
            radiometry, sample = _make_radiometry(model), _make_noise(model, min(windows))
        else:
            radiometry, sample = get_radiometry(scene), read_sample(scene, min(windows))
        meter = EngineMeter(model, radiometry, halo, options.engine_request, threads)
        measurement: Measurement = client.submit(meter.measure, sample, windows, pure=False).result()
    return replace(measurement, changed=changed)


def _make_radiometry(model: Model) -> Radiometry:
    """Return the radiometry of values in the unit of the training data, without nodata."""
    count = len(model.spec.bands)
    return Radiometry((1.0,) * count, (0.0,) * count, (None,) * count)


def _make_noise(model: Model, edge: int) -> Sample:
    """Return normal noise with mean and deviation of the training data, (bands, edge, edge) float32, all valid."""
    rng = np.random.default_rng(0)
    noise = [rng.normal(band.mean, band.std, (edge, edge)) for band in model.spec.bands]
    return np.array(noise, np.float32), np.ones((edge, edge), np.bool_)
