"""What real scenes mean, and that it is found out once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seamline.pipeline.scenes import products
from seamline.pipeline.scenes.band_matching import BandNeed
from seamline.pipeline.scenes.open_scene import SceneOptions, open_scene
from seamline.pipeline.scenes.products import Calibration
from tests.support.sample_data import MANAUS, find_shared
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff

SIX = [BandNeed(name) for name in BAND_NAMES]
NAIP = "opengeos-naip/m_4709963_se_14_1_20200831.tif"
NO_SCALE = "the files state no scale"
LEVEL_1 = "xlandsat/LC09_L1TP_063046_20230714_20230714_02_T1_6b.tif"


@pytest.mark.parametrize(
    ("name", "bands", "meaning", "warnings"),
    [
        ("aquileia-s2", 6, "number / 65535 by assumption", ("about 3.7% of the pixels are 0", NO_SCALE)),
        ("aquileia-s2", 3, "number / 65535 by assumption", ("about 3.7% of the pixels are 0", NO_SCALE)),
        (
            *("madagascar-l8-2020", 6, "number / 65535 by assumption"),
            ("names no sensor", "about 2.9% of the pixels are 0", NO_SCALE),
        ),
        ("stars/L7_ETMs.tif", 6, "number / 255 by assumption", ("does not name its bands", NO_SCALE)),
        (NAIP, 4, "number / 255 by assumption", (NO_SCALE,)),
        (MANAUS, 6, "number × 2.75e-05 -0.2 by the tags of the file", ()),
        (LEVEL_1, 6, "number × 2.18618e-05 -0.109309 by the tags of the file", ()),
    ],
)
def test_the_numbers_of_real_scenes_mean_what_they_meant(
    name: str, bands: int, meaning: str, warnings: tuple[str, ...]
) -> None:
    scene = open_scene(find_shared(name), SIX[:bands], SceneOptions())
    assert scene.radiometry == meaning
    assert len(scene.warnings) == len(warnings), scene.warnings
    assert all(text in warning for text, warning in zip(warnings, scene.warnings, strict=True))


def test_values_are_computed_once_for_each_number_and_meaning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six bands of 40,000 pixels and 500 numbers, whose product leaves two offsets open."""
    pixels = make_noise(6, 200, 200, low=100, high=600)
    for name, band in zip(("B02", "B03", "B04", "B08", "B11", "B12"), pixels, strict=True):
        write_geotiff(tmp_path / f"{name}.tif", band[None])
    sizes: list[int] = []
    apply = products.Calibration.apply

    def apply_and_count(calibration: Calibration, numbers: NDArray[Any]) -> NDArray[np.float64]:
        sizes.append(numbers.size)
        return apply(calibration, numbers)

    monkeypatch.setattr(products.Calibration, "apply", apply_and_count)
    scene = open_scene(tmp_path, SIX, SceneOptions())
    assert {(band.scale, band.offset) for band in scene.bands} == {(1e-4, 0.0)}
    assert max(sizes) <= 500
    assert sum(size > 2 for size in sizes) <= 3 * 6  # dark shares of two offsets, and the values that are taken
