"""What a training begins with, where it is not random: the weights of a model that was trained before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from seamline.model.engines.torch_engine import load_unet
from seamline.model.spec.spec import ModelSpec
from seamline.model.training.normalisation import Normalisation


@dataclass(frozen=True)
class StartingPoint:
    """A trained network that a training goes on from.

    Attributes:
        weights: by their names in the network, with the statistics of batch normalisation.
        normalisation: of the network's input; the training keeps it.
        digest: SHA-256 (hex) of the model's document.
    """

    weights: dict[str, Tensor]
    normalisation: Normalisation
    digest: str

    @classmethod
    def from_model(cls, spec: ModelSpec, folder: Path, digest: str) -> StartingPoint:
        """Read the weights of a model whose network is the project's own U-Net.

        Args:
            spec: what the model's document says.
            folder: the model folder.
            digest: SHA-256 (hex) of the document.
        """
        means, stds = zip(*((band.mean, band.std) for band in spec.bands), strict=True)
        return cls(load_unet(spec, folder).state_dict(), Normalisation(means, stds), digest)
