"""Models in Python: by name, from a folder, or made of a ``torch.nn.Module``."""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from seamline.flows.settings.model_folder import Model, open_model, refuse_existing_model
from seamline.model.spec.document import MODEL_FILENAME
from seamline.model.spec.spec import Activation
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.storage.atomic import atomic_write, check_writable, make_absolute

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger("seamline")

_NOTHING = ((), (), 1.0, 0.0, 1.0, "reflectance", None, None, "", ())
"""What ``load_model`` is told of a model that has a description of its own."""


def load_model(
    model: str | Path | Model | nn.Module,
    *,
    bands: Sequence[str] = (),
    classes: Sequence[str] = (),
    scale: float = 1.0,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    quantity: Literal["reflectance", "dn"] = "reflectance",
    activation: Activation | None = None,
    nodata: float | None = None,
    name: str = "",
    colors: Sequence[str] = (),
) -> Model:
    """Load a model: an embedded one by name, a model folder, or a network of your own.

    A ``torch.nn.Module`` is exported (``torch.export``) to a temporary model folder, which goes when the process ends,
    and its divisor and reach are measured, which takes five to fifteen seconds. Workers on this machine see that
    folder; for workers on others save the model to a folder that they share (``save_model``). All arguments but the
    first are for modules.

    Args:
        model: name of an embedded model, path of a model folder, a model, or a module that maps (B, bands, H, W)
            float32 to scores (B, outputs, H, W).
        bands: name of each input band, such as red, green, blue, nir.
        classes: name of each class, in the order of the outputs; two for a network of one output.
        scale: the network's input is (value · scale − mean) / std. A value is a reflectance, 0 to 1, whatever the
            digital numbers of the scene are; with ``quantity="dn"`` it is the digital number.
        mean: one number, or one for each band.
        std: one number, or one for each band.
        quantity: whether a value is a reflectance (0 to 1) or a digital number (``"dn"``).
        activation: from outputs to probabilities: softmax, sigmoid, or none. Default: softmax, sigmoid for one output.
        nodata: digital number outside of the footprint in scenes that declare no nodata value.
        name: name of the model. Default: made of the name of the module's class.
        colors: colour of each class as #rrggbb. Default: those of a palette.

    Returns:
        The model.

    Raises:
        ModelError: there is no such model, its document is not valid, or the module does not fit its description.
        InputError: a description is missing, or given for a model that has one.
    """
    described = tuple(bands), tuple(classes), scale, mean, std, quantity, activation, nodata, name, tuple(colors)
    if isinstance(model, str | Path | Model):
        if described != _NOTHING:
            raise InputError(
                "load_model",
                got=f"both a description and the model {model.spec.name if isinstance(model, Model) else model}",
                expected="a description of modules alone",
                fix="leave all arguments but the model out",
            )
        return model if isinstance(model, Model) else open_model(model)
    _refuse_other_objects(model)
    for argument, names in (("bands", bands), ("classes", classes), ("colors", colors)):
        if isinstance(names, str):
            raise InputError(
                f"load_model, {argument}",
                got=f"the text {names!r}",
                expected="a list of texts",
                fix=f"give [{names!r}]",
            )
    if not bands or not classes:
        raise InputError(
            "load_model",
            got=f"a {type(model).__name__} without {'bands' if not bands else 'classes'}",
            expected="a name for each band that it takes and each class that it tells apart",
            fix='give bands=["red", "green", "blue", …] and classes=["land", "water", …]',
        )
    from seamline.flows.training.importing import ModelDescription, import_module  # imports torch

    description = ModelDescription(
        bands=tuple(bands),
        classes=tuple(classes),
        name=name,
        colors=tuple(colors),
        scale=scale,
        mean=_to_tuple(mean),
        std=_to_tuple(std),
        quantity=quantity,
        activation=activation,
        assumed_nodata=nodata,
    )
    for warning in description.warnings:
        log.warning("load_model: %s", warning)
    folder = Path(tempfile.mkdtemp(prefix="seamline-model-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    import_module(model, description, folder)
    return open_model(folder)


def _refuse_other_objects(model: object) -> None:
    """Raise ``InputError`` for what is no ``torch.nn.Module``."""
    from torch import nn

    if not isinstance(model, nn.Module):
        raise InputError(
            "load_model",
            got=f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}",
            expected="the name of a model, a model folder, or a torch.nn.Module",
            fix="make a module of the class, load the state_dict into one, or wrap the function in one",
        )


def _to_tuple(values: float | Sequence[float]) -> tuple[float, ...]:
    return tuple(map(float, np.ravel(values)))


def save_model(model: Model, folder: str | Path, *, overwrite: bool = False) -> Model:
    """Save a model to a folder, which other programs, machines and later runs can use.

    Args:
        model: the model.
        folder: the model folder to write.
        overwrite: replace the model that is in the folder.

    Returns:
        The model in its new folder.

    Raises:
        InputError: the folder holds a model already, or cannot be written to.
    """
    target = make_absolute(folder)
    if target == model.folder:
        return model
    if not overwrite:
        refuse_existing_model(target)
    check_writable(target, f"model folder {folder}")
    target.mkdir(parents=True, exist_ok=True)
    files = [path for path in model.folder.iterdir() if path.is_file()]
    for path in sorted(files, key=lambda path: path.name == MODEL_FILENAME):  # which makes it a model comes last
        with atomic_write(target / path.name) as part:
            shutil.copyfile(path, part)
    return open_model(target)
