"""A GeoTIFF whose pixels this GDAL cannot decode is refused when the scene is opened."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.scenes.band_matching import BandNeed
from seamline.pipeline.scenes.open_scene import SceneOptions, open_scene
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff

COMPRESSION = 259
UNKNOWN, JBIG, DEFLATE = 65000, 34661, 32946


def change_compression(path: Path, code: int) -> None:
    """Let the first directory of a little-endian classic TIFF name another compression."""
    data = bytearray(path.read_bytes())
    (directory,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, directory)
    (entry,) = [
        place
        for place in range(directory + 2, directory + 2 + 12 * count, 12)
        if struct.unpack_from("<H", data, place) == (COMPRESSION,)
    ]
    struct.pack_into("<H", data, entry + 8, code)
    path.write_bytes(data)


@pytest.mark.parametrize(("code", "name"), [(UNKNOWN, "65000"), (JBIG, "JBIG")])
@pytest.mark.parametrize("is_folder", [False, True])
def test_a_missing_codec_is_named_with_the_way_out(tmp_path: Path, code: int, name: str, is_folder: bool) -> None:
    for position, band in enumerate(BAND_NAMES[:3]):
        pixels = make_noise(1, 64, 64, seed=position)
        path = write_geotiff(tmp_path / f"{band}.tif", pixels, names=(band,), compress="deflate")
    change_compression(path, code)
    needs = tuple(BandNeed(band, None) for band in BAND_NAMES[:3])
    said = rf"cannot open .*{path.name}: got .* codec {name}, expected .*; .*`gdal_translate -co COMPRESS=DEFLATE`"
    with pytest.raises(InputError, match=said):
        open_scene(tmp_path if is_folder else path, needs, SceneOptions())


def test_the_other_number_of_deflate_is_no_missing_codec(tmp_path: Path) -> None:
    path = write_geotiff(tmp_path / "a.tif", make_noise(1, 64, 64), names=("red",), compress="deflate")
    change_compression(path, DEFLATE)
    assert open_scene(path, (BandNeed("red", None),), SceneOptions()).grid.shape == (64, 64)
