"""Make a recipe: read it from a YAML file or build it for images and labels, and set single fields."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from seamline.flows.training.model_defaults import make_model_name
from seamline.flows.training.recipes import Recipe
from seamline.flows.training.training_data import get_error_text
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.storage.atomic import refuse_special_file

_MOST_BYTES = 2 * 2**20
"""Bytes of a recipe, which is read in some seconds; one of ten thousand sources has less."""

LabelledPaths = tuple[Path, Path | None, Sequence[str], Sequence[str], Mapping[str, Any]]
"""Training without a recipe: images, labels, names of bands and of classes, and other fields of the source."""


def choose_recipe(path: Path | None, pairs: LabelledPaths | None, out: Path, changes: Sequence[str] = ()) -> Recipe:
    """Return the recipe in a file, or a recipe for images and their labels.

    Args:
        path: YAML file of the recipe, or None.
        pairs: Images, labels and what else a training without a recipe needs, or None.
        out: The model folder to write, of which the model gets its name if there is no recipe.
        changes: Fields to set, as in ``schedule.epochs=5``.

    Raises:
        InputError: both or none of recipe and images are given, or the recipe is not valid.
    """
    if (path is None) == (pairs is None):
        raise InputError(
            "seamline train",
            got="neither a recipe nor images" if path is None else "a recipe and --images",
            expected="a recipe, or --images and --labels",
            fix="see seamline train --help",
        )
    if pairs is None:
        assert path is not None
        return read_recipe(path, changes)
    return _parse_recipe(apply_changes(_build_document(pairs, out), changes), "training without a recipe")


def read_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a YAML file.

    Args:
        path: The file.
        changes: Fields to set, as in ``schedule.epochs=5``.

    Returns:
        The recipe with the changes, all its fields checked.

    Raises:
        InputError: the file cannot be read, or fields are wrong; the message names each of them.
    """
    try:
        refuse_special_file(path)
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise ValueError(f"{size / 2**20:.0f} MiB, more than a recipe may have, {_MOST_BYTES / 2**20:.0f}")
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    # ValueError: the file is not UTF-8, or has a date that does not exist.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(
            f"recipe {path}", got=get_error_text(error), expected="a YAML file", fix="check the path"
        ) from error
    if not isinstance(document, dict):
        raise InputError(
            f"recipe {path}",
            got="nothing" if document is None else f"a {type(document).__name__}",
            expected="a YAML file with the fields of a recipe",
            fix="compare it with the recipe of an embedded model",
        )
    return _parse_recipe(apply_changes(document, changes), f"recipe {path}")


def _parse_recipe(document: Mapping[str, Any], what: str) -> Recipe:
    """Validate a document as a recipe.

    Args:
        document: Fields of the recipe.
        what: What to call the recipe in the error.

    Raises:
        InputError: fields are wrong; the message names each of them.
    """
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        places = [(".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, ")) for e in error.errors()]
        wrong = "; ".join(f"{place}: {message}" if place else message for place, message in places)
        raise InputError(what, got=wrong, expected="the fields of a recipe", fix="correct them") from error


def apply_changes(document: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Return a copy of a document with some fields set.

    Args:
        document: Fields of a recipe.
        changes: ``FIELD=VALUE`` with a path to the field, as in ``schedule.epochs=5`` or ``sources.0.weight=2``; values
            are written as in YAML.

    Raises:
        InputError: a change has no value, or its path leads through something that has no fields.
    """
    result: dict[str, Any] = copy.deepcopy(dict(document))
    for change in changes:
        path, equals, text = change.partition("=")
        *parents, last = path.split(".")
        try:
            if not equals:
                raise ValueError("no value")
            value = yaml.safe_load(text)
            part: Any = result
            for name in parents:
                part = part[int(name)] if isinstance(part, list) else part.setdefault(name, {})
            part[int(last) if isinstance(part, list) else last] = value
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
            raise InputError(
                "--set",
                got=change,
                expected="FIELD=VALUE with a field of the recipe, as in schedule.epochs=5",
                fix="see the recipe of an embedded model",
            ) from error
    return result


def _build_document(pairs: LabelledPaths, out: Path) -> dict[str, Any]:
    """Return the fields of a recipe for one image, or for a folder of images."""
    images, labels, bands, classes, source_fields = pairs
    for option, given in (("--labels", labels), ("--bands", bands), ("--classes", classes)):
        if not given:
            raise InputError(option, got="nothing", expected="what --images does not say", fix="add it")
    assert labels is not None
    if images.absolute() == labels.absolute():
        raise InputError(
            "--labels",
            got="the same place as --images",
            expected="images and labels in folders of their own",
            fix="take them apart",
        )
    # A folder of images with labels in one file is one scene: its files are the bands.
    is_folder = images.is_dir() and labels.is_dir()
    source = {
        "kind": "labelled-folder" if is_folder else "labelled",
        "name": images.stem,
        "images" if is_folder else "image": str(images.resolve()),
        "labels": str(labels.resolve()),
        **source_fields,
    }
    return {
        "name": make_model_name(out.name, default="model"),
        "version": "1",
        "description": f"trained on {images.name}",
        "license": "unknown",
        "bands": [{"name": name} for name in bands],
        "classes": [{"name": name} for name in classes],
        "sources": [source],
    }
