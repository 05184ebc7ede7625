"""When a scene was acquired: what products say goes before what a program wrote that converted the file."""

from __future__ import annotations

from datetime import UTC
from pathlib import Path

import pytest
import rasterio

from seamline.pipeline.scenes.acquisition import read_acquisition_time
from tests.support.small_rasters import make_noise, write_geotiff

CONVERTED = {"TIFFTAG_DATETIME": "2024:11:02 12:00:00"}


def read_time(path: Path, tags: dict[str, str]) -> str:
    write_geotiff(path, make_noise(3, 4, 4))
    with rasterio.open(path, "r+") as file:
        file.update_tags(**CONVERTED, **tags)
    found = read_acquisition_time(str(path))
    assert found is not None and found.tzinfo is UTC
    return found.isoformat().removesuffix("+00:00").removesuffix("T00:00:00")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("HLS.S30.T33TWN.2022168T095549.v2.0.B02", "2022-06-17T09:55:49"),
        ("20230408T095549_20230408T100215_T33TWN", "2023-04-08T09:55:49"),
        ("LC81900292021128LGN00", "2021-05-08"),
        ("LC08_190029_20210508", "2021-05-08"),
        ("LC08_L2SP_190029_20210508_02_T1", "2021-05-08"),
        ("LT05_L1TP_190029_19870508_20210518_02_T1_B3", "1987-05-08"),
        ("20230408_095549_1032_3B_AnalyticMS_SR", "2023-04-08T09:55:49"),
        ("20230408_095549_12_2465_3B_AnalyticMS_SR_8b", "2023-04-08T09:55:49"),
        ("20230408_095549_ssc4_u0001_analytic_SR", "2023-04-08T09:55:49"),
        ("S2A_33TWN_20230408_0_L2A", "2023-04-08"),
        ("S2A_T33TWN_20230408T095549_L2A", "2023-04-08T09:55:49"),
        ("S2B_MSIL2A_20190617T101041_R022_T32TQM_20201005T001655", "2019-06-17T10:10:41"),
        ("t33twn_20230408t095549_b02_10m", "2023-04-08T09:55:49"),
        ("RT_T33TWN_A0311_20230408T095549_B02", "2023-04-08T09:55:49"),
        ("S2A_OPER_PRD_MSIL1C_PDMC_20160409T011515_R022_V20160408T095549_20160408T095549", "2016-04-08T09:55:49"),
        ("S2A_OPER_MSI_L1C_TL_SGS__20160408T151515_A004_T33TWN_B02", "2016-04-08T15:15:15"),
        ("S1A_IW_GRDH_1SDV_20230408T051500_20230408T051525_048000", "2023-04-08T05:15:00"),
        ("MOD09GA.A2023097.h19v04.061", "2023-04-07"),
        ("m_3411101_ne_11_1_20200101", "2020-01-01"),
        ("m_3411101_ne_11_060_20200101_20200908", "2020-01-01"),
        ("S2B_MSIL2A_20239948T095549_N0509_R122_T33TWN", "2024-11-02T12:00:00"),  # no date
        ("field_20230408", "2024-11-02T12:00:00"),  # no product
    ],
)
def test_the_name_of_a_product_goes_before_the_date_of_the_file(tmp_path: Path, name: str, expected: str) -> None:
    assert read_time(tmp_path / f"{name}.tif", {}) == expected


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"SENSING_TIME": "2022-06-17T09:55:49.1234567Z; 2022-06-17T09:55:59.1234567Z"}, "2022-06-17T09:55:49.123456"),
        ({"PRODUCT_START_TIME": "2022-06-17T09:55:49Z"}, "2022-06-17T09:55:49"),
        ({"DATE_ACQUIRED": "2022-06-17"}, "2022-06-17"),
        ({"acquisition_date": "2022-06-17"}, "2022-06-17"),
        ({"Acquisition_Time": "2022-06-17T09:55:49Z", "DATE_ACQUIRED": "2022-06-17"}, "2022-06-17T09:55:49"),
        ({"SENSING_TIME": "unknown"}, "2024-11-02T12:00:00"),
    ],
)
def test_tags_of_products_go_before_the_date_of_the_file(tmp_path: Path, tags: dict[str, str], expected: str) -> None:
    assert read_time(tmp_path / "x.tif", tags) == expected


def test_the_time_of_day_of_landsat_is_in_its_metadata_file(tmp_path: Path) -> None:
    for product in ("LC81900292021128LGN00", "LC08_L2SP_190029_20210508_20210518_02_T1"):
        (tmp_path / f"{product}_MTL.json").write_text('{"A": {"SCENE_CENTER_TIME": "09:55:49.1230000Z"}}')

        assert read_time(tmp_path / f"{product}_B2.TIF", {}) == "2021-05-08T09:55:49"
