"""Find out what a program computes by running it on zeros and noise: number of classes, divisor and reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from seamline.model.engines.programs import OnnxProgram, TorchProgram
from seamline.model.importers.reach import choose_edge, measure_reach
from seamline.model.spec.config import Program, UNetConfig
from seamline.model.spec.errors import ModelError, get_first_line
from seamline.model.spec.spec import UNKNOWN, Activation


@dataclass(frozen=True)
class ImportedNetwork:
    """A network that was found in a file.

    Attributes:
        network: its configuration.
        receptive_radius: how far it reaches, in pixels; ``None`` if without bound.
        write_weights: writes the file of its weights, or the program, to a path.
        architecture: its name, as far as the file tells it.
        activation: what turns its outputs into probabilities, if the file tells it.
    """

    network: UNetConfig | Program
    receptive_radius: int | None
    write_weights: Callable[[Path], object]
    architecture: str = UNKNOWN
    activation: Activation | None = None


def probe_program(
    path: Path,
    build: Callable[[int, int], OnnxProgram | TorchProgram],
    bands: int,
    window: int | None,
    write_weights: Callable[[Path], object],
    lattice: int = 1,
) -> ImportedNetwork:
    """Run a program to find its number of outputs, its divisor and its reach.

    Args:
        path: the file of the program, for error messages.
        build: makes the runnable program with a given divisor and number of classes.
        bands: input bands.
        window: the only height and width that the program takes; ``None`` for any.
        write_weights: writes the program to a path.
        lattice: heights and widths that the program takes are multiples of this.

    Returns:
        The network.

    Raises:
        ModelError: the program does not run, or its output has not the form of scores.
    """
    run = build(1, 1)
    edge = window or choose_edge(lattice)
    scores = _run_on_zeros(path, run, bands, edge)
    _check_scores(path, scores, edge)
    reach = measure_reach(lambda x: run(x, 0), bands, window, lattice)
    # The deepest levels may change the scores too little to be seen in noise. Then a window of a smaller lattice fails.
    while window is None and reach.divisor < edge and not _can_run(run, bands, edge + reach.divisor):
        reach = measure_reach(lambda x: run(x, 0), bands, window, 2 * reach.divisor)
    return ImportedNetwork(build(reach.divisor, scores.shape[1]).program, reach.radius, write_weights)


def _run_on_zeros(path: Path, run: OnnxProgram | TorchProgram, bands: int, edge: int) -> Tensor:
    try:
        with torch.inference_mode():
            return run(torch.zeros(1, bands, edge, edge), 0)
    except Exception as error:  # frameworks raise errors of any class
        raise ModelError(
            f"network {path}",
            got=f"{_get_reason(error)} on an image of {bands} × {edge} × {edge}",
            expected="one score for each class and pixel",
            fix="check --bands; export it with free height and width, or with one fixed window",
        ) from error


def _get_reason(error: Exception) -> str:
    """Return a line of what a framework says; of a message of ours, which quotes it, the last line of its cause."""
    if not isinstance(error, ModelError) or error.__cause__ is None:
        return get_first_line(error)
    lines = str(error.__cause__).strip().splitlines()
    return lines[-1][:200] if lines else type(error.__cause__).__name__


def _check_scores(path: Path, scores: object, edge: int) -> None:
    """Refuse an output that is not (1, classes, edge, edge) in floating point."""
    is_image = isinstance(scores, Tensor) and scores.ndim == 4 and scores.shape[-2:] == (edge, edge)
    if not isinstance(scores, Tensor) or not is_image or not scores.shape[1]:
        raise ModelError(
            f"network {path}",
            got=f"an output of shape {tuple(getattr(scores, 'shape', ()))} for an image of {edge} × {edge}",
            expected=f"(1, classes, {edge}, {edge})",
            fix="export a network whose output has the size of its input",
        )
    if not scores.is_floating_point():
        raise ModelError(
            f"network {path}",
            got=f"an output of {str(scores.dtype).removeprefix('torch.')}",
            expected="scores in float32",
            fix="export the network without what comes after its scores",
        )


def _can_run(run: OnnxProgram | TorchProgram, bands: int, edge: int) -> bool:
    try:
        with torch.inference_mode():
            return run(torch.zeros(1, bands, edge, edge), 0).shape[-2:] == (edge, edge)
    except ModelError:
        return False
