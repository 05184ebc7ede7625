"""Which layers a run can write beside the labels, and how each is shown.

Every layer is uint8: value = digital number × ``LAYER_SCALE``, ``NODATA`` where there is no label.

- ``probabilities``: one raster for each class.
- ``confidence``: the margin between the two most probable classes.
- ``disagreement``: how much the windows that vote on a pixel differed before they were blended.

``layer_values.py`` computes them.
"""

from __future__ import annotations

from dataclasses import dataclass

LAYER_SCALE = 0.004
"""Value of one digital number of a layer: 250 stands for 1."""


@dataclass(frozen=True)
class Layer:
    """A raster beside the labels.

    Attributes:
        name: name of its array and of its file.
        title: name for people.
        colormap: colour map of matplotlib that shows it.
        per_class: whether it has one raster for each class.
        brightest: value that gets the last colour of the colour map, as all larger ones do. The first stands for 0.
    """

    name: str
    title: str
    colormap: str
    per_class: bool = False
    brightest: float = 1.0

    def shape(self, classes: int, height: int, width: int) -> tuple[int, ...]:
        """Return the shape of the layer's array for a scene.

        Args:
            classes: number of classes.
            height: rows of the scene.
            width: columns of the scene.

        Returns:
            (classes, height, width) or (height, width).
        """
        return (classes, height, width) if self.per_class else (height, width)


LAYERS = {
    layer.name: layer
    for layer in (
        Layer("probabilities", "probability of each class", "viridis", per_class=True),
        Layer("confidence", "margin between the two most probable classes", "viridis"),
        # Two windows of equal weight that are certain of different classes have 0.71.
        Layer("disagreement", "how far overlapping windows differed before they were blended", "magma", brightest=0.25),
    )
}
"""All layers by name."""
PROBABILITIES, CONFIDENCE, DISAGREEMENT = "probabilities", "confidence", "disagreement"
