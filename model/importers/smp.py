"""Load networks of segmentation-models-pytorch from folders that ``network.save_pretrained(FOLDER)`` wrote.

``config.json`` names a class of the library and its arguments, ``model.safetensors`` holds the weights. The library
builds the network. The folder holds no code, and nothing is downloaded: arguments that would make a class load
something else are refused.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from seamline.model.spec.errors import ModelError
from seamline.model.spec.spec import Activation

CONFIG_FILENAME, WEIGHTS_FILENAME = "config.json", "model.safetensors"
SUPPORTED_CLASSES = (
    *("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet"),
    *("DeepLabV3", "DeepLabV3Plus", "PAN", "UPerNet", "Segformer", "DPT"),
)
ENCODER_NAME = r"[A-Za-z0-9][\w.-]*"
"""A plain name of an encoder. A name with a colon or a slash is an address, from which timm would download."""
CLASSIFICATION_PREFIX = "classification_head."
"""Prefix of the weights of a second output, one class for the whole image, which is not used."""
PROBABILITY_ACTIVATIONS = ("sigmoid", "softmax", "softmax2d")
"""Activations in a configuration after which the outputs are probabilities."""
MISSING_OPERATOR = r"operator torchvision::(\w+) does not exist"


def is_saved_network(folder: Path) -> bool:
    """Return whether a folder holds a configuration and weights, as ``save_pretrained`` writes them."""
    return (folder / CONFIG_FILENAME).is_file() and (folder / WEIGHTS_FILENAME).is_file()


def load_smp_network(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Load a network with its weights in evaluation mode, and the arguments of its class.

    Raises:
        ModelError: the library is not installed, the configuration is not of the library, or the weights are not those
            of the network.
    """
    name, arguments = _read_configuration(folder / CONFIG_FILENAME)
    library = _import_library(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # encoders that are cut off warn of the layers that they leave out
            network: nn.Module = _find_class(library, name, arguments, folder)(**arguments)
            weights = load_file(folder / WEIGHTS_FILENAME)
            network.load_state_dict({k: v for k, v in weights.items() if not k.startswith(CLASSIFICATION_PREFIX)})
    except ModelError:
        raise
    except SafetensorError as error:
        raise _smp_error(
            folder / WEIGHTS_FILENAME,
            got=error,
            expected="a safetensors file",
            fix="save it again, with save_pretrained",
        ) from error
    except Exception as error:  # the library, timm and torch raise errors of any class
        raise _smp_error(
            folder,
            got=error,
            expected=f"configuration and weights of a {name} of segmentation-models-pytorch",
            fix=f"save it again, with save_pretrained; installed is version {library.__version__}",
        ) from error
    return network.eval(), arguments


def get_divisor(network: nn.Module) -> int:
    """Return the total downsampling of a network's encoder."""
    return int(network.get_submodule("encoder").output_stride)  # type: ignore[arg-type]


def get_activation(arguments: dict[str, Any]) -> Activation | None:
    """Return ``none`` if the network ends in an activation of its own, and ``None`` if its outputs are scores."""
    return "none" if arguments.get("activation") in PROBABILITY_ACTIVATIONS else None


def _read_configuration(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the name of the class and its arguments, without weights of the encoder and the second output."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        name = config.pop("_model_class")
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise _smp_error(
            path,
            got=f"{type(error).__name__}: {error}",
            expected="a configuration of segmentation-models-pytorch, with _model_class",
            fix="save the network with save_pretrained, or export it with torch.export.save or torch.onnx.export",
        ) from error
    if name not in SUPPORTED_CLASSES:
        raise _smp_error(
            path,
            got=f"_model_class {name!r}",
            expected="one of " + ", ".join(SUPPORTED_CLASSES),
            fix="export the network instead",
        )
    arguments = {key: value for key, value in config.items() if not key.startswith("_")}
    encoder = arguments.get("encoder_name", "resnet34")
    if not (isinstance(encoder, str) and re.fullmatch(ENCODER_NAME, encoder)):
        raise _smp_error(
            path,
            got=f"encoder_name {encoder!r}",
            expected="the plain name of an encoder",
            fix="export the network instead",
        )
    _check_numbers(path, arguments)
    return name, arguments | {"encoder_weights": None, "aux_params": None}


def _check_numbers(path: Path, arguments: dict[str, Any]) -> None:
    """Refuse numbers that would build a larger network than the file of weights can fill.

    A layer of c channels has c × c weights or more, so no number of channels exceeds the root of the file's size.
    """
    most = max(64, math.isqrt((path.parent / WEIGHTS_FILENAME).stat().st_size))
    if any(abs(number) > most for number in _iterate_numbers(arguments)):
        raise _smp_error(
            path,
            got="numbers beyond those of its weights",
            expected=f"at most {most}",
            fix="save it with save_pretrained",
        )


def _iterate_numbers(value: object) -> Iterator[float]:
    """Yield the numbers in a configuration, and the lengths of its lists and objects."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, list | dict):
        yield len(value)
        for part in value.values() if isinstance(value, dict) else value:
            yield from _iterate_numbers(part)


def _find_class(library: ModuleType, name: str, arguments: dict[str, Any], folder: Path) -> Any:
    """Return the class, and remove from ``arguments`` those of value None that it does not name itself.

    Other arguments that it does not name are refused: the class would hand them to timm, which may load what they say.
    """
    network_class = getattr(library, name)
    parameters = inspect.signature(network_class.__init__).parameters.values()
    known = {p.name for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD}
    if unknown := sorted(key for key, value in arguments.items() if key not in known and value is not None):
        raise _smp_error(
            folder / CONFIG_FILENAME,
            got=f"{', '.join(unknown)}, which {name} has not",
            expected="its own arguments alone",
            fix="export the network with torch.export.save or torch.onnx.export",
        )
    for key in set(arguments) - known:
        del arguments[key]
    return network_class


def _import_library(folder: Path) -> ModuleType:
    """Import segmentation-models-pytorch.

    It imports torchvision, which fails beside a torch that its compiled operators were not built for (a wheel for CUDA
    beside one for CPUs). Only networks that detect objects call these operators, so it is enough to declare their
    names, one after the other, until the import succeeds.
    """
    declared: set[str] = set()
    while True:
        try:
            return importlib.import_module("segmentation_models_pytorch")
        except ImportError as error:
            raise ModelError(
                f"network {folder}",
                got=f"no segmentation-models-pytorch ({_to_one_line(error)})",
                expected="it, to build the network",
                fix="pip install 'seamline[smp]'",
            ) from None
        except RuntimeError as error:
            operator = re.search(MISSING_OPERATOR, str(error))
            if operator is None or operator[1] in declared:
                raise _smp_error(
                    folder,
                    got=error,
                    expected="a segmentation-models-pytorch that imports",
                    fix="install the torchvision of this torch",
                ) from error
            declared.add(operator[1])
            torch.library.define(f"torchvision::{operator[1]}", "(Tensor x, Tensor y, float z) -> Tensor")


def _smp_error(path: Path, *, got: object, expected: str, fix: str) -> ModelError:
    got = _to_one_line(got) if isinstance(got, Exception) else got
    return ModelError(f"network {path}", got=got, expected=expected, fix=fix)


def _to_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
