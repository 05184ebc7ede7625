"""What ``engines.py`` and ``defaults.py`` measure: networks, a sample for them, and their table."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from seamline.flows.settings.engine_meter import describe_device
from seamline.flows.settings.model_folder import Model, list_embedded_models, open_model
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


def make_tuner(model: Model, request: EngineRequest, threads: int, clock: Callable[[], float] = perf_counter) -> Tuner:
    """Return what measures a model as a run does, at the halo that a plan takes.

    Args:
        model: what to measure.
        request: the settings that are fixed.
        threads: threads of the network.
        clock: returns seconds.
    """
    count = len(model.spec.bands)
    radiometry, halo = Radiometry((1.0,) * count, (0.0,) * count, (None,) * count), model.spec.exact_halo or 0
    return Tuner(
        model.spec, model.folder, radiometry, halo, request, threads, reset_peak_memory, read_peak_memory, clock
    )


def make_sample(model: Model, edge: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return noise (bands, edge, edge) like the model's bands, and a mask (edge, edge) that is True everywhere."""
    rng = np.random.default_rng(0)
    noise = [rng.normal(band.mean, band.std, (edge, edge)) for band in model.spec.bands]
    return np.array(noise, np.float32), np.ones((edge, edge), np.bool_)


def make_parser(description: str | None, widths: Iterable[int], windows: Iterable[int]) -> argparse.ArgumentParser:
    """Return a parser for the options that both programs have.

    Args:
        description: docstring of the program.
        widths: base widths of the networks with random weights.
        windows: edges of windows in pixels.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="*", default=[*widths])
    parser.add_argument("--windows", type=int, nargs="+", default=[*windows])
    return parser


def print_table(
    titles: Iterable[str], arguments: argparse.Namespace, measure: Callable[[Model], Iterable[Iterable[str]]]
) -> None:
    """Print a table with a column for each window, of the embedded model and of networks with random weights.

    Args:
        titles: titles of the columns between the name of the network and the windows.
        arguments: what ``make_parser`` read.
        measure: returns the cells of a model's rows, without its name.
    """
    print(describe_device())
    columns = ["network", *titles, *map(str, arguments.windows)]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    with tempfile.TemporaryDirectory() as folder:
        embedded = open_model(list_embedded_models()[0])
        random = (write_random_model(width, embedded, Path(folder) / str(width)) for width in arguments.widths)
        for model in (embedded, *random):
            for cells in measure(model):
                print(f"| {' | '.join([model.spec.name, *cells])} |", flush=True)
