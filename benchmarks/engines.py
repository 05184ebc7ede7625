"""The engines side by side: megapixels a second of each engine, precision and window, for several networks.

    python benchmarks/engines.py --widths 16 32 64 --windows 512 1024

Measured as a run's measurement does it (``seamline.model.engines.tune``), one process with all of the machine's
threads, at the halo that a plan takes. Besides the embedded model, U-Nets with random weights: 6 bands, 4 classes,
depth 4.
"""

from __future__ import annotations

import argparse
import os
import tempfile

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as local workers have it; read when torch is imported
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from seamline.flows.runs.measuring import describe_device
from seamline.flows.settings.model_folder import Model, list_embedded_models, open_model
from seamline.model.engines.tune import Tuner
from seamline.model.networks.unet import UNet
from seamline.model.spec.config import EngineRequest, Radiometry, UNetConfig
from seamline.model.spec.document import write_model_spec
from seamline.pipeline.common.memory import read_peak_memory, reset_peak_memory


def of_width(width: int, like: Model, folder: Path) -> Model:
    """A model folder of a U-Net with random weights."""
    torch.manual_seed(0)
    network = UNet(UNetConfig(6, 4, base_width=width))
    spec = replace(like.spec, name=f"width {width}", network=network.config, weights="model.safetensors")
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / spec.weights)
    write_model_spec(spec, folder)
    return open_model(folder)


def rows(model: Model, windows: list[int], wish: EngineRequest, rounds: int) -> Iterator[str]:
    """A line for each way to run: the fastest of each engine and precision, in every window."""
    count = len(model.spec.bands)
    radiometry, halo = Radiometry((1.0,) * count, (0.0,) * count, (None,) * count), model.spec.exact_halo or 0
    tuner = Tuner(
        model.spec, model.folder, radiometry, halo, wish, os.cpu_count() or 1, reset_peak_memory, read_peak_memory
    )
    rng = np.random.default_rng(0)
    speeds: dict[tuple[str, str], list[float]] = {}
    for window in windows:
        noise = [rng.normal(band.mean, band.std, (window, window)) for band in model.spec.bands]
        sample = np.array(noise, np.float32), np.ones((window, window), np.bool_)
        attempts = tuner._load_candidates(list(tuner._vary_engine(tuner._choose_baseline())), sample, window)
        fastest: dict[tuple[str, str], float] = {}
        for _ in range(rounds):
            for trial in tuner._time_candidates(attempts, window, attempts[0].labels):
                way, speed = (trial.settings.engine, trial.settings.precision), 1e-6 / trial.seconds_per_pixel
                fastest[way] = max(fastest.get(way, 0.0), speed)
        for way, speed in fastest.items():
            speeds.setdefault(way, []).append(speed)
    for (engine, precision), found in speeds.items():
        yield f"| {model.spec.name} | {engine} | {precision} | " + " | ".join(f"{speed:.2f}" for speed in found) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="*", default=(16, 32, 64))
    parser.add_argument("--windows", type=int, nargs="+", default=(512, 1024))
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--rounds", type=int, default=1, help="each is a measurement of three; the fastest counts")
    asked = parser.parse_args()
    print(describe_device())
    print("| network | engine | precision | " + " | ".join(map(str, asked.windows)) + " |")
    print("|" + "---|" * (3 + len(asked.windows)))
    with tempfile.TemporaryDirectory() as folder:
        embedded = open_model(list_embedded_models()[0])
        for model in (embedded, *(of_width(width, embedded, Path(folder) / str(width)) for width in asked.widths)):
            for row in rows(model, list(asked.windows), EngineRequest(engine=asked.engine), asked.rounds):
                print(row, flush=True)


if __name__ == "__main__":
    main()
