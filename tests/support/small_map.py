"""Maps of two periods, as a run leaves what ``zones`` and ``change`` read of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.common.layout import ITEM, MAP_RECORD
from seamline.pipeline.stac.catalog import update_catalog
from tests.support.served_scenes import GRIDS, make_smooth_labels, publish_labels

PERIODS = {"2024": 1, "2025": 2}
"""Name of each period, and the seed of its labels."""


def make_period_labels(period: str) -> np.ndarray:
    labels = make_smooth_labels(PERIODS[period])
    labels[200:, :30] = NODATA
    return labels


def make_observations(period: str) -> tuple[np.ndarray, np.ndarray]:
    """How many scenes saw each pixel of a period, and how many of them had its label."""
    labels = make_period_labels(period)
    rows, cols = np.indices(labels.shape)
    seen = np.where(labels == NODATA, 0, 1 + (cols + PERIODS[period]) % 249)
    return seen, np.where(seen == 0, 0, 1 + rows % np.maximum(seen, 1))


def _make_layers(period: str) -> dict[str, np.ndarray]:
    """The layers of a period, the agreement rounded to parts of 250 as maps have it."""
    seen, agreed = make_observations(period)
    agreement = np.floor(250 * agreed / np.maximum(seen, 1) + 0.5)
    return {
        "observations": np.where(seen == 0, 65535, seen).astype(np.uint16),
        "agreement": np.where(seen == 0, NODATA, agreement).astype(np.uint8),
    }


def publish_map(folder: Path, grid: GeoBox = GRIDS["utm"], periods: tuple[str, ...] = tuple(PERIODS)) -> Path:
    """A map with layers; its name is that of the folder."""
    for period in periods:
        labels = make_period_labels(period)
        scene = folder / f"{folder.name}-{period}"
        publish_labels(scene, grid, labels, _make_layers(period))
        item = json.loads((scene / ITEM).read_text())
        item["properties"] |= {
            "seamline:map": folder.name,
            "seamline:period": period,
            "datetime": None,
            "start_datetime": f"{period}-01-01T00:00:00Z",
            "end_datetime": f"{period}-12-31T23:59:59Z",
        }
        (scene / ITEM).write_text(json.dumps(item))
    (folder / MAP_RECORD).write_text("{}")
    update_catalog(folder)
    return folder


@pytest.fixture(scope="session")
def small_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map ``land`` of two years."""
    return publish_map(tmp_path_factory.mktemp("maps") / "land")
