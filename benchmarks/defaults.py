"""The speed of what a run takes without a measurement, beside the best that a full measurement finds.

    python benchmarks/defaults.py --widths 16 32 --windows 512 1024

Both run by the same code as in a run, in one thread, which is what each worker of a run has where there are as many
workers as cores. Compared are seconds on the core, in turns, so that other work on the machine matters little. The
networks are the embedded model and U-Nets with random weights, as in ``engines.py``; the sample is noise.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as on local workers; torch reads it while it is imported
from pathlib import Path

import numpy as np

from benchmarks.engines import write_random_model
from seamline.flows.settings.engine_meter import describe_device
from seamline.flows.settings.model_folder import Model, list_embedded_models, open_model
from seamline.model.engines.timing import Budget, time_in_turns
from seamline.model.engines.tune import Tuner
from seamline.model.spec.config import EngineRequest, EngineSettings, Radiometry
from seamline.pipeline.cluster.inference_thread import run_on_inference_thread
from seamline.pipeline.common.memory import read_peak_memory, reset_peak_memory


def compare_default(model: Model, windows: list[int]) -> str:
    """Return a row of the table: both settings, and the megapixels per second of the core in each window.

    Args:
        model: what to run.
        windows: edges, in pixels.
    """
    count = len(model.spec.bands)
    radiometry, halo = Radiometry((1.0,) * count, (0.0,) * count, (None,) * count), model.spec.exact_halo or 0
    rng = np.random.default_rng(0)
    edge = min(windows)
    noise = [rng.normal(band.mean, band.std, (edge, edge)) for band in model.spec.bands]
    sample = np.array(noise, np.float32), np.ones((edge, edge), np.bool_)
    tuner = Tuner(
        model.spec,
        model.folder,
        radiometry,
        halo,
        EngineRequest("cpu"),
        1,
        reset_peak_memory,
        read_peak_memory,
        time.process_time,
    )
    started = time.process_time()
    default = tuner.check(sample, edge).settings
    checked = time.process_time()
    best = tuner(sample, windows).settings
    measured = time.process_time()
    speeds = []
    for window in windows:
        candidates = tuner.load_candidates([default, best], sample, window)
        budget = Budget(clock=time.process_time)
        seconds = time_in_turns([candidate.forward for candidate in candidates], budget, rounds=5)
        one, other = (1e-6 * window**2 / taken for taken in seconds)
        speeds.append(f"{one:.2f}, {other:.2f} ({one / other:.0%})")
    costs = f"{checked - started:.1f} s, {measured - checked:.1f} s"
    names = f"{_format_settings(default)}, {_format_settings(best)}"
    return f"| {model.spec.name} | {names} | {costs} | " + " | ".join(speeds) + " |"


def _format_settings(settings: EngineSettings) -> str:
    layout = " NHWC" if settings.channels_last else ""
    return f"{settings.engine} {settings.precision}{layout}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="*", default=(16, 32))
    parser.add_argument("--windows", type=int, nargs="+", default=(512, 1024, 2048))
    arguments = parser.parse_args()
    print(describe_device())
    print("| network | default, measured | found in | " + " | ".join(map(str, arguments.windows)) + " |")
    print("|" + "---|" * (3 + len(arguments.windows)))
    with tempfile.TemporaryDirectory() as folder:
        embedded = open_model(list_embedded_models()[0])
        random = (write_random_model(width, embedded, Path(folder) / str(width)) for width in arguments.widths)
        for model in (embedded, *random):
            print(run_on_inference_thread(compare_default, model, list(arguments.windows)), flush=True)


if __name__ == "__main__":
    main()
