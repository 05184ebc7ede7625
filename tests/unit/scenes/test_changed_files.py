"""A run reads the files that it began with, or none."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from rasterio.shutil import copy as copy_raster

from seamline.pipeline.common.errors import BadBlockError
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.raster_io import window_reader
from seamline.pipeline.scenes.band_matching import BandNeed
from seamline.pipeline.scenes.open_scene import SceneOptions, open_scene
from seamline.pipeline.scenes.scene import read_block
from tests.support.small_rasters import make_noise, write_geotiff
from tests.support.virtual_rasters import EDGE, make_band, make_source, make_vrt

RGB = [BandNeed("red"), BandNeed("green"), BandNeed("blue")]
WHOLE = Window(0, 0, 20, 30)


def write(path: Path, seed: int) -> Path:
    return write_geotiff(path, make_noise(3, 20, 30, seed=seed), names=("red", "green", "blue"))


def rewrite(path: Path) -> None:
    write(path, seed=1)


def replace(path: Path) -> None:
    write(path.with_name("new.tif"), seed=1).replace(path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


WAYS: list[Callable[[Path], None]] = [rewrite, replace, cut, Path.unlink]


@pytest.mark.parametrize("change", WAYS)
@pytest.mark.parametrize("kind", ["file", "VRT", "archive"])
def test_what_is_not_as_it_was_is_not_read(tmp_path: Path, change: Callable[[Path], None], kind: str) -> None:
    changed = source = write(tmp_path / "scene.tif", seed=0)
    if kind == "VRT":
        source = tmp_path / "scene.vrt"
        copy_raster(changed, source, driver="VRT")
    elif kind == "archive":
        changed = source = tmp_path / "scene.zip"
        with zipfile.ZipFile(source, "w") as archive:
            archive.write(tmp_path / "scene.tif", "scene.tif")
    scene = open_scene(source, RGB, SceneOptions())
    assert scene.describe_change() is None
    read_block(scene, WHOLE)
    change(changed)
    for mode in ("fail", "nodata"):
        with pytest.raises(
            BadBlockError,
            match=rf"{changed.name} (was changed or replaced while the run read it|can no longer be opened)",
        ):
            read_block(scene, WHOLE, mode)  # type: ignore[arg-type]
    assert changed.name in (scene.describe_change() or "")


def test_a_file_that_is_rewritten_while_it_is_read_gives_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "scene.tif", seed=0)
    scene = open_scene(path, RGB, SceneOptions())
    read = window_reader.read_pixels

    def rewrite_meanwhile(*arguments: Any) -> Any:
        pixels = read(*arguments)
        rewrite(path)
        return pixels

    monkeypatch.setattr(window_reader, "read_pixels", rewrite_meanwhile)
    with pytest.raises(BadBlockError, match=r"scene\.tif was changed or replaced while the run read it"):
        read_block(scene, WHOLE)


def test_a_file_of_the_same_size_and_time_is_told_apart_where_it_was_opened(tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", seed=0)
    scene = open_scene(path, RGB, SceneOptions())
    found, other = path.stat(), write(tmp_path / "other.tif", seed=1)
    other.write_bytes(other.read_bytes().ljust(found.st_size, b"\0")[: found.st_size])
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.replace(path)
    assert "was changed or replaced" in (scene.describe_change() or "")


def test_a_file_that_is_rewritten_and_dated_back_is_told_apart(tmp_path: Path) -> None:
    """As by ``rsync --inplace --times``: path, size, time of change and number of the file stay."""
    path = write(tmp_path / "scene.tif", seed=0)
    scene = open_scene(path, RGB, SceneOptions())
    found, other = path.stat(), write(tmp_path / "other.tif", seed=1).read_bytes()
    wait_for_clock(found.st_ctime_ns, tmp_path)
    with path.open("r+b") as file:
        file.write(other.ljust(found.st_size, b"\0")[: found.st_size])
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (found.st_mtime_ns, found.st_ino)
    assert "run the same command again" in (scene.describe_change() or "")


def wait_for_clock(before: int, folder: Path) -> None:
    """Wait until the file system's clock, which ticks in milliseconds, shows another time."""
    probe = folder / "clock"
    while probe.touch() or probe.stat().st_ctime_ns <= before:
        pass


def zip_file(path: Path) -> None:
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as archive:
        archive.write(path, path.name)


def write_vrts(path: Path) -> None:
    bands = [make_band(i, need.name, make_source(path, i)) for i, need in enumerate(RGB, 1)]
    (path.parent / "inner.tif").write_text(make_vrt(bands))
    bands = [make_band(i, need.name, make_source("inner.tif", i)) for i, need in enumerate(RGB, 1)]
    (path.parent / "outer.tif").write_text(make_vrt(bands))


@pytest.mark.parametrize(
    ("address", "changed"),
    [
        ("/vsisubfile/0_0,{}/scene.tif", "scene.tif"),
        ("/vsisubfile/0,{}/scene.tif", "scene.tif"),
        ("/vsizip/{{{}/scene.zip}}/scene.tif", "scene.zip"),
        ("/vsizip/{}/scene.zip/scene.tif", "scene.zip"),
        ("/vsizip//vsisubfile/0_0,{}/scene.zip/scene.tif", "scene.zip"),
        ("zip://{}/scene.zip!scene.tif", "scene.zip"),
        ("GTIFF_DIR:1:{}/scene.tif", "scene.tif"),
        ("vrt://{}/scene.tif?bands=1,2,3", "scene.tif"),
        ("{}/inner.tif", "scene.tif"),
        ("{}/outer.tif", "scene.tif"),
        ("{}/outer.tif", "inner.tif"),
    ],
)
def test_every_file_that_is_read_is_stamped_and_part_of_the_digest(tmp_path: Path, address: str, changed: str) -> None:
    path = write_geotiff(tmp_path / "scene.tif", make_noise(3, EDGE, EDGE), names=("red", "green", "blue"))
    write_vrts(path)
    zip_file(path)
    options = SceneOptions(scale=1e-4)
    scene = open_scene(address.format(tmp_path), RGB, options)
    digest = scene.compute_digest()
    assert tmp_path / changed in scene.list_local_files() and scene.describe_change() is None
    assert open_scene(address.format(tmp_path), RGB, options).compute_digest() == digest
    if changed == "inner.tif":
        (tmp_path / changed).write_text((tmp_path / changed).read_text() + "\n")
    else:
        write_geotiff(path, make_noise(3, EDGE, EDGE, seed=1), names=("red", "green", "blue"))
        zip_file(path)
    assert changed in (scene.describe_change() or "")
    assert open_scene(address.format(tmp_path), RGB, options).compute_digest() != digest


def write_zarr(folder: Path, seed: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    group = zarr.open_group(folder, mode="w", zarr_format=2)
    for need, pixels in zip(RGB, make_noise(3, EDGE, EDGE, seed=seed), strict=True):
        group.create_array(need.name, data=pixels, chunks=(EDGE, EDGE)).attrs["_ARRAY_DIMENSIONS"] = ["y", "x"]


def write_sources(folder: Path, seed: int) -> None:
    path = write_geotiff(folder / "scene.tif", make_noise(3, EDGE, EDGE, seed=seed), names=("red", "green", "blue"))
    if not (folder / "inner.tif").exists():
        write_vrts(path)


@pytest.mark.parametrize(
    ("write_to", "name"), [(write_zarr, ""), (write_sources, "inner.tif"), (write_sources, "outer.tif")]
)
def test_a_process_that_goes_on_reads_what_is_there_now(
    tmp_path: Path, write_to: Callable[[Path, int], None], name: str
) -> None:
    for seed in range(3):
        write_to(tmp_path / "folder", seed)
        scene = open_scene(tmp_path / "folder" / name, RGB, SceneOptions(scale=1e-4), georeferenced=False)
        expected = make_noise(3, EDGE, EDGE, seed=seed)
        np.testing.assert_array_equal(read_block(scene, Window(0, 0, EDGE, EDGE)).pixels, expected)


def test_what_viewers_write_beside_a_file_changes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", seed=0)
    scene = open_scene(path, RGB, SceneOptions())
    (tmp_path / "scene.tif.aux.xml").write_text("<PAMDataset/>")
    os.utime(path.parent)
    assert scene.describe_change() is None
    read_block(scene, WHOLE)
