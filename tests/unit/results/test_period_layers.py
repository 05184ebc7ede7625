"""A period of a map is opened and verified as a scene is: with counts, days and shares beside the labels."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
import zarr
from rio_cogeo.cogeo import cog_validate

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.results.dataset import open_result
from seamline.pipeline.results.verify import verify
from tests.support.served_scenes import make_period_layers, make_smooth_labels

VALUES = make_period_layers(make_smooth_labels(0))


@pytest.fixture
def period(period_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(period_folder, tmp_path / "out") / "utm"


def check_dataset(dataset: xr.Dataset) -> None:
    days, counts, shares = VALUES["last_date"], VALUES["observations"], VALUES["agreement"]
    dates = np.where(days == 65535, np.datetime64("NaT"), np.datetime64("1970-01-01") + days.astype("m8[D]"))
    assert dataset["last_date"].dtype == "datetime64[ns]" and dataset["observations"].dtype == "uint16"
    np.testing.assert_array_equal(dataset["last_date"], dates.astype("M8[ns]"))
    np.testing.assert_array_equal(dataset["observations"], np.where(counts == 65535, 0, counts))
    np.testing.assert_allclose(dataset["agreement"], np.where(shares == 255, np.nan, shares * 0.004), rtol=1e-6)


@pytest.mark.parametrize("kind", ["zarr", "cog"])
def test_open_result_gives_counts_days_and_shares(period: Path, kind: str) -> None:
    if kind == "cog":
        shutil.rmtree(period / "segmentation.zarr")
    check_dataset(open_result(period.parent, "utm"))


def test_xarray_opens_the_store_without_seamline(period: Path) -> None:
    opened = xr.open_zarr(period / "segmentation.zarr")
    assert np.isnan(opened["observations"][0]).all()
    check_dataset(opened.assign(observations=opened["observations"].fillna(0).astype("uint16")))


def test_the_cogs_are_valid(period: Path) -> None:
    for name in VALUES:
        assert cog_validate(period / f"{name}.tif", strict=True) == (True, [], [])


def test_verify_is_silent(period: Path) -> None:
    assert list(verify(period.parent)) == []


def change_cog(folder: Path) -> None:
    with rasterio.open(folder / "observations.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        values = file.read(1)
        values[5, 5] += 256  # the low byte stays
        file.write(values, 1)


def change_store(folder: Path) -> None:
    array = zarr.open_array(folder / "segmentation.zarr" / "last_date", mode="r+")
    array[100, 100] = int(array[100, 100]) + 256


DAMAGES: dict[str, tuple[Callable[[Path], None], set[str]]] = {
    "COG": (change_cog, {"observations.tif file:checksum is", "segmentation.zarr 1 values are others than"}),
    "store": (change_store, {"segmentation.zarr its content is not", "segmentation.zarr 1 values are others than"}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_finds_damage(period: Path, damage: str) -> None:
    change, expected = DAMAGES[damage]
    change(period)
    found = [f"{finding.subject} {finding.problem}" for finding in verify(period.parent)]
    assert all(any(text.startswith(start) for text in found) for start in expected), found


def test_a_store_with_a_layer_of_another_type_is_refused(period: Path) -> None:
    store = period / "segmentation.zarr"
    shutil.rmtree(store / "observations")
    shutil.copytree(store / "agreement", store / "observations")
    with pytest.raises(InputError, match="observations uint8 of shape"):
        open_result(period.parent, "utm")
