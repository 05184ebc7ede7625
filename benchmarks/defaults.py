"""The speed of what a run takes without a measurement, beside the best that a full measurement finds.

    python -m benchmarks.defaults --widths 16 32 --windows 512 1024

Both run by the same code as in a run, in one thread, which is what each worker of a run has where there are as many
workers as cores. Compared are seconds on the core, in turns, so that other work on the machine matters little. The
networks are the embedded model and U-Nets with random weights, as in ``engines.py``; the sample is noise.
"""

from __future__ import annotations

import os
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as on local workers; torch reads it while it is imported

from benchmarks.networks import make_parser, make_sample, make_tuner, print_table
from seamline.flows.settings.model_folder import Model
from seamline.model.engines.timing import Budget, time_in_turns
from seamline.model.spec.config import EngineRequest, EngineSettings
from seamline.pipeline.cluster.inference_thread import run_on_inference_thread


def compare_default(model: Model, windows: list[int]) -> list[str]:
    """Return both settings, what they took to find, and the megapixels per second of the core in each window.

    Args:
        model: what to run.
        windows: edges, in pixels.
    """
    edge = min(windows)
    sample, tuner = make_sample(model, edge), make_tuner(model, EngineRequest("cpu"), 1, time.process_time)
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
    return [f"{_format_settings(default)}, {_format_settings(best)}", costs, *speeds]


def _format_settings(settings: EngineSettings) -> str:
    layout = " NHWC" if settings.channels_last else ""
    return f"{settings.engine} {settings.precision}{layout}"


def main() -> None:
    """Print the table."""
    arguments = make_parser(__doc__, widths=(16, 32), windows=(512, 1024, 2048)).parse_args()
    print_table(
        ("default, measured", "found in"),
        arguments,
        lambda model: [run_on_inference_thread(compare_default, model, arguments.windows)],
    )


if __name__ == "__main__":
    main()
