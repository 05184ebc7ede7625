"""Whether a file of weights is that of a U-Net: names and shapes of its tensors, and numbers in them.

Looked at where a run is started, without torch, so that a wrong file costs no cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from seamline.model.spec.config import UNetConfig
from seamline.model.spec.errors import ModelError

Shape = tuple[int, ...]

FLOAT_DTYPES = ("F32", "F16", "F64")
"""Of numbers, by safetensors' names. numpy, which looks at them, has no others that networks use."""
BATCH_COUNTER = "num_batches_tracked"
NORM_POSITIONS = (1, 4)
"""Of the normalisations in a double convolution: convolution, normalisation, ReLU, twice."""


def list_tensor_shapes(config: UNetConfig) -> dict[str, Shape]:
    """Name and shape of every tensor in ``UNet(config).state_dict()``."""
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
    step = 2 if config.norm == "none" else 3
    shapes: dict[str, Shape] = {}
    for position, channels in ((0, inputs), (step, outputs)):
        shapes[f"{name}.{position}.weight"] = (outputs, channels, 3, 3)
        if config.norm == "none":
            shapes[f"{name}.{position}.bias"] = (outputs,)
    if config.norm != "none":
        vectors = ("weight", "bias", "running_mean", "running_var") if config.norm == "batch" else ("weight", "bias")
        for position in NORM_POSITIONS:
            shapes |= {f"{name}.{position}.{vector}": (outputs,) for vector in vectors}
            if config.norm == "batch":
                shapes[f"{name}.{position}.num_batches_tracked"] = ()
    return shapes


def check_weights(path: Path, config: UNetConfig) -> None:
    """Refuse a file whose tensors are not those of the network, or are not finite.

    Raises:
        ModelError: it is no safetensors file, or a tensor is missing, unknown, of another shape, or not finite.
    """
    expected = list_tensor_shapes(config)
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            wrong = next(_find_differences({n: tuple(part.get_shape()) for n, part in slices.items()}, expected), None)
            kinds = ((n, part.get_dtype()) for n, part in slices.items() if not n.endswith(BATCH_COUNTER))
            wrong = wrong or next((f"{n} in {kind}" for n, kind in kinds if kind not in FLOAT_DTYPES), None)
            wrong = wrong or next((reason for n in slices if (reason := _find_bad_value(n, file.get_tensor(n)))), None)
    except (SafetensorError, OSError, TypeError, AttributeError) as error:
        wrong = str(error)
    if wrong is not None:
        raise ModelError(
            f"weights {path}",
            got=wrong,
            expected="a safetensors file with the tensors of the network that model.json describes, in float32",
            fix="restore the model folder, or convert the weights",
        )


def _find_differences(found: dict[str, Shape], expected: dict[str, Shape]) -> Iterator[str]:
    for name, shape in expected.items():
        if name not in found:
            yield f"no tensor {name}"
        elif found[name] != shape:
            yield f"{name} of shape {found[name]} instead of {shape}"
    yield from (f"tensor {name}, which the network has not" for name in found if name not in expected)


def _find_bad_value(name: str, tensor: NDArray[np.floating]) -> str:
    """Why these cannot be the numbers of a tensor; empty if they can."""
    if not np.isfinite(tensor).all():
        return f"{name}, which is not finite"
    return f"{name}, a variance below 0" if name.endswith("running_var") and (tensor < 0).any() else ""
