"""Check that a file of weights belongs to a U-Net: names, shapes and values of its tensors.

The check needs no torch. It runs where a scene is started, so that a wrong file is found before a cluster starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from seamline.model.spec.config import UNetConfig
from seamline.model.spec.errors import ModelError

Shape = tuple[int, ...]

FLOAT_DTYPES = ("F32", "F16", "F64")
"""Types of numbers by safetensors' names. They are all that networks use and numpy can read."""
BATCH_COUNTER = "num_batches_tracked"
NORM_POSITIONS = (1, 4)
"""Positions of the normalisations in a double convolution: convolution, normalisation, ReLU, twice."""


def list_tensor_shapes(config: UNetConfig) -> dict[str, Shape]:
    """Return name and shape of every tensor in ``UNet(config).state_dict()``."""
    widths = [config.base_width << level for level in range(config.depth + 1)]
    shapes: dict[str, Shape] = {}
    for level, (inputs, outputs) in enumerate(zip([config.in_channels, *widths], widths, strict=False)):
        shapes |= _list_double_conv_shapes(f"encoder.{level}", inputs, outputs, config)
    for level, width in enumerate(widths[:-1]):
        shapes |= _list_double_conv_shapes(f"decoder.{level}", 2 * width, width, config)
        if config.upsampling == "upconv":
            shapes |= {f"up.{level}.0.weight": (2 * width, width, 2, 2), f"up.{level}.0.bias": (width,)}
        else:
            shapes |= {f"up.{level}.1.weight": (width, 2 * width, 1, 1), f"up.{level}.1.bias": (width,)}
    return shapes | {"head.weight": (config.classes, config.base_width, 1, 1), "head.bias": (config.classes,)}


def _list_double_conv_shapes(name: str, inputs: int, outputs: int, config: UNetConfig) -> dict[str, Shape]:
    layers_per_conv = 2 if config.norm == "none" else 3
    shapes: dict[str, Shape] = {}
    for position, channels in ((0, inputs), (layers_per_conv, outputs)):
        shapes[f"{name}.{position}.weight"] = (outputs, channels, 3, 3)
        if config.norm == "none":
            shapes[f"{name}.{position}.bias"] = (outputs,)
    if config.norm != "none":
        vectors = ("weight", "bias", "running_mean", "running_var") if config.norm == "batch" else ("weight", "bias")
        for position in NORM_POSITIONS:
            shapes |= {f"{name}.{position}.{vector}": (outputs,) for vector in vectors}
            if config.norm == "batch":
                shapes[f"{name}.{position}.{BATCH_COUNTER}"] = ()
    return shapes


def check_weights(path: Path, config: UNetConfig) -> None:
    """Refuse a file whose tensors are not those of the network, or are not finite.

    Raises:
        ModelError: it is no safetensors file, or a tensor is missing, unknown, of another shape, or not finite.
    """
    problem: str | None
    try:
        with safe_open(path, framework="numpy") as file:
            problem = next(_find_problems(file, list_tensor_shapes(config)), None)
    except (SafetensorError, OSError, TypeError, AttributeError) as error:
        problem = str(error)
    if problem is not None:
        raise ModelError(
            f"weights {path}",
            got=problem,
            expected="a safetensors file with the tensors of the network that model.json describes, in float32",
            fix="restore the model folder, or convert the weights",
        )


def _find_problems(file: Any, expected: Mapping[str, Shape]) -> Iterator[str]:
    """Yield what is wrong with the tensors of an open file; the numbers, which take longest, are read last."""
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - the file cannot be iterated
    yield from _find_differences({name: tuple(part.get_shape()) for name, part in slices.items()}, expected)
    for name, part in slices.items():
        if not name.endswith(BATCH_COUNTER) and part.get_dtype() not in FLOAT_DTYPES:
            yield f"{name} in {part.get_dtype()}"
    for name in slices:
        if bad_value := _find_bad_value(name, file.get_tensor(name)):
            yield bad_value


def _find_differences(found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> Iterator[str]:
    for name, shape in expected.items():
        if name not in found:
            yield f"no tensor {name}"
        elif found[name] != shape:
            yield f"{name} of shape {found[name]} instead of {shape}"
    yield from (f"tensor {name}, which the network has not" for name in found if name not in expected)


def _find_bad_value(name: str, tensor: NDArray[np.floating]) -> str:
    """Return what is wrong with the numbers of a tensor; empty if nothing is."""
    if not np.isfinite(tensor).all():
        return f"{name}, which is not finite"
    return f"{name}, a variance below 0" if name.endswith("running_var") and (tensor < 0).any() else ""
