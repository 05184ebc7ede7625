"""Find a model by name or folder, and load it on workers by path and digest."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seamline import model
from seamline.model.spec.config import EngineSettings, Program, Radiometry
from seamline.model.spec.document import MODEL_FILENAME, compute_file_digest, read_model_spec
from seamline.model.spec.errors import ModelError
from seamline.model.spec.spec import ModelSpec
from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.execution.planning import Reach
from seamline.pipeline.report.report import ModelCard
from seamline.pipeline.scenes.band_matching import BandNeed
from seamline.pipeline.scenes.scene import Scene
from seamline.pipeline.storage.atomic import make_absolute

if TYPE_CHECKING:
    from seamline.model.engines.runtime import Runtime

ZOO = Path(model.__file__).parent / "zoo"
FIGURES = "figures.json"
"""What a training measured, beside the model."""
README, MAX_README_BYTES = "README.md", 200_000
"""The file that describes a model to people, and how many bytes of it are read."""


@dataclass(frozen=True)
class Model:
    """A model that was found and checked: its folder, what it is, and the digest of its document.

    The document holds the weights' digest, so that this one vouches for both.
    """

    folder: Path
    spec: ModelSpec
    digest: str

    @property
    def band_needs(self) -> tuple[BandNeed, ...]:
        """The bands, as the pipeline looks for them in a scene."""
        return tuple(BandNeed(band.name, band.wavelength) for band in self.spec.bands)

    @property
    def reach(self) -> Reach:
        """The part that the plan must know."""
        network = self.spec.network
        window = network.window if isinstance(network, Program) else None
        return Reach(self.spec.divisor, self.spec.exact_halo, network.least_halo, window)

    @property
    def card(self) -> ModelCard:
        """What a report tells of it, with the README beside the weights if there is one."""
        spec, path = self.spec, self.folder / README
        readme = b""
        if path.is_file():
            with path.open("rb") as file:
                readme = file.read(MAX_README_BYTES)
        return ModelCard(
            spec.name, spec.version, spec.license, spec.architecture, spec.description, spec.training_data,
            spec.exact_halo, readme.decode(errors="replace"),
        )  # fmt: skip

    @property
    def classes(self) -> tuple[LabelClass, ...]:
        """The classes, as the pipeline writes them."""
        return tuple(LabelClass(label, c.name, c.color, c.description) for label, c in enumerate(self.spec.classes))


def list_embedded_models() -> tuple[str, ...]:
    """Names of the models that the package brings."""
    return tuple(sorted(path.parent.name for path in ZOO.glob(f"*/{MODEL_FILENAME}")))


def open_model(name: str | Path) -> Model:
    """The embedded model of this name, or the model in this folder.

    Raises:
        ModelError: there is none, or it is broken.
    """
    folder = ZOO / name if str(name) in list_embedded_models() else make_absolute(name)
    if not folder.is_dir():
        raise ModelError(
            "--model",
            got=f"{name}" + (", a file" if folder.is_file() else ", which does not exist"),
            expected="a model folder, or one of " + ", ".join(list_embedded_models()),
            fix="check the path; a model folder holds model.json beside its weights",
        )
    return Model(folder, read_model_spec(folder), compute_file_digest(folder / MODEL_FILENAME))


def read_training_scores(folder: Path) -> dict[str, dict[str, dict[str, float | None]]]:
    """What its training measured, as ``figures.json`` has it: IoU by image and class, of what was held out and not.

    ``{"iou_held_out": {image: {class: IoU}}, "iou_in_training": …}``; nothing of a model that was not trained here.
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
class TorchLoader:
    """Loads a model folder on a worker; the folder must be where every worker sees it."""

    folder: Path
    digest: str
    settings: EngineSettings
    radiometry: Radiometry
    halo: int

    def __call__(self) -> Runtime:
        """Load it, after a look whether it is the same model here as where the run was started."""
        from seamline.model.engines.runtime import Runtime  # torch, which takes seconds to import: on workers only

        spec = read_model_spec(self.folder)
        found = compute_file_digest(self.folder / MODEL_FILENAME)
        if found != self.digest:
            raise ModelError(
                f"model folder {self.folder} on a worker",
                got=f"digest {found[:12]}",
                expected=f"{self.digest[:12]} as on the client",
                fix="let all machines see the same folder",
            )
        return Runtime(spec, self.folder, self.settings, self.radiometry, self.halo)


def get_radiometry(scene: Scene) -> Radiometry:
    """What the scene's digital numbers mean, band by band."""
    return Radiometry(
        tuple(band.scale for band in scene.bands),
        tuple(band.offset for band in scene.bands),
        tuple(band.nodata for band in scene.bands),
    )
