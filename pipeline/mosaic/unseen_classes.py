"""Which classes say that the ground was not seen: clouds and the like, which do not vote in a map."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic_core import from_json

from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import MODEL
from seamline.pipeline.mosaic.published_scenes import PublishedScene
from seamline.pipeline.storage.object_store import ObjectFolder

_UNSEEN_PROPERTY = "seamline:unseen"
"""Property of a model's document that names these classes, as a list."""

_SUSPECTS = re.compile(r"cloud|cirrus|shadow|haze|smoke|\bfog\b|no.?data|unseen|obscured|unlabel", re.IGNORECASE)
"""Names of classes that are pointed out where nobody said whether they are unseen."""


def choose_unseen(
    catalogue: Path | ObjectFolder,
    scenes: Iterable[PublishedScene],
    model_digest: str,
    classes: Sequence[LabelClass],
    wanted: Sequence[str] | None,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the unseen classes in the order of the classes, and warnings.

    Args:
        catalogue: the folder of the catalogue.
        scenes: scenes of one model, beside which lie copies of its document.
        model_digest: SHA-256 of the document; a copy of another content does not count.
        classes: all classes of the model.
        wanted: names that the user gave. ``None``: those that the model's document names.

    Raises:
        InputError: a name is that of no class, or no class is left that was seen.
    """
    names = [entry.name for entry in classes]
    said = _read_unseen(catalogue, scenes, model_digest) if wanted is None else wanted
    if said is None:
        suspects = [name for name in names if _SUSPECTS.search(name)]
        hint = (
            f"the model does not say which classes mean that the ground was not seen, so that all of them vote; if "
            f"{', '.join(suspects)} should not, give --unseen '{','.join(suspects)}', otherwise --unseen none"
        )
        return (), (hint,) if suspects else ()
    unknown = [name for name in said if name not in names]
    if unknown or set(said) >= set(names):
        raise InputError(
            "--unseen" if wanted is not None else f"{_UNSEEN_PROPERTY} of the model's document",
            got=f"{unknown[0]}, which is no class" if unknown else "all classes",
            expected="some of the classes " + ", ".join(names),
            fix="correct it" if wanted is not None else "name them with --unseen",
        )
    return tuple(name for name in names if name in said), ()


def _read_unseen(
    catalogue: Path | ObjectFolder, scenes: Iterable[PublishedScene], model_digest: str
) -> Sequence[str] | None:
    """Return the names in the first undamaged copy of the model's document; None where it does not name any."""
    for scene in scenes:
        content = _read_model_document(catalogue, scene)
        if content is not None and hashlib.sha256(content).hexdigest() == model_digest:
            with suppress(ValueError, LookupError, TypeError):
                return [str(name) for name in from_json(content)["properties"][_UNSEEN_PROPERTY]]
            return None
    return None


def _read_model_document(catalogue: Path | ObjectFolder, scene: PublishedScene) -> bytes | None:
    if MODEL not in scene.files:  # results of earlier versions have none
        return None
    key = f"{scene.place}/{MODEL}"
    if isinstance(catalogue, Path):
        with suppress(OSError):
            return (catalogue / key).read_bytes()
        return None
    found = catalogue.get(key)
    return None if found is None else found.data
