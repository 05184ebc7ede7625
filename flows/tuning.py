"""``seamline model tune``: every way to run a network on this machine that is worth a trial, side by side."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from flows.measuring import SIZES, sample_window, window_sizes
from flows.models import Model, open_model, radiometry_of
from flows.options import SegmentOptions
from flows.request import open_input
from model.config import Radiometry
from model.measurement import Measurement, Sample
from pipeline.cluster import connected
from pipeline.memory import peak_memory, reset_peak_memory
from pipeline.planning import default_halo


def tune(model_name: str | Path, source: str | None, options: SegmentOptions) -> Measurement:
    """Measure a model anew in one worker process with all of the machine's threads; nothing is remembered.

    On windows of the scene ``source``; without one on noise, whose labels tell less about reduced precisions.
    """
    model = open_model(model_name)
    halo = default_halo(options.plan, model.reach)
    sizes = window_sizes(max(SIZES), halo, model.reach, options.window)
    if source is None:
        count = len(model.spec.bands)
        radiometry, sample = (
            Radiometry((1.0,) * count, (0.0,) * count, (None,) * count),
            _noise(model, 3 * min(sizes) // 2),
        )
    else:
        scene = open_input(source, model, options)
        radiometry, sample = radiometry_of(scene), sample_window(scene, 3 * min(sizes) // 2)
    with connected("local", 1) as client:
        from model.tune import Tuner  # torch, which takes seconds to import: after the worker was started

        tuner = Tuner(
            model.spec, model.folder, radiometry, halo, options.wish, os.cpu_count() or 1,
            reset_peak_memory, peak_memory,
        )  # fmt: skip
        found: Measurement = client.submit(tuner, sample, sizes, pure=False).result()
    return found


def _noise(model: Model, edge: int) -> Sample:
    """Pixels as the network was trained on them, as far as mean and deviation tell."""
    rng = np.random.default_rng(0)
    noise = [rng.normal(band.mean, band.std, (edge, edge)) for band in model.spec.bands]
    return np.array(noise, np.float32), np.ones((edge, edge), np.bool_)
