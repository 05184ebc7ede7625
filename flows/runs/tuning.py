"""``seamline model tune``: every way to run a network on this machine that is worth a trial, side by side."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from seamline.flows.runs.measuring import TIMED_WINDOWS, choose_timed_windows, measure_context, read_sample
from seamline.flows.runs.scene_job import describe_raster, open_input
from seamline.flows.settings.credentials import connect_with_credentials, use_credentials
from seamline.flows.settings.model_folder import Model, get_radiometry, open_model
from seamline.flows.settings.options import SegmentOptions
from seamline.model.spec.config import Radiometry
from seamline.model.spec.measurement import Measurement, Sample
from seamline.pipeline.common.memory import read_peak_memory, reset_peak_memory
from seamline.pipeline.execution.planning import candidate_halos, choose_halo, get_default_halo


def tune(model_name: str | Path, source: str | None, options: SegmentOptions) -> Measurement:
    """Measure a model anew in one worker process with all of the machine's threads; nothing is remembered.

    On windows of the scene ``source``; without one on noise, whose labels tell less about reduced precisions, and
    nothing about the context that a scene wants.
    """
    model = open_model(model_name)
    use_credentials(None)
    scene = None if source is None else open_input(source, model, options)
    threads = os.cpu_count() or 1
    with connect_with_credentials(None, "local", 1) as client:
        from seamline.model.engines.tune import (
            Tuner,  # torch, which takes seconds to import: after the worker was started
        )

        halo, changed = get_default_halo(options.plan_options, model.reach), {}
        if scene is not None:
            tried = candidate_halos(describe_raster(scene, model, options), options.plan_options, model.reach)
            changed = measure_context(client, scene, model, options, tried, threads)
            if options.halo is None and model.reach.exact_halo is None:
                halo = choose_halo(changed, model.reach)
        sizes = choose_timed_windows(max(TIMED_WINDOWS), halo, model.reach, options.window)
        if scene is None:
            count = len(model.spec.bands)
            radiometry = Radiometry((1.0,) * count, (0.0,) * count, (None,) * count)
            sample = _make_noise(model, min(sizes))
        else:
            radiometry, sample = get_radiometry(scene), read_sample(scene, min(sizes))
        tuner = Tuner(
            model.spec,
            model.folder,
            radiometry,
            halo,
            options.engine_request,
            threads,
            reset_peak_memory,
            read_peak_memory,
        )
        found: Measurement = client.submit(tuner, sample, sizes, pure=False).result()
    return replace(found, changed=changed)


def _make_noise(model: Model, edge: int) -> Sample:
    """Pixels as the network was trained on them, as far as mean and deviation tell."""
    rng = np.random.default_rng(0)
    noise = [rng.normal(band.mean, band.std, (edge, edge)) for band in model.spec.bands]
    return np.array(noise, np.float32), np.ones((edge, edge), np.bool_)
