"""Compare a segmentation with the truth from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from seamline.flows.training.evaluation import ClassRules, Evaluation, evaluate_segmentation
from seamline.pipeline.results.truth import Truth


def evaluate(
    prediction: str | Path,
    truth: str | Path,
    *,
    values: Mapping[str, int] | None = None,
    attribute: str = "",
    tolerance: int = 2,
    ignore: Sequence[str] = (),
    merge: Mapping[str, str] | None = None,
) -> Evaluation:
    """Compare a segmentation with the truth: IoU, F1, precision, recall, accuracy, kappa, boundaries.

    Args:
        prediction: a raster of labels, or the folder of a scene's results.
        truth: a raster of labels, or polygons, on any grid.
        values: what stands for which label in the truth; None for labels themselves.
        attribute: attribute of polygons with their values.
        tolerance: pixels that boundaries may be apart.
        ignore: classes that are not compared where either has them, by names or labels.
        merge: the class that another one counts as, by the latter: ``{"thin cloud": "cloud"}``.

    Returns:
        The scores of each class, and of all pixels.

    Raises:
        InputError: a file cannot be read, the files do not overlap, or no pixel has a label in both.
    """
    labels = Truth(Path(truth), attribute, dict(values or {}))
    return evaluate_segmentation(Path(prediction), labels, tolerance, ClassRules(tuple(ignore), dict(merge or {})))
