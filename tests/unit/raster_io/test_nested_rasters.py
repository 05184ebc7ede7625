"""VRTs that name each other or themselves, and folders of many files: looked at once, however they are named."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.raster_io import local_files
from seamline.pipeline.raster_io.content import stamp_files
from seamline.pipeline.raster_io.gdal import close_cached_rasters, gdal_environment, open_cached_raster
from seamline.pipeline.scenes import source as source_module
from seamline.pipeline.scenes.source import read_source
from tests.support.small_rasters import make_noise, write_geotiff
from tests.support.virtual_rasters import EDGE, make_source, make_vrt

MANY = 40


def write_bands(path: Path, sources: Sequence[str]) -> Path:
    """A VRT whose bands have no descriptions."""
    bands = [
        f'<VRTRasterBand dataType="UInt16" band="{index}">{make_source(name, index)}</VRTRasterBand>'
        for index, name in enumerate(sources, start=1)
    ]
    path.write_text(make_vrt(bands))
    return path


@pytest.fixture
def openings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The rasters whose bands are looked at; a hundred are too many."""
    paths: list[str] = []
    open_raster = source_module.open_source_raster

    def open_and_count(path: str) -> object:
        paths.append(path)
        assert len(paths) < 100, "the sources are looked at again and again"
        return open_raster(path)

    monkeypatch.setattr(source_module, "open_source_raster", open_and_count)
    return paths


@pytest.mark.parametrize(
    "names",
    [
        {"a.vrt": ["a.vrt"] * 3},
        {"a.vrt": ["b.vrt"] * 3, "b.vrt": ["a.vrt"] * 3},
        {"a.vrt": ["link.vrt", "../{folder}/a.vrt", "./a.vrt"]},
    ],
    ids=["itself", "each other", "itself by other names"],
)
def test_a_vrt_that_is_a_source_of_itself_is_refused_at_once(
    tmp_path: Path, openings: list[str], names: dict[str, list[str]]
) -> None:
    (tmp_path / "link.vrt").symlink_to(tmp_path / "a.vrt")
    for name, sources in names.items():
        write_bands(tmp_path / name, [source.format(folder=tmp_path.name) for source in sources])
    bands = read_source(tmp_path / "a.vrt").bands
    assert [band.is_described for band in bands] == [False] * 3
    with pytest.raises(InputError, match=r"is a source of itself: got a circle"):
        stamp_files(str(tmp_path / "a.vrt"))


def test_a_source_of_several_vrts_is_looked_at_once(tmp_path: Path, openings: list[str]) -> None:
    names = ("red", "green", "blue")
    write_geotiff(tmp_path / "level0-0.tif", make_noise(3, EDGE, EDGE), names=names)
    write_geotiff(tmp_path / "level0-1.tif", make_noise(3, EDGE, EDGE), names=names)
    for level in range(1, 12):
        for number in (0, 1):
            sources = [f"level{level - 1}-{at}.{'vrt' if level > 1 else 'tif'}" for at in (0, 1, 0)]
            write_bands(tmp_path / f"level{level}-{number}.vrt", sources)
    bands = read_source(tmp_path / "level11-0.vrt").bands
    assert [band.labels for band in bands] == [(name,) for name in names]


def test_a_long_row_of_vrts_is_refused(tmp_path: Path, openings: list[str]) -> None:
    write_geotiff(tmp_path / "0.vrt", make_noise(1, EDGE, EDGE))
    for number in range(1, 60):
        write_bands(tmp_path / f"{number}.vrt", [f"{number - 1}.vrt"])
    assert read_source(tmp_path / "30.vrt").bands[0].labels[0] == "0"
    stamp_files(str(tmp_path / "30.vrt"))
    assert len(read_source(tmp_path / "59.vrt").bands) == 1
    with pytest.raises(InputError, match=r"lies in too many VRTs: got 33, each in the next.*at most 32"):
        stamp_files(str(tmp_path / "59.vrt"))


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that are scanned."""
    folders: list[str] = []
    scan: Callable[[str | Path], object] = os.scandir

    def scan_and_count(folder: str | Path) -> object:
        folders.append(str(folder))
        return scan(folder)

    monkeypatch.setattr(local_files.os, "scandir", scan_and_count)
    return folders


def test_a_folder_is_scanned_once_for_all_rasters_in_it(tmp_path: Path, scans: list[str]) -> None:
    for number in range(MANY):
        write_geotiff(tmp_path / "tiles" / f"{number}.tif", make_noise(1, EDGE, EDGE))
    path = write_bands(tmp_path / "mosaic.vrt", [f"tiles/{number}.tif" for number in range(MANY)])
    close_cached_rasters()
    read_source(path)
    stamp_files(str(path))
    read_source(tmp_path / "tiles")
    assert scans.count(str(tmp_path / "tiles")) == 1 and scans.count(str(tmp_path)) == 1


@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_that_comes_into_a_scanned_folder_is_refused(tmp_path: Path, linked: bool) -> None:
    path = write_geotiff(tmp_path / "x.tif", make_noise(1, EDGE, EDGE))
    target = tmp_path / "elsewhere" / "x.aux.xml" if linked else tmp_path / "x.aux.xml"
    target.parent.mkdir(exist_ok=True)
    if linked:
        (tmp_path / "x.aux.xml").symlink_to(target)
    with gdal_environment(str(path)):
        close_cached_rasters()
        open_cached_raster(str(path))
        os.mkfifo(target)
        os.utime(path, ns=(1, 1))  # so that it is opened again
        with pytest.raises(InputError, match="a pipe, socket or device"):
            open_cached_raster(str(path))
