"""Open a model by name or folder, describe it to the pipeline, and load it on workers by path and digest."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seamline import model
from seamline.model.spec.config import EngineSettings, Program, Radiometry
from seamline.model.spec.document import MODEL_FILENAME, compute_file_digest, read_model_spec
from seamline.model.spec.errors import ModelError
from seamline.model.spec.spec import ModelSpec
from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.planning.tilings import Reach
from seamline.pipeline.report.report import ModelCard
from seamline.pipeline.scenes.band_matching import BandNeed
from seamline.pipeline.scenes.scene import Scene
from seamline.pipeline.storage.atomic import make_absolute

if TYPE_CHECKING:
    from seamline.model.engines.runtime import Runtime

FIGURES = "figures.json"
"""File in a model folder with the scores and the history of the training."""

_ZOO = Path(model.__file__).parent / "zoo"

_README = "README.md"
"""File in a model folder that describes the model to people."""

_MAX_README_BYTES = 200_000


@dataclass(frozen=True)
class Model:
    """A model folder whose document was read and validated.

    Attributes:
        folder: The model folder.
        spec: What the model's document says.
        digest: SHA-256 of the document. The document contains the digest of the weights, so this one covers both.
    """

    folder: Path
    spec: ModelSpec
    digest: str

    @property
    def band_needs(self) -> tuple[BandNeed, ...]:
        """Bands of the model's input, as the pipeline matches them with those of a scene."""
        return tuple(BandNeed(band.name, band.wavelength) for band in self.spec.bands)

    @property
    def reach(self) -> Reach:
        """Divisor and context of the network, which decide on the tiling."""
        network = self.spec.network
        window = network.window if isinstance(network, Program) else None
        return Reach(self.spec.divisor, self.spec.exact_halo, network.least_halo, window)

    @property
    def card(self) -> ModelCard:
        """Description of the model for a report, with the README of the model folder if there is one."""
        path = self.folder / _README
        readme = b""
        if path.is_file():
            with path.open("rb") as file:
                readme = file.read(_MAX_README_BYTES)
        return ModelCard(
            name=self.spec.name,
            version=self.spec.version,
            license=self.spec.license,
            architecture=self.spec.architecture,
            description=self.spec.description,
            limits=self.spec.limits,
            training_data=self.spec.training_data,
            exact_halo=self.spec.exact_halo,
            readme=readme.decode(errors="replace"),
        )

    def tell_limits(self, say: Callable[[str], None]) -> None:
        """Call ``say`` with a line about what the model is good for and what not, if its document says it."""
        if self.spec.limits:
            say(f"{self.spec.name}: {self.spec.limits}")

    @property
    def classes(self) -> tuple[LabelClass, ...]:
        """Classes in label order, as the pipeline writes them."""
        return tuple(LabelClass(label, c.name, c.color, c.description) for label, c in enumerate(self.spec.classes))


def list_embedded_models() -> tuple[str, ...]:
    """Return the names of the models that are part of the package."""
    return tuple(sorted(path.parent.name for path in _ZOO.glob(f"*/{MODEL_FILENAME}")))


def open_model(name: str | Path) -> Model:
    """Open an embedded model by name, or a model folder by path.

    Raises:
        ModelError: there is no such model, or its document is not valid.
    """
    folder = _ZOO / name if str(name) in list_embedded_models() else make_absolute(name)
    if not folder.is_dir():
        raise ModelError(
            "--model",
            got=f"{name}" + (", a file" if folder.is_file() else ", which does not exist"),
            expected="a model folder, or one of " + ", ".join(list_embedded_models()),
            fix="check the path; a model folder holds model.json beside its weights"
            + (", and `seamline model import` makes one of a network's file" if folder.is_file() else ""),
        )
    return Model(folder, read_model_spec(folder), compute_file_digest(folder / MODEL_FILENAME))


def refuse_existing_model(folder: Path) -> None:
    """Raise an error if a folder that is given as ``--out`` already holds a model.

    Raises:
        InputError: the folder holds a model.
    """
    if (folder / MODEL_FILENAME).exists():
        raise InputError(
            f"--out {folder}",
            got="a model that is there already",
            expected="a folder without one",
            fix="choose another, or give --overwrite",
        )


def read_training_scores(folder: Path) -> dict[str, dict[str, dict[str, float | None]]]:
    """Read the scores that the training of a model wrote to ``figures.json``.

    Returns:
        ``{"iou_held_out": {image: {class: IoU}}, "iou_in_training": …}``; empty if the folder has no scores.
    """
    try:
        figures = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
        scores, held_out = dict(figures["iou"]), set(figures["holdout"])
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    parts = {
        "iou_held_out": {image: iou for image, iou in scores.items() if image in held_out},
        "iou_in_training": {image: iou for image, iou in scores.items() if image not in held_out},
    }
    return {name: part for name, part in parts.items() if part}


@dataclass(frozen=True)
class RuntimeLoader:
    """Load a model folder on a worker.

    Attributes:
        folder: The model folder, at a path that every worker sees.
        digest: Digest of the model's document on the client.
        settings: Engine, precision, batch and threads.
        radiometry: Meaning of the scene's digital numbers.
        halo: Pixels on each side of a window that are cropped from the result.
        chunk_bytes: What chunks may hold at once on a device with its own memory.
    """

    folder: Path
    digest: str
    settings: EngineSettings
    radiometry: Radiometry
    halo: int
    chunk_bytes: int = 0

    def __call__(self) -> Runtime:
        """Load the model, if it is the one that the client has.

        Raises:
            ModelError: the folder holds another model here.
        """
        # Imported here because it imports torch, which takes seconds and is not needed on the client.
        from seamline.model.devices.cuda_device import open_device
        from seamline.model.engines.runtime import Runtime

        spec = read_model_spec(self.folder)
        digest = compute_file_digest(self.folder / MODEL_FILENAME)
        if digest != self.digest:
            raise ModelError(
                f"model folder {self.folder} on a worker",
                got=f"digest {digest[:12]}",
                expected=f"{self.digest[:12]} as on the client",
                fix="let all machines see the same folder",
            )
        device = open_device(self.settings.device, self.chunk_bytes)
        return Runtime(spec, self.folder, self.settings, self.radiometry, self.halo, device)


def get_radiometry(scene: Scene) -> Radiometry:
    """Return scale, offset and nodata value of each band of a scene."""
    return Radiometry(
        tuple(band.scale for band in scene.bands),
        tuple(band.offset for band in scene.bands),
        tuple(band.nodata for band in scene.bands),
    )
