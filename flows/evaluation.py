"""Compare a segmentation with the truth on the same grid, block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from model.metrics import confusion_matrix, iou
from pipeline.errors import InputError


def truth_scores(prediction: Path, truth: Path, classes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """IoU of each class (entries with ``name``, in label order); pixels that either raster leaves out don't count.

    Raises:
        InputError: the rasters are not on one grid.
    """
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    with rasterio.open(prediction) as predicted, rasterio.open(truth) as true:
        if (predicted.crs, predicted.transform, predicted.shape) != (true.crs, true.transform, true.shape):
            raise InputError(
                f"truth {truth}",
                got=f"{true.shape} pixels, {true.crs}",
                expected=f"the grid of {prediction}: {predicted.shape} pixels, {predicted.crs}",
                fix="warp the truth to the grid of the prediction",
            )
        for _, window in predicted.block_windows(1):
            matrix += confusion_matrix(predicted.read(1, window=window), true.read(1, window=window), len(classes))
    return {entry["name"]: float(score) for entry, score in zip(classes, iou(matrix), strict=True)}
