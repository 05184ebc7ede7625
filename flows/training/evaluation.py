"""``seamline evaluate``: how far a segmentation agrees with the truth."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seamline.model.spec import metrics
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.products.run_record import ClassArea
from seamline.pipeline.report.confusion_matrix import write_confusion_matrix
from seamline.pipeline.results.compare import read_class_names, read_label_pairs
from seamline.pipeline.results.truth import Truth
from seamline.pipeline.storage.atomic import atomic_write, check_writable

LABEL_COUNT = 255
"""Every label that a raster of bytes has for a class."""


@dataclass(frozen=True)
class ClassScores:
    """Of one class; NaN where it is in neither raster. ``boundary_f1`` within the evaluation's tolerance."""

    label: int
    name: str
    pixels_true: int
    pixels_predicted: int
    iou: float
    f1: float
    precision: float
    recall: float
    boundary_f1: float


@dataclass(frozen=True)
class Evaluation:
    """Agreement over all pixels that both rasters know. ``matrix`` counts (truth, predicted)."""

    classes: tuple[ClassScores, ...]
    matrix: NDArray[np.int64]
    accuracy: float
    kappa: float
    mean_iou: float
    tolerance: int

    @property
    def pixels(self) -> int:
        """How many were compared."""
        return int(self.matrix.sum())

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no NaN."""
        return {
            "pixels": self.pixels,
            "accuracy": _replace_nan(self.accuracy),
            "kappa": _replace_nan(self.kappa),
            "mean_iou": _replace_nan(self.mean_iou),
            "boundary_tolerance_pixels": self.tolerance,
            "classes": [{name: _replace_nan(value) for name, value in asdict(row).items()} for row in self.classes],
            "confusion_matrix": {"rows": "truth", "columns": "prediction", "counts": self.matrix.tolist()},
        }


def evaluate_segmentation(prediction: Path, truth: Truth, tolerance: int = 2) -> Evaluation:
    """Compare rasters of any size; boundaries agree within ``tolerance`` pixels of the truth's grid.

    Raises:
        InputError: a file cannot be read, they do not lie over each other, or they share no known pixel.
    """
    names = read_class_names(prediction)
    matrix = np.zeros((LABEL_COUNT, LABEL_COUNT), np.int64)
    edges = metrics.BoundaryCounts.zeros(LABEL_COUNT)
    for pair in read_label_pairs(prediction, truth, tolerance + 1):
        matrix += metrics.confusion_matrix(pair.predicted[pair.inner], pair.true[pair.inner], LABEL_COUNT)
        there = np.flatnonzero(
            sum(np.bincount(labels.ravel(), minlength=256) for labels in (pair.predicted, pair.true))
        )
        seen = int(there[there < LABEL_COUNT].max(initial=-1)) + 1
        found = metrics.count_boundaries(pair.predicted, pair.true, seen, tolerance, pair.inner)
        edges += metrics.BoundaryCounts(
            *(np.pad(counts, (0, LABEL_COUNT - seen)) for counts in
              (found.predicted, found.predicted_near, found.true, found.true_near))
        )  # fmt: skip
    if not matrix.any():
        raise InputError(
            f"truth {truth.path}", got="no pixel that both know", expected="labels of the same ground",
            fix="check --values and --attribute",
        )  # fmt: skip
    return _score_matrix(matrix, edges, names, tolerance)


def _score_matrix(
    matrix: NDArray[np.int64], edges: metrics.BoundaryCounts, names: Mapping[int, str], tolerance: int
) -> Evaluation:
    count = max([*names, *np.flatnonzero(matrix.sum(0) + matrix.sum(1)).tolist()]) + 1
    matrix = matrix[:count, :count]
    columns = (
        matrix.sum(1), matrix.sum(0), metrics.iou(matrix), metrics.f1(matrix), metrics.precision(matrix),
        metrics.recall(matrix), edges.f1[:count],
    )  # fmt: skip
    rows = tuple(
        ClassScores(label, names.get(label, str(label)), *(column[label].item() for column in columns))
        for label in range(count)
    )
    known = [row.iou for row in rows if not math.isnan(row.iou)]
    return Evaluation(rows, matrix, metrics.accuracy(matrix), metrics.kappa(matrix), float(np.mean(known)), tolerance)


def write_evaluation(evaluation: Evaluation, report: Path | None, picture: Path | None) -> None:
    """Write the report as JSON and the confusion matrix as a picture, where they are asked for."""
    for path, option in ((report, "--json"), (picture, "--picture")):
        if path is not None:
            check_writable(path.absolute().parent, f"{option} {path}")
            path.parent.mkdir(parents=True, exist_ok=True)
    if report is not None:
        with atomic_write(report) as part:
            part.write_text(json.dumps(evaluation.to_dict(), indent=2) + "\n", encoding="utf-8")
    if picture is not None:
        write_confusion_matrix(evaluation.matrix, [row.name for row in evaluation.classes], picture)


def compute_class_iou(prediction: Path, truth: Path, classes: Sequence[ClassArea]) -> dict[str, float]:
    """Return the IoU of each class, in label order; pixels that either raster leaves out do not count."""
    found = evaluate_segmentation(prediction, Truth(truth))
    return {entry.name: row.iou for entry, row in zip(classes, found.classes, strict=False)}


def _replace_nan(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
