"""Overviews and layers of a store, in every form that it may have on disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 — the accessor
import xarray
import zarr
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import NODATA, LabelClass
from seamline.pipeline.geometry.tiling import Index
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products import overviews
from seamline.pipeline.products.layers import LAYER_SCALE, LAYERS
from seamline.pipeline.products.overviews import (
    halve_grid,
    reduce_by_average,
    reduce_by_maximum,
    reduce_by_mode,
    write_overviews,
)
from seamline.pipeline.products.seal import has_sealed_content, is_sealed, seal
from seamline.pipeline.products.store_files import StoredFile
from seamline.pipeline.products.zarr_store import (
    ZarrLayout,
    create_store,
    list_store_rasters,
    open_labels,
    open_store_raster,
    write_store_raster,
)
from seamline.pipeline.storage.digests import compute_digests

CLASSES = (
    LabelClass(0, "land", (200, 180, 120)),
    LabelClass(1, "water", (30, 90, 200)),
    LabelClass(2, "ice", (9, 9, 9)),
)
STORAGES = {"v3": ZarrLayout(256), "shards": ZarrLayout(256, 512), "v2": ZarrLayout(256, zarr_format=2)}
GRID = GeoBox((1100, 1403), Affine(10, 0, 5e5, 0, -10, 5e6), "EPSG:32633")

labels = st.sampled_from([0, 1, 2, 7, NODATA])
even = st.tuples(st.integers(1, 3), st.integers(1, 3)).map(lambda shape: (2 * shape[0], 2 * shape[1]))


@given(arrays.arrays(np.uint8, even, elements=labels))
def test_labels_are_seen_by_their_mode(pixels: np.ndarray) -> None:
    def expected(block: np.ndarray) -> int:
        valid = block[block != NODATA]
        return int(np.bincount(valid).argmax()) if valid.size else NODATA  # the first of equals

    found = reduce_by_mode(pixels)
    for (row, col), label in np.ndenumerate(found):
        assert label == expected(pixels[2 * row : 2 * row + 2, 2 * col : 2 * col + 2])


@given(arrays.arrays(np.uint8, even, elements=st.sampled_from([0, 1, 3, 249, 250, NODATA])))
def test_layers_are_seen_by_their_average(pixels: np.ndarray) -> None:
    found = reduce_by_average(pixels)
    for (row, col), value in np.ndenumerate(found):
        block = pixels[2 * row : 2 * row + 2, 2 * col : 2 * col + 2]
        valid = block[block != NODATA].astype(float)
        assert value == (int(np.floor(valid.mean() + 0.5)) if valid.size else NODATA)


@given(arrays.arrays(np.uint16, even, elements=st.sampled_from([0, 1, 2, 254, 255, 256, 65_533, 65_534, 65_535])))
def test_counts_and_days_are_seen_by_their_average_and_the_last(pixels: np.ndarray) -> None:
    averages, last = reduce_by_average(pixels), reduce_by_maximum(pixels)
    assert averages.dtype == last.dtype == np.uint16
    for (row, col), average in np.ndenumerate(averages):
        block = pixels[2 * row : 2 * row + 2, 2 * col : 2 * col + 2]
        valid = block[block != 65_535].astype(float)
        assert average == (int(np.floor(valid.mean() + 0.5)) if valid.size else 65_535)
        assert last[row, col] == (valid.max() if valid.size else 65_535)


@pytest.fixture(scope="module", params=STORAGES)
def sealed_store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, rng = tmp_path_factory.mktemp("store") / "segmentation.zarr", np.random.default_rng(3)
    storage = STORAGES[request.param]
    create_store(path, GRID, CLASSES, storage, title="a scene", layers=tuple(LAYERS))
    height, width = GRID.shape
    written = rng.choice(np.array([0, 1, 2, NODATA], np.uint8), (height, width))
    values = np.where(written == NODATA, NODATA, rng.integers(0, 251, (3, height, width))).astype(np.uint8)
    for row in range(0, height, storage.write_unit):
        for col in range(0, width, storage.write_unit):
            window = Window(row, col, min(storage.write_unit, height - row), min(storage.write_unit, width - col))
            write_store_raster(path, "segmentation", window, written[window.to_slices()])
            write_store_raster(path, "probabilities", window, values[:, *window.to_slices()])
            write_store_raster(path, "confidence", window, values[0][window.to_slices()])
    write_overviews(path, GRID, CLASSES, path.with_name("scratch"))
    seal(path, {"plan": "p"})
    return path


def test_overviews_of_counts_are_averages_and_of_days_the_last(tmp_path: Path) -> None:
    """Of a grid of odd size, whose last pixels have fewer below them."""
    grid, store, rng = GeoBox((601, 513), GRID.transform, GRID.crs), tmp_path / "s.zarr", np.random.default_rng(5)
    create_store(store, grid, CLASSES, ZarrLayout(256), title="a period", layers=["observations", "last_date"])
    values = rng.choice(np.array([0, 7, 300, 60_000, 65_535], np.uint16), grid.shape)
    for name in ("observations", "last_date"):
        write_store_raster(store, name, Window(0, 0, *grid.shape), values)
    write_overviews(store, grid, CLASSES, tmp_path / "scratch")
    padded = np.pad(np.where(values == 65_535, np.nan, values), [(0, 1), (0, 1)], constant_values=np.nan)
    blocks = padded.reshape(301, 2, 257, 2).transpose(0, 2, 1, 3).reshape(301, 257, 4)
    none = np.isnan(blocks).all(-1)
    blocks[none] = 65_535
    averages, last = np.floor(np.nanmean(blocks, -1) + 0.5), np.nanmax(blocks, -1)
    assert 0 < none[:, -1].sum() < 301
    np.testing.assert_array_equal(open_store_raster(store / "ovr_2x", "observations")[:], averages)
    np.testing.assert_array_equal(open_store_raster(store / "ovr_2x", "last_date")[:], last)


def bytes_of(store: Path) -> dict[str, bytes]:
    """Every file of the overviews."""
    files = [path for path in store.glob("ovr_*/**/*") if path.is_file()]
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in files}


def describe_chunks(store: Path) -> dict[str, StoredFile]:
    """The files of all chunks of labels and layers, at all levels."""
    names = {*list_store_rasters(store)}
    chunks = [
        path
        for path in store.rglob("*")
        if path.is_file() and path.suffix != ".json" and not path.name.startswith(".z")
        if names & {*path.relative_to(store).parts[:2]}
    ]
    digests = compute_digests(store, [path.relative_to(store).as_posix() for path in chunks])
    return {name: StoredFile((store / name).stat().st_size, digest) for name, digest in digests.items() if digest}


def test_a_seal_by_what_is_known_of_the_chunks_is_that_by_reading_them(store: Path) -> None:
    read = seal(store, {"plan": "p"})
    metadata = next(path for path in (store / "zarr.json", store / ".zattrs") if path.exists())
    sealed = metadata.read_bytes()
    known = describe_chunks(store)
    assert len(known) > 60 and read == sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    assert seal(store, {"plan": "p"}, known) == read and has_sealed_content(store)
    assert metadata.read_bytes() == sealed
    wrong = {**known, min(known): StoredFile(1, "00")}
    assert seal(store, {"plan": "p"}, wrong) != read and not has_sealed_content(store)


@pytest.fixture
def store(sealed_store: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sealed_store, tmp_path / "segmentation.zarr")


def test_every_overview_is_a_dataset_of_its_own(store: Path) -> None:
    assert is_sealed(store)
    layout = zarr.open_group(store, mode="r").attrs["multiscales"]["layout"]
    assert [level["asset"] for level in layout] == ["segmentation", "ovr_2x", "ovr_4x"]
    assert [level.get("derived_from") for level in layout] == [None, "segmentation", "ovr_2x"]
    grid, below = GRID, open_labels(store)[:]
    for level in layout:
        group = None if "derived_from" not in level else level["asset"]
        if group is not None:
            grid = halve_grid(grid)
            padded = np.pad(below, [(0, size % 2) for size in below.shape], constant_values=NODATA)
            below = reduce_by_mode(padded)
        assert level["spatial:shape"] == list(grid.shape) == list(below.shape)
        assert Affine(*level["spatial:transform"]) == grid.transform
        # Version 2 has a fill value in place of an attribute, which would make floats of labels.
        with xarray.open_zarr(store, group=group, decode_coords="all", mask_and_scale=False) as dataset:
            np.testing.assert_array_equal(dataset["segmentation"], below)
            assert dataset.rio.crs == "EPSG:32633"
            assert dataset["segmentation"].rio.transform().almost_equals(grid.transform)


def test_layers_are_decoded_by_their_attributes(store: Path) -> None:
    with xarray.open_zarr(store, decode_coords="all") as dataset:
        probabilities = dataset["probabilities"]
        assert probabilities.dims == ("class", "y", "x")
        assert probabilities["class"].values.tolist() == [0, 1, 2]
        raw = open_store_raster(store, "probabilities")[:]
        np.testing.assert_allclose(probabilities, np.where(raw == NODATA, np.nan, raw * LAYER_SCALE), rtol=1e-6)
        assert dataset["confidence"].rio.crs == "EPSG:32633"
        assert np.isnan(dataset["disagreement"]).all()
    with xarray.open_zarr(store, group="ovr_4x", mask_and_scale=False) as small:
        whole = open_store_raster(store, "confidence")[:].astype(float)
        whole[whole == NODATA] = np.nan
        blocks = whole[:1100, :1400].reshape(275, 4, 350, 4)
        counted = np.isfinite(blocks).all((1, 3))
        apart = small["confidence"].values[:, :350][counted] - blocks.mean((1, 3))[counted]
        assert counted.sum() > 500 and np.abs(apart).max() <= 1  # rounded twice


def test_a_killed_writing_of_overviews_is_done_again(store: Path, tmp_path: Path) -> None:
    """What is left of it has other pixels, or no array at all."""
    expected = zarr.open_array(store / "ovr_4x" / "segmentation")[:]
    zarr.open_array(store / "ovr_2x" / "segmentation", mode="r+")[:] = 0
    for left in (store / "ovr_4x").rglob("*"):
        left.unlink() if left.is_file() else None
    write_overviews(store, GRID, CLASSES, tmp_path / "scratch")
    np.testing.assert_array_equal(zarr.open_array(store / "ovr_4x" / "segmentation")[:], expected)


def test_old_gdal_reads_version_2(tmp_path: Path) -> None:
    create_store(tmp_path / "s.zarr", GRID, CLASSES, STORAGES["v2"], title="a scene")
    write_store_raster(tmp_path / "s.zarr", "segmentation", Window(0, 0, 256, 256), np.ones((256, 256), np.uint8))
    seal(tmp_path / "s.zarr", {})
    with rasterio.open(f'ZARR:"{tmp_path / "s.zarr"}":/segmentation') as file:
        assert (file.crs.to_epsg(), file.transform, file.nodata) == (32633, GRID.transform, NODATA)
        assert (file.read(1)[:256, :256] == 1).all() and (file.read(1)[256:] == NODATA).all()


def test_small_scenes_have_no_overviews(tmp_path: Path) -> None:
    grid = GeoBox((512, 300), GRID.transform, GRID.crs)
    create_store(tmp_path / "s.zarr", grid, CLASSES, ZarrLayout(256), title="a scene")
    write_overviews(tmp_path / "s.zarr", grid, CLASSES, tmp_path / "scratch")
    assert not list((tmp_path / "s.zarr").glob("ovr_*"))
    assert "multiscales" not in zarr.open_group(tmp_path / "s.zarr").attrs


@pytest.mark.parametrize("area_pixels", [1, 512**2, 700**2])
@pytest.mark.parametrize("sealed_store", ["v3", "shards"], indirect=True)
def test_overviews_and_summaries_do_not_depend_on_the_areas(
    store: Path, tmp_path: Path, area_pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever their size, and in whatever order they are worked on."""
    expected = bytes_of(store)

    def map_backwards(function: Callable[[Index], Any], places: Iterable[Index]) -> Iterator[Any]:
        found = {place: function(place) for place in reversed(list(places))}
        return iter([found[place] for place in sorted(found)])

    def summarize(window: Window, labels: np.ndarray) -> tuple[Window, np.ndarray]:
        return window, labels

    monkeypatch.setattr(overviews, "_AREA_PIXELS", area_pixels)
    areas, files = write_overviews(store, GRID, CLASSES, tmp_path / "scratch", map_backwards, summarize)
    assert bytes_of(store) == expected
    assert files == describe_chunks(store)
    seen, labels = np.zeros(GRID.shape, int), open_labels(store)[:]
    for window, part in areas:
        np.testing.assert_array_equal(part, labels[window.to_slices()])
        seen[window.to_slices()] += 1
    assert (seen == 1).all()
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("wrong", [(256, 384, 3), (256, 512, 2)])
def test_impossible_storage_is_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="expected whole chunks of 256, in version 3"):
        ZarrLayout(*wrong)  # type: ignore[arg-type]
