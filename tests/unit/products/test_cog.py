from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp
from rio_cogeo.cogeo import cog_validate

from seamline.pipeline.common.classes import NODATA, LabelClass
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.cog import describe_labels, iter_row_windows, write_cog
from seamline.pipeline.products.zarr_store import ZarrLayout, create_store, open_labels, write_labels

CLASSES = [LabelClass(value, f"class {value}", (value * 60, 100, 20)) for value in range(4)]
NORTH_UP = Affine(30, 0, 600000, 0, -30, 9700000)


def store(folder: Path, labels: np.ndarray, grid: GeoBox, chunk: int) -> Any:
    create_store(folder / "s.zarr", grid, CLASSES, ZarrLayout(chunk), title="a scene")
    write_labels(folder / "s.zarr", Window(0, 0, *grid.shape), labels)
    return open_labels(folder / "s.zarr")


def random_labels(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(height)
    coarse = rng.choice([0, 1, 2, 3, NODATA], size=(height // 7 + 1, width // 7 + 1)).astype(np.uint8)
    labels = coarse.repeat(7, axis=0).repeat(7, axis=1)[:height, :width].copy()
    noise = rng.random((height, width)) < 0.2
    labels[noise] = rng.choice([0, 1, 2, 3, NODATA], size=int(noise.sum()))
    return labels


@pytest.mark.parametrize(
    ("shape", "chunk", "crs", "transform"),
    [
        ((1, 1), 512, "EPSG:32620", NORTH_UP),
        ((300, 200), 128, "EPSG:4326", Affine(1e-4, 0, 12.5, 0, -7e-5, 46.1)),
        ((513, 1500), 256, "EPSG:32620", NORTH_UP @ Affine.rotation(20)),
        ((3000, 2500), 1024, "EPSG:32620", NORTH_UP),
        ((700, 900), 200, None, Affine.identity()),
    ],
)
def test_cog_equals_zarr(
    tmp_path: Path, shape: tuple[int, int], chunk: int, crs: str | None, transform: Affine
) -> None:
    grid, labels = GeoBox(shape, transform, crs), random_labels(*shape)
    path = tmp_path / "segmentation.tif"
    write_cog(
        store(tmp_path, labels, grid, chunk), grid, describe_labels(CLASSES), path, tmp_path / "scratch", {"MODEL": "m"}
    )

    valid, errors, warnings = cog_validate(path, strict=True)
    assert (valid, errors, warnings) == (True, [], [])
    with rasterio.open(path) as cog:
        np.testing.assert_array_equal(cog.read(1), labels)
        read = GeoBox.from_rio(cog)
        assert read.shape == grid.shape
        assert read.transform.almost_equals(grid.transform)
        assert read.crs == grid.crs
        assert cog.nodata == NODATA
        assert cog.dtypes == ("uint8",)
        assert cog.block_shapes == [(512, 512)]
        assert cog.colorinterp == (ColorInterp.palette,)
        assert cog.descriptions == ("segmentation",)
        assert all(cog.colormap(1)[label.value] == (*label.color, 255) for label in CLASSES)
        assert cog.colormap(1)[NODATA][3] == 0
        tags = cog.tags()
        assert (tags["CLASS_2"], tags["MODEL"]) == ("class 2", "m")
        assert tags.get("AREA_OR_POINT") == ("Area" if crs else None)  # a key of the georeference
    assert not list((tmp_path / "scratch").iterdir())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["s.zarr", "scratch", "segmentation.tif"]


def test_overviews_are_the_mode_of_the_valid_labels(tmp_path: Path) -> None:
    grid, labels = GeoBox((1024, 2048), NORTH_UP, "EPSG:32620"), random_labels(1024, 2048)
    path = tmp_path / "segmentation.tif"
    write_cog(store(tmp_path, labels, grid, 512), grid, describe_labels(CLASSES), path, tmp_path, {})
    with rasterio.open(path) as cog:
        assert cog.overviews(1) == [2, 4]
    with rasterio.open(path, overview_level=0) as level:
        overview = level.read(1)
    quads = labels.reshape(512, 2, 1024, 2).swapaxes(1, 2).reshape(512, 1024, 4)
    counts = np.stack([(quads == value).sum(axis=-1) for value in range(4)], axis=-1)
    empty = counts.sum(axis=-1) == 0
    np.testing.assert_array_equal(overview == NODATA, empty)
    chosen = np.take_along_axis(counts, np.where(empty, 0, overview)[..., np.newaxis].astype(int), axis=-1)
    assert (chosen[..., 0] == counts.max(axis=-1)).all()  # where two are as frequent, either is a mode


def test_the_same_labels_give_the_same_bytes(tmp_path: Path) -> None:
    grid, labels = GeoBox((900, 700), NORTH_UP, "EPSG:32620"), random_labels(900, 700)
    zarr_labels = store(tmp_path, labels, grid, 256)
    for name in ("a.tif", "b.tif"):
        write_cog(zarr_labels, grid, describe_labels(CLASSES), tmp_path / name, tmp_path, {"MODEL": "m"})
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


@pytest.mark.parametrize(("height", "chunk", "multiple"), [(1, 4, 1), (10, 4, 1), (10, 4, 6), (24, 6, 3), (7, 9, 2)])
def test_bands_partition_the_rows(tmp_path: Path, height: int, chunk: int, multiple: int) -> None:
    grid = GeoBox((height, 5), NORTH_UP, "EPSG:32620")
    bands = list(iter_row_windows(store(tmp_path, np.zeros((height, 5), np.uint8), grid, chunk), multiple))
    rows = [row for band in bands for row in range(band.row, band.stop_row)]
    assert rows == list(range(height))
    assert all(band.row % multiple == 0 and band.height < chunk + multiple and band.width == 5 for band in bands)


class Broken:
    """Labels whose second row of chunks cannot be read."""

    def __init__(self, labels: Any) -> None:
        self.shape, self.chunks, self.shards, self.ndim = labels.shape, labels.chunks, labels.shards, labels.ndim
        self._labels = labels

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        if index[0].start > 0:
            raise OSError("chunk c/1/0 is gone")
        return self._labels[index]


def test_a_failure_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    grid, labels = GeoBox((1024, 600), NORTH_UP, "EPSG:32620"), random_labels(1024, 600)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "segmentation.tif").write_bytes(b"old")
    broken: Any = Broken(store(tmp_path, labels, grid, 512))
    with pytest.raises(OSError, match="chunk c/1/0 is gone"):
        write_cog(
            broken, grid, describe_labels(CLASSES), tmp_path / "out" / "segmentation.tif", tmp_path / "scratch", {}
        )
    assert [(file.name, file.read_bytes()) for file in (tmp_path / "out").iterdir()] == [("segmentation.tif", b"old")]
    assert not list((tmp_path / "scratch").iterdir())


def test_labels_of_another_grid_are_refused(tmp_path: Path) -> None:
    grid = GeoBox((10, 10), NORTH_UP, "EPSG:32620")
    labels = store(tmp_path, np.zeros((10, 10), np.uint8), grid, 16)
    with pytest.raises(ValueError, match=r"an array of shape \(10, 10\) is not on a grid of shape \(10, 11\)"):
        write_cog(
            labels, GeoBox((10, 11), NORTH_UP, "EPSG:32620"), describe_labels(CLASSES), tmp_path / "x.tif", tmp_path, {}
        )
