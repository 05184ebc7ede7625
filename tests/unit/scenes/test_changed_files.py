"""A run reads the files that it began with, or none."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rasterio.shutil import copy as copy_raster

from seamline.pipeline.common.errors import BadBlockError
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.raster_io import window_reader
from seamline.pipeline.scenes.band_matching import BandNeed
from seamline.pipeline.scenes.open_scene import SceneOptions, open_scene
from seamline.pipeline.scenes.scene import read_block
from tests.support.small_rasters import make_noise, write_geotiff

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


def test_what_viewers_write_beside_a_file_changes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", seed=0)
    scene = open_scene(path, RGB, SceneOptions())
    (tmp_path / "scene.tif.aux.xml").write_text("<PAMDataset/>")
    os.utime(path.parent)
    assert scene.describe_change() is None
    read_block(scene, WHOLE)
