"""COGs of labels and layers: GDAL reads of them, at every level, what the Zarr store holds."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from seamline.pipeline.geometry.tiling import Index
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products import cog, tiff
from seamline.pipeline.products.cog import describe_labels, describe_layer, write_cog
from seamline.pipeline.products.layers import LAYERS
from seamline.pipeline.products.overviews import list_levels, write_overviews
from seamline.pipeline.products.store_files import iter_row_windows
from seamline.pipeline.products.zarr_store import (
    ZarrLayout,
    create_store,
    open_labels,
    open_store_raster,
    write_labels,
    write_store_raster,
)

CLASSES = [LabelClass(value, f"class {value}", (value * 60, 100, 20)) for value in range(4)]
NORTH_UP = Affine(30, 0, 600000, 0, -30, 9700000)
UTM = "EPSG:32620"


def make_store(folder: Path, labels: np.ndarray, grid: GeoBox, chunk: int, layers: Sequence[str] = ()) -> Path:
    """A store with labels, layers of noise, and overviews."""
    store = folder / "s.zarr"
    create_store(store, grid, CLASSES, ZarrLayout(chunk), title="a scene", layers=layers)
    write_labels(store, Window(0, 0, *grid.shape), labels)
    for name in layers:
        array, nodata = open_store_raster(store, name), LAYERS[name].nodata
        noise = np.random.default_rng(1).integers(0, nodata - 4, array.shape, dtype=array.dtype)
        noise = np.where(labels == NODATA, array.dtype.type(nodata), noise)
        write_store_raster(store, name, Window(0, 0, *grid.shape), noise)
    write_overviews(store, grid, CLASSES, folder / "scratch")
    return store


def random_labels(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(height)
    coarse = rng.choice([0, 1, 2, 3, NODATA], size=(height // 7 + 1, width // 7 + 1)).astype(np.uint8)
    labels = coarse.repeat(7, axis=0).repeat(7, axis=1)[:height, :width].copy()
    noise = rng.random((height, width)) < 0.2
    labels[noise] = rng.choice([0, 1, 2, 3, NODATA], size=int(noise.sum()))
    return labels


def read_levels(path: Path) -> list[np.ndarray]:
    """What GDAL reads of the full resolution and of each overview, (bands, height, width)."""
    with rasterio.open(path) as file:
        levels, count = [file.read()], len(file.overviews(1))
    for number in range(count):
        with rasterio.open(path, overview_level=number) as file:
            levels.append(file.read())
    return levels


def count_valid(values: np.ndarray, value: int) -> np.ndarray:
    """How many of each 2×2 pixels have a value; pixels beyond the edge have none."""
    padded = np.pad(values == value, [(0, size % 2) for size in values.shape])
    return padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2).sum((1, 3))


@pytest.mark.parametrize(
    ("shape", "chunk", "crs", "transform"),
    [
        ((1, 1), 512, UTM, NORTH_UP),
        ((1, 5000), 512, UTM, NORTH_UP),
        ((5000, 3), 512, UTM, NORTH_UP),
        ((300, 200), 128, "EPSG:4326", Affine(1e-4, 0, 12.5, 0, -7e-5, 46.1)),
        ((513, 1025), 512, UTM, NORTH_UP),
        ((513, 1500), 256, UTM, NORTH_UP @ Affine.rotation(20)),
        ((3000, 2500), 1024, UTM, NORTH_UP),
        ((700, 900), 200, None, Affine.identity()),
    ],
)
def test_cog_equals_zarr(
    tmp_path: Path, shape: tuple[int, int], chunk: int, crs: str | None, transform: Affine
) -> None:
    grid, labels = GeoBox(shape, transform, crs), random_labels(*shape)
    path, store = tmp_path / "segmentation.tif", make_store(tmp_path, labels, grid, chunk)
    write_cog(store, grid, describe_labels(CLASSES), path, tmp_path / "scratch", {"MODEL": "m"})

    valid, errors, warnings = cog_validate(path, strict=True)
    assert (valid, errors, warnings) == (True, [], [])
    levels = read_levels(path)
    assert len(levels) == len(list_levels(store))
    for values, level in zip(levels, list_levels(store), strict=True):
        np.testing.assert_array_equal(values[0], open_labels(level)[:])
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(1), labels)
        read = GeoBox.from_rio(file)
        assert read.shape == grid.shape
        assert read.transform.almost_equals(grid.transform)
        assert read.crs == grid.crs
        assert file.nodata == NODATA
        assert file.dtypes == ("uint8",)
        assert file.block_shapes == [(512, 512)]
        assert file.colorinterp == (ColorInterp.palette,)
        assert file.descriptions == ("segmentation",)
        assert file.tags(ns="IMAGE_STRUCTURE") | {"LAYOUT": "COG", "COMPRESSION": "LZW"} == file.tags(
            ns="IMAGE_STRUCTURE"
        )
        assert all(file.colormap(1)[label.value] == (*label.color, 255) for label in CLASSES)
        assert file.colormap(1)[NODATA][3] == 0
        tags = file.tags()
        assert (tags["CLASS_2"], tags["MODEL"]) == ("class 2", "m")
        assert tags.get("AREA_OR_POINT") == ("Area" if crs else None)  # a key of the georeference
    assert not list((tmp_path / "scratch").iterdir())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["s.zarr", "scratch", "segmentation.tif"]


def test_a_raster_one_pixel_wide_has_no_overviews(tmp_path: Path) -> None:
    """Readers compare widths to tell overviews from masks and damage."""
    grid, labels = GeoBox((2000, 1), NORTH_UP, UTM), random_labels(2000, 1)
    path = tmp_path / "segmentation.tif"
    write_cog(make_store(tmp_path, labels, grid, 512), grid, describe_labels(CLASSES), path, tmp_path, {})
    assert cog_validate(path)[:2] == (True, [])
    assert [level[0].tolist() for level in read_levels(path)] == [labels.tolist()]


def test_overviews_are_the_mode_of_the_valid_labels(tmp_path: Path) -> None:
    grid, labels = GeoBox((1023, 2047), NORTH_UP, UTM), random_labels(1023, 2047)
    path = tmp_path / "segmentation.tif"
    write_cog(make_store(tmp_path, labels, grid, 512), grid, describe_labels(CLASSES), path, tmp_path, {})
    below, *overviews = (level[0] for level in read_levels(path))
    assert [level.shape for level in overviews] == [(512, 1024), (256, 512)]
    for level in overviews:
        counts = np.stack([count_valid(below, value) for value in range(4)])
        np.testing.assert_array_equal(level, np.where(counts.any(0), counts.argmax(0), NODATA))  # the first of equals
        below = level


@pytest.mark.parametrize("name", ["probabilities", "confidence", "observations", "last_date"])
def test_layers_have_bands_scale_statistics_and_averages(tmp_path: Path, name: str) -> None:
    grid, labels = GeoBox((600, 1111), NORTH_UP, UTM), random_labels(600, 1111)
    store, path = make_store(tmp_path, labels, grid, 512, [name]), tmp_path / f"{name}.tif"
    write_cog(store, grid, describe_layer(LAYERS[name], CLASSES), path, tmp_path / "scratch", {})
    assert cog_validate(path, strict=True) == (True, [], [])
    values = open_store_raster(store, name)[:].reshape(-1, *grid.shape)
    for found, level in zip(read_levels(path), list_levels(store), strict=True):
        np.testing.assert_array_equal(found, open_store_raster(level, name)[:].reshape(found.shape))
    with rasterio.open(path) as file:
        assert file.count == len(values) == (4 if name == "probabilities" else 1)
        names = [label.name for label in CLASSES] if name == "probabilities" else [name]
        assert list(file.descriptions) == names and set(file.scales) == {LAYERS[name].scale}
        assert (file.nodata, set(file.dtypes)) == (LAYERS[name].nodata, {LAYERS[name].dtype})
        assert file.units[0] == ("days since 1970-01-01" if name == "last_date" else None)
        assert file.colorinterp[0] == ColorInterp.gray and set(file.colorinterp[1:]) <= {ColorInterp.undefined}
        assert file.tags()["TITLE"] == LAYERS[name].title
        for band, tags in zip(values, map(file.tags, file.indexes), strict=True):
            valid = band[band != LAYERS[name].nodata].astype(float)
            expected = {"MINIMUM": valid.min(), "MAXIMUM": valid.max(), "MEAN": valid.mean(), "STDDEV": valid.std()}
            expected["VALID_PERCENT"] = round(100 * valid.size / band.size, 2)
            found = {key: float(tags[f"STATISTICS_{key}"]) for key in expected}
            assert found == pytest.approx(expected, rel=1e-12)


def map_backwards(function: Callable[[Index], Any], places: Iterable[Index]) -> Iterator[Any]:
    found = {place: function(place) for place in reversed(list(places))}
    return iter([found[place] for place in sorted(found)])


@pytest.mark.parametrize("name", ["segmentation", "probabilities", "observations"])
def test_the_same_labels_give_the_same_bytes(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the chunks of the store, the size of the areas and the order in which they are worked on."""
    grid, labels = GeoBox((1100, 1700), NORTH_UP, UTM), random_labels(1100, 1700)
    content = describe_labels(CLASSES) if name == "segmentation" else describe_layer(LAYERS[name], CLASSES)
    store = make_store(tmp_path, labels, grid, 256, ["probabilities", "observations"])
    write_cog(store, grid, content, tmp_path / "a.tif", tmp_path / "scratch", {"MODEL": "m"})
    for edge in (512, 1024):
        shutil.rmtree(store)
        store = make_store(tmp_path, labels, grid, edge - 100, ["probabilities", "observations"])
        monkeypatch.setattr(cog, "_LARGEST_AREA", edge)
        write_cog(store, grid, content, tmp_path / "b.tif", tmp_path / "scratch", {"MODEL": "m"}, map_backwards)
        assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_a_large_file_is_a_bigtiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid, labels = GeoBox((700, 1700), NORTH_UP, UTM), random_labels(700, 1700)
    store, path = make_store(tmp_path, labels, grid, 256), tmp_path / "segmentation.tif"
    write_cog(store, grid, describe_labels(CLASSES), path, tmp_path / "scratch", {})
    classic, size = read_levels(path), path.stat().st_size
    assert path.read_bytes()[:4] == b"II*\0"
    monkeypatch.setattr(tiff, "_MOST_CLASSIC_BYTES", size)
    write_cog(store, grid, describe_labels(CLASSES), path, tmp_path / "scratch", {})
    assert path.stat().st_size == size
    monkeypatch.setattr(tiff, "_MOST_CLASSIC_BYTES", size - 1)
    write_cog(store, grid, describe_labels(CLASSES), path, tmp_path / "scratch", {})
    assert path.read_bytes()[:4] == b"II+\0"
    assert cog_validate(path, strict=True) == (True, [], [])
    with rasterio.open(path) as file:
        assert GeoBox.from_rio(file).transform == grid.transform and file.tags()["CLASS_2"] == "class 2"
        assert file.colormap(1)[3] == (*CLASSES[3].color, 255)
    for one, other in zip(read_levels(path), classic, strict=True):
        np.testing.assert_array_equal(one, other)


def test_offsets_beyond_4_gib_are_written_in_full() -> None:
    sizes = [np.array([2**31, 2**31, 5]), np.array([7])]
    fields = {tiff._WIDTH: tiff.TiffField.from_integers([9])}
    header = tiff.encode_header([fields, fields], sizes)
    first = len(header) + 7 + 8
    offsets = np.array([first + 4, first + 4 + 2**31 + 8, first + 4 + 2**32 + 16], "<u8").tobytes()
    assert header[:4] == b"II+\0" and offsets in header


def test_the_blocks_around_which_gdal_finds_their_size(tmp_path: Path) -> None:
    """GDAL reads remote blocks by the number before them and compares the last bytes with the copy behind them."""
    grid, labels = GeoBox((1100, 1100), NORTH_UP, UTM), random_labels(1100, 1100)
    path = tmp_path / "segmentation.tif"
    write_cog(make_store(tmp_path, labels, grid, 256), grid, describe_labels(CLASSES), path, tmp_path, {})
    data, places = path.read_bytes(), []
    with rasterio.open(path) as file:
        structure = file.get_tag_item("GDAL_STRUCTURAL_METADATA", "TIFF")
        for overview in (1, 0, None):
            edge = 1 if overview == 1 else 2 if overview == 0 else 3
            for row in range(edge):
                for col in range(edge):
                    place = [
                        int(file.get_tag_item(f"BLOCK_{what}_{col}_{row}", "TIFF", bidx=1, ovr=overview))
                        if overview is not None
                        else int(file.get_tag_item(f"BLOCK_{what}_{col}_{row}", "TIFF", bidx=1))
                        for what in ("OFFSET", "SIZE")
                    ]
                    places.append(place)
    assert "BLOCK_LEADER=SIZE_AS_UINT4" in structure and "BLOCK_ORDER=ROW_MAJOR" in structure
    end = places[0][0] - 4
    for offset, size in places:
        assert offset == end + 4
        assert int.from_bytes(data[offset - 4 : offset], "little") == size
        end = offset + size + 4
        assert data[offset + size : end] == data[offset + size - 4 : offset + size]
    assert end == len(data)


@pytest.mark.parametrize(("height", "chunk"), [(1, 4), (10, 4), (24, 6), (7, 9)])
def test_bands_partition_the_rows(tmp_path: Path, height: int, chunk: int) -> None:
    grid = GeoBox((height, 5), NORTH_UP, UTM)
    labels = open_labels(make_store(tmp_path, np.zeros((height, 5), np.uint8), grid, chunk))
    bands = list(iter_row_windows(labels))
    rows = [row for band in bands for row in range(band.row, band.stop_row)]
    assert rows == list(range(height))
    assert all(band.row % chunk == 0 and band.height <= chunk and band.width == 5 for band in bands)


@pytest.mark.parametrize("damage", ["chunk", "segment"])
def test_a_failure_leaves_the_old_file_and_no_part(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, labels = GeoBox((1024, 600), NORTH_UP, UTM), random_labels(1024, 600)
    (tmp_path / "out").mkdir()
    path, store = tmp_path / "out" / "segmentation.tif", make_store(tmp_path, labels, grid, 512)
    path.write_bytes(b"old")
    if damage == "chunk":
        (store / "segmentation" / "c" / "1" / "0").write_bytes(b"damaged")
    else:
        monkeypatch.setattr(tiff, "frame_block", lambda block: block)  # a file that is shorter than its blocks are
    with pytest.raises((OSError, RuntimeError, ValueError)):
        write_cog(store, grid, describe_labels(CLASSES), path, tmp_path / "scratch", {})
    assert [(file.name, file.read_bytes()) for file in (tmp_path / "out").iterdir()] == [("segmentation.tif", b"old")]
    assert not list((tmp_path / "scratch").iterdir())


def test_labels_of_another_grid_are_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path, np.zeros((10, 10), np.uint8), GeoBox((10, 10), NORTH_UP, UTM), 16)
    with pytest.raises(ValueError, match=r"an array of shape \(10, 10\) is not on a grid of shape \(10, 11\)"):
        write_cog(store, GeoBox((10, 11), NORTH_UP, UTM), describe_labels(CLASSES), tmp_path / "x.tif", tmp_path, {})


def test_files_of_other_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="no classic, little-endian TIFF file"):
        tiff.read_directory(b"MM\0*" + bytes(8))
