"""Compare a segmentation with the truth (``seamline evaluate``)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seamline.model.spec import metrics
from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.extras import require_extras
from seamline.pipeline.products.run_record import ClassArea
from seamline.pipeline.report.confusion_matrix import write_confusion_matrix
from seamline.pipeline.results.compare import LabelPair, read_class_names, read_label_pairs, replace_labels
from seamline.pipeline.results.label_raster import format_values
from seamline.pipeline.results.truth import Truth, describe_values
from seamline.pipeline.storage.atomic import atomic_write, check_writable

_LABEL_COUNT = 255
"""Labels that a raster of bytes can have; 255 itself is nodata."""
_MOST_OTHERS = 0.5
"""Share of the compared pixels whose true label may be that of no class."""


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class; NaN if the class is in neither raster. The fields are those of the JSON report.

    Attributes:
        label: Label of the class.
        name: Name of the class.
        pixels_true: Pixels of the class in the truth.
        pixels_predicted: Pixels of the class in the segmentation.
        iou: Intersection over union.
        f1: Harmonic mean of precision and recall.
        precision: Share of the predicted pixels that are true.
        recall: Share of the true pixels that are predicted.
        boundary_f1: F1 of the boundary pixels, which match within the tolerance of the evaluation.
    """

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
class ClassRules:
    """Which classes a comparison leaves out, and which it takes for others, by their names or labels.

    Attributes:
        ignored: Classes whose pixels are not compared, in the truth or in the segmentation.
        merged: The class that another one counts as, in both, by the latter.
    """

    ignored: tuple[str, ...] = ()
    merged: Mapping[str, str] = field(default_factory=dict)

    def build_table(self, names: Mapping[int, str]) -> NDArray[np.uint8]:
        """Return what each label counts as (256,), ``NODATA`` where it is ignored.

        Args:
            names: Names of the labels, as far as they have some.

        Raises:
            InputError: There is no such class, or a class is to become one that becomes another itself.
        """
        table = np.arange(256, dtype=np.uint8)
        merged = {_find_label("--merge", old, names): new for old, new in self.merged.items()}
        for old, text in merged.items():
            new = _find_label("--merge", text, names)
            if new in merged:
                raise InputError(
                    "--merge", got=f"{text}, which is merged itself", expected="a class that stays", fix="name that one"
                )
            table[old] = new
        ignored = {_find_label("--ignore", text, names): text for text in self.ignored}
        if both := ignored.keys() & merged.keys():
            raise InputError(
                "--ignore",
                got=f"{ignored[min(both)]}, which --merge makes another class of",
                expected="a class that is left out or merged, not both",
                fix="leave it out of one of them",
            )
        table[np.isin(table, list(ignored))] = NODATA
        return table


def _find_label(option: str, text: str, names: Mapping[int, str]) -> int:
    """Return the label of a class that is given by its name or by the label itself."""
    labels = [label for label, name in names.items() if name == text]
    if not labels and re.fullmatch("[0-9]{1,3}", text) and int(text) < NODATA:
        labels = [int(text)]
    if len(labels) != 1:
        raise InputError(
            option,
            got=f"{text!r}" + (", the name of several classes" if labels else ""),
            expected="a label, 0 to 254" + (f", or one of {', '.join(names.values())}" if names else ""),
            fix="correct it",
        )
    return labels[0]


@dataclass(frozen=True)
class Evaluation:
    """Agreement of two rasters over all pixels that have a label in both.

    Attributes:
        classes: Scores in label order.
        matrix: Confusion matrix (truth, prediction) of pixel counts.
        accuracy: Share of the pixels with the true label.
        kappa: Cohen's kappa.
        mean_iou: Mean IoU over the classes that the truth has.
        tolerance: Distance in pixels within which boundaries match.
    """

    classes: tuple[ClassScores, ...]
    matrix: NDArray[np.int64]
    accuracy: float
    kappa: float
    mean_iou: float
    tolerance: int

    @property
    def absent(self) -> tuple[ClassScores, ...]:
        """The classes that are predicted somewhere and nowhere in the truth; they are not in the mean."""
        return tuple(row for row in self.classes if row.pixels_predicted and not row.pixels_true)

    @property
    def pixels(self) -> int:
        """Number of pixels that were compared."""
        return int(self.matrix.sum())

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation as JSON can hold it, with None in place of NaN."""
        return {
            "pixels": self.pixels,
            "accuracy": _replace_nan(self.accuracy),
            "kappa": _replace_nan(self.kappa),
            "mean_iou": _replace_nan(self.mean_iou),
            "classes_in_mean": [row.name for row in self.classes if row.pixels_true],
            "boundary_tolerance_pixels": self.tolerance,
            "classes": [{name: _replace_nan(value) for name, value in asdict(row).items()} for row in self.classes],
            "confusion_matrix": {"rows": "truth", "columns": "prediction", "counts": self.matrix.tolist()},
        }


def evaluate_segmentation(
    prediction: Path, truth: Truth, tolerance: int = 2, rules: ClassRules | None = None
) -> Evaluation:
    """Compare a segmentation with the truth, block by block, so that rasters may be of any size.

    Args:
        prediction: Raster of labels, or the folder of a scene's result.
        truth: Raster or polygons of true labels.
        tolerance: Distance in pixels of the truth's grid within which boundaries match.
        rules: Classes that are left out, or count as others.

    Returns:
        Scores of all classes that are in either raster.

    Raises:
        InputError: a file cannot be read, the files do not overlap, or no pixel has a label in both.
    """
    require_extras("evaluation", "train")
    names = read_class_names(prediction)
    table = (rules or ClassRules()).build_table(names)
    matrix = np.zeros((_LABEL_COUNT, _LABEL_COUNT), np.int64)
    boundaries = metrics.BoundaryCounts.zeros(_LABEL_COUNT)
    for pair in (replace_labels(pair, table) for pair in read_label_pairs(prediction, truth, tolerance + 1)):
        matrix += metrics.confusion_matrix(pair.predicted[pair.inner], pair.true[pair.inner], _LABEL_COUNT)
        boundaries += _count_boundaries(pair, tolerance)
    if not matrix.any():
        raise InputError(
            f"truth {truth.path}",
            got="no pixel that both know"
            + (f"; the values of the truth are {describe_values(truth)}" if truth.values else ""),
            expected="labels of the same ground",
            fix="check --values, --attribute and --ignore",
        )
    _refuse_other_labels(matrix, names, truth)
    return _score_matrix(matrix, boundaries, names, tolerance)


def _refuse_other_labels(matrix: NDArray[np.int64], names: Mapping[int, str], truth: Truth) -> None:
    """Refuse truth of which most pixels have labels that the classes of the segmentation don't have.

    Args:
        matrix: Pixels by label of the truth and of the segmentation.
        names: Names of the classes by their labels; empty where they are not known.
        truth: The truth, for the message.
    """
    counts = matrix.sum(1)
    others = [label for label in np.flatnonzero(counts).tolist() if label not in names]
    share = counts[others].sum() / counts.sum()
    if names and share > _MOST_OTHERS:
        known = ", ".join(f"{label} {name}" for label, name in names.items())
        raise InputError(
            f"truth {truth.path}",
            got=f"{share:.0%} of its pixels with labels of no class: {format_values(others)}",
            expected=f"labels of the segmentation: {known}",
            fix="say what its values stand for: --values VALUE=LABEL,…, or leave them out: --ignore",
        )


def _count_boundaries(pair: LabelPair, tolerance: int) -> metrics.BoundaryCounts:
    """Count boundary pixels of every label; labels above the highest one in the pair have none and cost no time."""
    pixels = sum(np.bincount(labels.ravel(), minlength=256) for labels in (pair.predicted, pair.true))
    present = np.flatnonzero(pixels)
    classes = int(present[present < _LABEL_COUNT].max(initial=-1)) + 1
    counts = metrics.count_boundaries(pair.predicted, pair.true, classes, tolerance, pair.inner)
    padding = (0, _LABEL_COUNT - classes)
    return metrics.BoundaryCounts(
        np.pad(counts.predicted, padding),
        np.pad(counts.predicted_near, padding),
        np.pad(counts.true, padding),
        np.pad(counts.true_near, padding),
    )


def _score_matrix(
    matrix: NDArray[np.int64], boundaries: metrics.BoundaryCounts, names: Mapping[int, str], tolerance: int
) -> Evaluation:
    """Score the labels that have a name or pixels, and all labels below them."""
    count = max([*names, *np.flatnonzero(matrix.sum(0) + matrix.sum(1)).tolist()]) + 1
    matrix = matrix[:count, :count]
    pixels_true, pixels_predicted = matrix.sum(1), matrix.sum(0)
    iou, f1, boundary_f1 = metrics.iou(matrix), metrics.f1(matrix), boundaries.f1
    precision, recall = metrics.precision(matrix), metrics.recall(matrix)
    rows = tuple(
        ClassScores(
            label=label,
            name=names.get(label, str(label)),
            pixels_true=int(pixels_true[label]),
            pixels_predicted=int(pixels_predicted[label]),
            iou=float(iou[label]),
            f1=float(f1[label]),
            precision=float(precision[label]),
            recall=float(recall[label]),
            boundary_f1=float(boundary_f1[label]),
        )
        for label in range(count)
    )
    mean = float(np.mean([row.iou for row in rows if row.pixels_true]))
    return Evaluation(rows, matrix, metrics.accuracy(matrix), metrics.kappa(matrix), mean, tolerance)


def write_evaluation(evaluation: Evaluation, report: Path | None, picture: Path | None) -> None:
    """Write an evaluation to files.

    Args:
        evaluation: The evaluation.
        report: JSON file with all scores, or None.
        picture: PNG of the confusion matrix, or None.

    Raises:
        InputError: a folder cannot be written to.
    """
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
    """Compute the IoU of each class over the pixels that have a label in both rasters.

    Args:
        prediction: Raster of labels.
        truth: Raster of true labels.
        classes: Classes of the result, in label order.

    Returns:
        IoU by class name.
    """
    evaluation = evaluate_segmentation(prediction, Truth(truth))
    return {entry.name: row.iou for entry, row in zip(classes, evaluation.classes, strict=False)}


def _replace_nan(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
