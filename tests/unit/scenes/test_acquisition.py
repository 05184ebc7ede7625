"""When a scene was acquired: what products say goes before what a program wrote that converted the file."""

from __future__ import annotations

import re
from datetime import UTC
from pathlib import Path

import pytest
import rasterio

from seamline.pipeline.scenes.acquisition import FILE_TIME_TAG, TIME_TAGS, read_acquisition_time
from tests.support.small_rasters import make_noise, write_geotiff

CONVERTED = {"TIFFTAG_DATETIME": "2024:11:02 12:00:00"}


def read_time(path: Path, tags: dict[str, str]) -> str | None:
    write_geotiff(path, make_noise(3, 4, 4))
    with rasterio.open(path, "r+") as file:
        file.update_tags(**CONVERTED, **tags)
    found = read_acquisition_time(str(path))
    if found is None:
        return None
    assert found.start.tzinfo is UTC
    return found.to_iso().removesuffix("+00:00").removesuffix("T00:00:00")


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
        ("SENTINEL2A_20230408-100031-462_L2A_T33TWN_C_V3-1_FRE_B2", "2023-04-08T10:00:31"),
        ("VENUS-XS_20230408-100031-000_L2A_SUDOUE-1_C_V3-0", "2023-04-08T10:00:31"),
        ("L2F_T31TFJ_20230408_S2A_R051", "2023-04-08"),
        ("S2A2A_20230408_122_Myextent_BOA_10", "2023-04-08"),
        ("20230718_LEVEL2_SEN2A_BOA", "2023-07-18"),
        ("20180718_LEVEL2_LND08_BOA", "2018-07-18"),
        ("LC08_CU_028012_20210508_20210518_02_SR_B2", "2021-05-08"),
        ("LC08_CU_028012_20210508_20210518_C01_V01_SRB2", "2021-05-08"),
        ("LC081900292021050801T1-SC20210518123456", "2021-05-08"),
        ("ga_ls8c_ard_3-2-1_089078_2023-04-08_final", "2023-04-08"),
        ("ga_s2bm_nbart_3-2-1_55HFA_2023-04-08_final", "2023-04-08"),
        ("2023-04-08-00_00_2023-04-08-23_59_Sentinel-2_L2A_B04_(Raw)", "2023-04-08"),
        ("S1A_IW_20230408T051500_DVP_RTC30_G_gpuned_1234", "2023-04-08T05:15:00"),
        ("S3A_OL_1_EFR____20230408T095549_20230408T095849", "2023-04-08T09:55:49"),
        ("20230408_095549_12_2439_3B", "2023-04-08T09:55:49"),
        ("3159120_2012-07-03_RE3_3A_Analytic", "2012-07-03"),
        ("23APR08100031-M2AS-012345678010_01_P001", "2023-04-08T10:00:31"),
        ("WV02_20230408100031_1030010012345678_23APR08100031-M1BS", "2023-04-08T10:00:31"),
        ("IMG_PHR1A_MS_202304081000316_ORT_1", "2023-04-08T10:00:31"),
        ("IMG_SPOT7_MS_202304081000316_ORT_1", "2023-04-08T10:00:31"),
        ("CBERS_4A_WPM_20230408_200_139_L4_BAND1", "2023-04-08"),
        ("AMAZONIA_1_WFI_20230408_036_018_L4_BAND1", "2023-04-08"),
        ("R2F12DEC2018045678009600054SSANSTUC00GTDA", "2018-12-12"),
        ("GF1_PMS1_E113.0_N23.5_20230408_L1A0001234567-MSS1", "2023-04-08"),
        ("VNP09GA.A2023098.h18v04.002", "2023-04-08"),
        ("MOD09GA.061_sur_refl_b01_1_doy2023098_aid0001", "2023-04-08"),
        ("AST_L1T_00304082023100031_20230409", "2023-04-08T10:00:31"),
        ("EMIT_L2A_RFL_001_20230408T095549_2309806_001", "2023-04-08T09:55:49"),
        ("ENMAP01-____L2A-DT0000001000_20230408T100031Z_001", "2023-04-08T10:00:31"),
        ("PRS_L2D_STD_20230408100031_20230408100035_0001", "2023-04-08T10:00:31"),
        # Named after a satellite, and when is not said in a known form.
        ("S2B_MSIL2A_20239948T095549_N0509_R122_T33TWN", None),  # no date
        ("LANDSAT_8_mosaic", None),
        ("sentinel-2-summer", None),
        ("T33TWN_composite", None),
        ("AWIFS_summer", None),
        ("AVHRR_mosaic", None),
        ("field_20230408", "2024-11-02T12:00:00"),  # no product
    ],
)
def test_the_name_of_a_product_goes_before_the_date_of_the_file(
    tmp_path: Path, name: str, expected: str | None
) -> None:
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


def test_the_guide_lists_the_tags_and_names_that_tell_the_time(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[3] / "docs" / "guides" / "inputs.md").read_text(encoding="utf-8")
    part = guide.partition("## When it was taken")[2].partition("\n## ")[0]
    assert [tag for tag in (*TIME_TAGS, FILE_TIME_TAG) if f"`{tag}`" not in part] == []
    names = [name for line in part.splitlines() if line.startswith("   | ") for name in re.findall("`([^`]+)`", line)]
    assert len(names) > 20
    assert [name for name in names if read_time(tmp_path / f"{name}.tif", {}) in (None, "2024-11-02T12:00:00")] == []
