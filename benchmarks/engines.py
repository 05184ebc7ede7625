"""The speed of each engine, in megapixels a second, by precision and window, for several networks.

    python benchmarks/engines.py --widths 16 32 64 --windows 512 1024

Measured by the same code as in a run (``seamline.model.engines.tune``), in one process with all of the machine's
threads, at the halo that a plan takes. The networks are the embedded model and U-Nets with random weights, 6 bands,
4 classes and depth 4.
"""

from __future__ import annotations

import argparse
import os
import tempfile

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as on local workers; torch reads it while it is imported
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from seamline.flows.settings.engine_meter import describe_device
from seamline.flows.settings.model_folder import Model, list_embedded_models, open_model
from seamline.model.engines.candidates import choose_plain_settings, vary_engine
from seamline.model.engines.tune import Tuner
from seamline.model.networks.unet import UNet
from seamline.model.spec.config import EngineRequest, Radiometry, UNetConfig
from seamline.model.spec.document import write_model_spec
from seamline.pipeline.common.memory import read_peak_memory, reset_peak_memory


def write_random_model(width: int, like: Model, folder: Path) -> Model:
    """Write a model folder with a U-Net of random weights.

    Args:
        width: base width of the U-Net.
        like: a model whose bands and classes are taken over.
        folder: to be created.

    Returns:
        The model in that folder.
    """
    torch.manual_seed(0)
    network = UNet(UNetConfig(6, 4, base_width=width))
    spec = replace(like.spec, name=f"width {width}", network=network.config, weights="model.safetensors")
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / spec.weights)
    write_model_spec(spec, folder)
    return open_model(folder)


def measure_rows(model: Model, windows: list[int], request: EngineRequest, rounds: int) -> Iterator[str]:
    """Measure the fastest settings of each engine and precision in every window.

    Args:
        model: what to measure.
        windows: edges, in pixels.
        request: the settings that are fixed.
        rounds: measurements of each window.

    Yields:
        A row of the table for each engine and precision.
    """
    count = len(model.spec.bands)
    radiometry, halo = Radiometry((1.0,) * count, (0.0,) * count, (None,) * count), model.spec.exact_halo or 0
    threads = os.cpu_count() or 1
    tuner = Tuner(model.spec, model.folder, radiometry, halo, request, threads, reset_peak_memory, read_peak_memory)
    base = choose_plain_settings(model.spec.network, request, threads)
    variants = list(vary_engine(model.spec.network, request, base))
    rng = np.random.default_rng(0)
    speeds: dict[tuple[str, str], list[float]] = {}
    for window in windows:
        noise = [rng.normal(band.mean, band.std, (window, window)) for band in model.spec.bands]
        sample = np.array(noise, np.float32), np.ones((window, window), np.bool_)
        candidates = tuner.load_candidates(variants, sample, window)
        fastest: dict[tuple[str, str], float] = {}
        for _ in range(rounds):
            for trial in tuner.time_candidates(candidates, window, candidates[0].labels):
                key, speed = (trial.settings.engine, trial.settings.precision), 1e-6 / trial.seconds_per_pixel
                fastest[key] = max(fastest.get(key, 0.0), speed)
        for key, speed in fastest.items():
            speeds.setdefault(key, []).append(speed)
    for (engine, precision), values in speeds.items():
        yield f"| {model.spec.name} | {engine} | {precision} | " + " | ".join(f"{speed:.2f}" for speed in values) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="*", default=(16, 32, 64))
    parser.add_argument("--windows", type=int, nargs="+", default=(512, 1024))
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--rounds", type=int, default=1, help="each is a measurement of three; the fastest counts")
    arguments = parser.parse_args()
    print(describe_device())
    print("| network | engine | precision | " + " | ".join(map(str, arguments.windows)) + " |")
    print("|" + "---|" * (3 + len(arguments.windows)))
    with tempfile.TemporaryDirectory() as folder:
        embedded = open_model(list_embedded_models()[0])
        for model in (
            embedded,
            *(write_random_model(width, embedded, Path(folder) / str(width)) for width in arguments.widths),
        ):
            for row in measure_rows(
                model, list(arguments.windows), EngineRequest(engine=arguments.engine), arguments.rounds
            ):
                print(row, flush=True)


if __name__ == "__main__":
    main()
