"""What the map shows of agreement, observations and dates: tiles, legend, pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from matplotlib import colormaps
from morecantile import tms
from pyproj import Transformer
from starlette.testclient import TestClient

from seamline.flows.serving import tiles
from seamline.flows.serving.app import create_app
from seamline.flows.serving.results import LAYER_FILES
from seamline.pipeline.products.layers import LAYERS
from tests.support.served_scenes import GRIDS, make_period_layers, make_smooth_labels
from tests.unit.serving.test_app import expected_labels, tile

GRID, LABELS = GRIDS["utm"], make_smooth_labels(0)
VALUES = make_period_layers(LABELS)
RANGES = {"agreement": (0, 250), "observations": (0, 420), "last_date": (19_000 + 40, 19_000 + 299 + 419)}
"""Digital numbers of the first and the last colour; 40 rows and 60 columns have no data."""


@pytest.fixture(scope="module")
def client(period_folder: Path) -> Any:
    return TestClient(create_app(period_folder), raise_server_exceptions=False)


@pytest.mark.parametrize("name", VALUES)
def test_a_tile_shows_each_value_where_it_lies(client: Any, name: str) -> None:
    west, south, east, north = client.get("/scenes/utm").json()["bbox"]
    around = tms.get("WebMercatorQuad").tile((west + east) / 2, (south + north) / 2, 12)
    seen = tile(client, "utm", name, 12, around.x, around.y)
    numbers = VALUES[name].astype(int)
    want = expected_labels(GRID, np.where(numbers == LAYERS[name].nodata, -1, numbers), 12, around.x, around.y)
    beside = expected_labels(GRID, np.zeros_like(LABELS), 12, around.x, around.y) == 255
    shown = (want >= 0) & ~beside
    assert shown.mean() > 0.3 and (seen[..., 3] > 0)[shown].mean() > 0.99 and (seen[..., 3] == 0)[~shown].mean() > 0.9
    low, high = RANGES[name]
    colors = colormaps["viridis"]((want - low) / (high - low), bytes=True)
    apart = np.abs(seen[..., :3].astype(int) - colors[..., :3])[shown].max(-1)
    assert np.quantile(apart, 0.99) <= 6  # of 255 shades


def test_the_legend_tells_what_the_first_and_the_last_color_stand_for(client: Any) -> None:
    summary = client.get("/scenes/utm").json()
    assert summary["layers"] == ["segmentation", "overview", *VALUES]
    first, last = (str(np.datetime64("1970-01-01") + number) for number in RANGES["last_date"])
    assert summary["ranges"] == {"agreement": [0, 1], "observations": [0, 420], "last_date": [first, last]}
    ramps = client.get("/scenes").json()["ramps"]
    assert {name: ramps[name]["brightest"] for name in VALUES} == {
        "agreement": 1,
        "observations": None,
        "last_date": None,
    }


@pytest.mark.parametrize(("row", "col"), [(0, 0), (30, 20), (150, 200), (299, 419)])
def test_a_pixel_tells_a_share_a_count_and_a_day(client: Any, row: int, col: int) -> None:
    lon, lat = Transformer.from_crs(GRID.crs.proj, "OGC:CRS84", always_xy=True).transform(
        *GRID.pix2wld(col + 0.5, row + 0.5)
    )
    found = client.get("/scenes/utm/pixel", params={"lon": lon, "lat": lat}).json()
    assert (found["row"], found["col"]) == (row, col)
    is_missing = LABELS[row, col] == 255
    assert found["observations"] == (None if row == 0 else 0 if is_missing else 1 + col)
    assert found["agreement"] == (None if is_missing else pytest.approx((100 + row // 2) * 0.004))
    day = str(np.datetime64("1970-01-01") + 19_000 + row + col)
    assert found["last_date"] == (None if is_missing else day)


def test_every_layer_that_has_a_file_may_be_drawn() -> None:
    assert set(get_args(get_args(tiles._LayerName)[0])) == set(LAYER_FILES)
