"""Networks of segmentation-models-pytorch: what ``network.save_pretrained(FOLDER)`` writes.

``config.json`` names a class of the library and its arguments, ``model.safetensors`` holds the weights. The library
builds the network; nothing in the folder is code, and nothing is fetched: arguments that would make a class load
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
    "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "PAN", "UPerNet",
    "Segformer", "DPT",
)  # fmt: skip
ENCODER_NAME = r"[A-Za-z0-9][\w.-]*"
"""Of an encoder. What has a colon or a slash in it is an address, which timm would fetch."""
CLASSIFICATION_PREFIX = "classification_head."
"""Weights of a second output, a class for the whole image, which has no use here."""
PROBABILITY_ACTIVATIONS = ("sigmoid", "softmax", "softmax2d")
"""Activations in a configuration after which the network's outputs are probabilities."""
MISSING_OPERATOR = r"operator torchvision::(\w+) does not exist"


def is_saved_network(folder: Path) -> bool:
    """Whether a folder holds a configuration and weights, as ``save_pretrained`` writes them."""
    return (folder / CONFIG_FILENAME).is_file() and (folder / WEIGHTS_FILENAME).is_file()


def load_smp_network(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The network in a folder, with its weights, in evaluation mode, and the arguments that it was made with.

    Raises:
        ModelError: the library is not installed, the configuration is not one of its, or the weights are not those
            of the network.
    """
    name, arguments = _read_configuration(folder / CONFIG_FILENAME)
    library = _import_library(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of encoders that are cut off, about their empty rest
            network: nn.Module = _find_class(library, name, arguments, folder)(**arguments)
            weights = load_file(folder / WEIGHTS_FILENAME)
            network.load_state_dict({k: v for k, v in weights.items() if not k.startswith(CLASSIFICATION_PREFIX)})
    except ModelError:
        raise
    except SafetensorError as error:
        raise _smp_error(
            folder / WEIGHTS_FILENAME, error, "a safetensors file", "save it again, with save_pretrained"
        ) from error
    except Exception as error:  # of the library, timm and torch; there is no list
        raise _smp_error(
            folder, error, f"configuration and weights of a {name} of segmentation-models-pytorch",
            f"save it again, with save_pretrained; installed is version {library.__version__}",
        ) from error  # fmt: skip
    return network.eval(), arguments


def get_divisor(network: nn.Module) -> int:
    """Total downsampling of its encoder."""
    return int(network.get_submodule("encoder").output_stride)  # type: ignore[arg-type]


def get_activation(arguments: dict[str, Any]) -> Activation | None:
    """``none`` where the network ends in an activation of its own; None: its outputs are scores."""
    return "none" if arguments.get("activation") in PROBABILITY_ACTIVATIONS else None


def _read_configuration(path: Path) -> tuple[str, dict[str, Any]]:
    """Name of the class, and its arguments."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        name = config.pop("_model_class")
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise _smp_error(
            path, f"{type(error).__name__}: {error}",
            "a configuration of segmentation-models-pytorch, with _model_class",
            "save the network with save_pretrained, or export it with torch.export.save or torch.onnx.export",
        ) from error  # fmt: skip
    if name not in SUPPORTED_CLASSES:
        raise _smp_error(
            path, f"_model_class {name!r}", "one of " + ", ".join(SUPPORTED_CLASSES), "export the network instead"
        )
    arguments = {key: value for key, value in config.items() if not key.startswith("_")}
    encoder = arguments.get("encoder_name", "resnet34")
    if not (isinstance(encoder, str) and re.fullmatch(ENCODER_NAME, encoder)):
        raise _smp_error(
            path, f"encoder_name {encoder!r}", "the plain name of an encoder", "export the network instead"
        )
    # c channels come with c × c weights or more: what has no room in the file is not built.
    most = max(64, math.isqrt((path.parent / WEIGHTS_FILENAME).stat().st_size))
    if any(abs(number) > most for number in _iterate_numbers(arguments)):
        raise _smp_error(path, "numbers beyond those of its weights", f"at most {most}", "save it with save_pretrained")
    return name, arguments | {"encoder_weights": None, "aux_params": None}


def _iterate_numbers(value: object) -> Iterator[float]:
    """The numbers in a configuration, and the lengths of its lists."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, list | dict):
        yield len(value)
        for part in value.values() if isinstance(value, dict) else value:
            yield from _iterate_numbers(part)


def _find_class(library: ModuleType, name: str, arguments: dict[str, Any], folder: Path) -> Any:
    """The class; refuses arguments that it does not name itself: timm would take them, and load what they say."""
    found = getattr(library, name)
    known = {p.name for p in inspect.signature(found.__init__).parameters.values() if p.kind == p.POSITIONAL_OR_KEYWORD}
    if unknown := sorted(key for key, value in arguments.items() if key not in known and value is not None):
        raise _smp_error(
            folder / CONFIG_FILENAME, f"{', '.join(unknown)}, which {name} has not", "its own arguments alone",
            "export the network with torch.export.save or torch.onnx.export",
        )  # fmt: skip
    for key in set(arguments) - known:
        del arguments[key]
    return found


def _import_library(folder: Path) -> ModuleType:
    """segmentation-models-pytorch.

    It imports torchvision, which does not import beside a torch that its compiled operators were not built for (a
    wheel for CUDA beside one for CPUs). They detect objects; networks that segment have none, so it is enough that
    their names are there.
    """
    missing: set[str] = set()
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
            if operator is None or operator[1] in missing:
                raise _smp_error(
                    folder, error, "a segmentation-models-pytorch that imports", "install the torchvision of this torch"
                ) from error
            missing.add(operator[1])
            torch.library.define(f"torchvision::{operator[1]}", "(Tensor x, Tensor y, float z) -> Tensor")


def _smp_error(path: Path, got: object, expected: str, fix: str) -> ModelError:
    return ModelError(
        f"network {path}", got=_to_one_line(got) if isinstance(got, Exception) else got, expected=expected, fix=fix
    )


def _to_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
