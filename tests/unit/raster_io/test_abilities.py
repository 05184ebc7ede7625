"""What an installation of GDAL can do is tried and not read off a list."""

from __future__ import annotations

from pathlib import Path

import pytest
from rasterio.io import MemoryFile

from seamline.pipeline.raster_io import abilities
from tests.support.small_rasters import make_noise, write_geotiff


def test_codecs_that_gdal_does_not_know_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abilities, "_CODECS", {"LZW": 1, "NONESUCH": 1, "JPEG": 3})
    assert abilities.split_codecs() == (["LZW", "JPEG"], ["NONESUCH"])


def test_what_results_are_written_with_is_there() -> None:
    assert set(abilities.WRITTEN_CODECS) <= set(abilities.split_codecs()[0])
    assert abilities.list_missing_drivers([*abilities.WRITTEN_DRIVERS, "Nonesuch"]) == ["Nonesuch"]
    # The last one GDAL reads and does not write.
    assert abilities.list_missing_vector_drivers([*abilities.VECTOR_DRIVERS, "Nonesuch", "OSM"]) == ["Nonesuch", "OSM"]


def test_a_crs_is_transformed_by_gdal_and_by_proj(monkeypatch: pytest.MonkeyPatch) -> None:
    assert abilities.find_crs_problem() == ""
    monkeypatch.setattr(abilities, "transform", lambda *given: ([500_000.0], [4_982_000.0]))
    assert abilities.find_crs_problem() == "EPSG:4326 → EPSG:32633: GDAL computes 500000.0, 4982000.0"


def test_a_cog_is_written_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert abilities.find_cog_problem(tmp_path) == ""
    with MemoryFile((tmp_path / "probe.tif").read_bytes()).open() as written:
        assert written.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    assert "cannot be written" in abilities.find_cog_problem(tmp_path / "missing")

    def write_another(source: object, path: Path, **options: object) -> None:
        write_geotiff(path, make_noise(1, 64, 64), crs="EPSG:32633")

    monkeypatch.setattr("rasterio.shutil.copy", write_another)
    assert abilities.find_cog_problem(tmp_path) == "a COG was read back with other pixels"
