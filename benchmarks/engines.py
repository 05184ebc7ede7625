"""The speed of each engine, in megapixels a second, by precision and window, for several networks.

    python -m benchmarks.engines --widths 16 32 64 --windows 512 1024

Measured by the same code as in a run (``seamline.model.engines.tune``), in one process with all of the machine's
threads, at the halo that a plan takes. The networks are the embedded model and U-Nets with random weights, 6 bands,
4 classes and depth 4.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as on local workers; torch reads it while it is imported
from collections.abc import Iterator

from benchmarks.networks import make_parser, make_sample, make_tuner, print_table
from seamline.flows.settings.model_folder import Model
from seamline.model.engines.candidates import choose_plain_settings, vary_engine
from seamline.model.spec.config import EngineRequest


def measure_rows(model: Model, windows: list[int], request: EngineRequest, rounds: int) -> Iterator[list[str]]:
    """Measure the fastest settings of each engine and precision in every window.

    Args:
        model: what to measure.
        windows: edges, in pixels.
        request: the settings that are fixed.
        rounds: measurements of each window.

    Yields:
        Engine, precision and the speed in each window, a row for each engine and precision.
    """
    threads = os.cpu_count() or 1
    tuner = make_tuner(model, request, threads)
    base = choose_plain_settings(model.spec.network, request, threads)
    variants = list(vary_engine(model.spec.network, request, base))
    speeds: dict[tuple[str, str], list[float]] = {}
    for window in windows:
        candidates = tuner.load_candidates(variants, make_sample(model, window), window)
        fastest: dict[tuple[str, str], float] = {}
        for _ in range(rounds):
            for trial in tuner.time_candidates(candidates, window, candidates[0].labels):
                key, speed = (trial.settings.engine, trial.settings.precision), 1e-6 / trial.seconds_per_pixel
                fastest[key] = max(fastest.get(key, 0.0), speed)
        for key, speed in fastest.items():
            speeds.setdefault(key, []).append(speed)
    for key, values in speeds.items():
        yield [*key, *(f"{speed:.2f}" for speed in values)]


def main() -> None:
    """Print the table."""
    parser = make_parser(__doc__, widths=(16, 32, 64), windows=(512, 1024))
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--rounds", type=int, default=1, help="each is a measurement of three; the fastest counts")
    arguments = parser.parse_args()
    request = EngineRequest(engine=arguments.engine)
    print_table(
        ("engine", "precision"),
        arguments,
        lambda model: measure_rows(model, arguments.windows, request, arguments.rounds),
    )


if __name__ == "__main__":
    main()
