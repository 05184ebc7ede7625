"""Compare a segmentation with the truth from Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from seamline.flows.training.evaluation import Evaluation, evaluate_segmentation
from seamline.pipeline.results.truth import Truth


def evaluate(
    prediction: str | Path,
    truth: str | Path,
    *,
    values: Mapping[str, int] | None = None,
    attribute: str = "",
    tolerance: int = 2,
) -> Evaluation:
    """Compare a segmentation with the truth: IoU, F1, precision, recall, accuracy, kappa, boundaries.

    Args:
        prediction: a raster of labels, or the folder of a scene's results.
        truth: a raster of labels, or polygons, on any grid.
        values: what stands for which label in the truth; None for labels themselves.
        attribute: attribute of polygons with their values.
        tolerance: pixels that boundaries may be apart.

    Returns:
        The scores of each class, and of all pixels.

    Raises:
        InputError: a file cannot be read, the files do not overlap, or no pixel has a label in both.
    """
    return evaluate_segmentation(Path(prediction), Truth(Path(truth), attribute, dict(values or {})), tolerance)
