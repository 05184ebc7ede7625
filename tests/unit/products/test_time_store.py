"""The store of several periods: it has the pixels of their stores, and takes no space for them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401  # registers .rio
import xarray as xr
import zarr
from affine import Affine
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import NODATA, LabelClass
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.maps.time_store import PeriodStore, write_time_store
from seamline.pipeline.products import store_files
from seamline.pipeline.products.layers import LAYERS, get_nodata
from seamline.pipeline.products.overviews import find_stale_overviews, list_levels, write_overviews
from seamline.pipeline.products.seal import has_sealed_content, is_sealed, list_store_files, seal
from seamline.pipeline.products.zarr_store import (
    LABELS_ARRAY,
    ZarrLayout,
    create_store,
    list_store_rasters,
    open_store_raster,
    write_labels,
    write_store_raster,
)

CLASSES = [LabelClass(0, "land", (200, 180, 120)), LabelClass(1, "water", (30, 90, 200))]
GRID = GeoBox((700, 900), Affine(20, 0, 600_000, 0, -20, 5_300_000), "EPSG:32633")
LAYER_NAMES = ("probabilities", "agreement", "observations", "last_date")
LAYOUTS = {"3": ZarrLayout(256), "shards": ZarrLayout(128, 256), "2": ZarrLayout(256, zarr_format=2)}
MONTHS = [date(2024, month, 1) for month in (6, 7, 8, 9)]


def make_period(folder: Path, number: int, layout: ZarrLayout, grid: GeoBox = GRID) -> PeriodStore:
    """A month's store of noise, half of it without data, so that chunks are missing, also of overviews."""
    rng, store, whole = np.random.default_rng(number), folder / f"{number}.zarr", Window(0, 0, *grid.shape)
    layers = [name for name in LAYERS if name in LAYER_NAMES]
    create_store(store, grid, CLASSES, layout, title=f"month {number}", layers=layers)
    missing = np.zeros(grid.shape, bool)
    missing[: 256 + 256 * (number == 1)] = True
    write_labels(store, whole, np.where(missing, NODATA, rng.integers(0, 2, grid.shape)).astype(np.uint8))
    for name in layers:
        nodata, array = LAYERS[name].nodata, open_store_raster(store, name)
        noise = rng.integers(0, min(nodata, 30_000), array.shape)
        write_store_raster(store, name, whole, np.where(missing, nodata, noise).astype(array.dtype))
    _, files = write_overviews(store, grid, CLASSES, folder / "scratch")
    seal(store, {"period": number}, files)
    return PeriodStore(f"2024-{6 + number:02}", MONTHS[number], MONTHS[number + 1], store, files)


def write(path: Path, periods: list[PeriodStore], grid: GeoBox = GRID) -> int:
    return write_time_store(path, periods, grid, CLASSES, title="three months", attributes={"map": "m"})


@pytest.fixture(scope="module", params=LAYOUTS)
def months(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[PeriodStore]:
    folder = tmp_path_factory.mktemp("months")
    return [make_period(folder, number, LAYOUTS[request.param]) for number in range(3)]


@pytest.fixture(scope="module")
def joined(months: list[PeriodStore]) -> Path:
    path = months[0].path.with_name("map.zarr")
    size = write(path, months)
    assert size == sum(file.stat().st_size for file in list_store_files(path))
    return path


def test_its_arrays_are_those_of_the_periods(joined: Path, months: list[PeriodStore]) -> None:
    levels = list_levels(joined)
    assert [level.name for level in levels] == ["map.zarr", "ovr_2x"]
    for level in levels:
        opened = xr.open_zarr(level, mask_and_scale=False, decode_times=False)
        dims = {LABELS_ARRAY: ("time", "y", "x"), "probabilities": ("time", "class", "y", "x")}
        for name in (LABELS_ARRAY, *LAYER_NAMES):
            assert opened[name].dims == dims.get(name, ("time", "y", "x"))
            for number, month in enumerate(months):
                own = open_store_raster(month.path / level.relative_to(joined), name)
                assert opened[name].dtype == own.dtype
                np.testing.assert_array_equal(opened[name][number], own[:])
        for name in ("y", "x", "class"):
            np.testing.assert_array_equal(opened[name], xr.open_zarr(months[0].path / level.relative_to(joined))[name])


def test_xarray_decodes_times_layers_and_crs(joined: Path, months: list[PeriodStore]) -> None:
    opened = xr.open_zarr(joined, decode_coords="all")
    firsts = np.array(MONTHS, "datetime64[ns]")
    np.testing.assert_array_equal(opened["time"], firsts[:3])
    np.testing.assert_array_equal(opened["time_bnds"], np.stack([firsts[:3], firsts[1:]], 1))
    assert opened["time"].attrs["periods"] == ["2024-06", "2024-07", "2024-08"]
    assert opened.sel(time="2024-07").sizes["time"] == 1 and opened.rio.crs == "EPSG:32633"
    for number, month in enumerate(months):
        days = open_store_raster(month.path, "last_date")[:]
        expected = np.where(days == 65535, np.datetime64("NaT"), np.datetime64("1970-01-01") + days.astype("m8[D]"))
        np.testing.assert_array_equal(opened["last_date"][number], expected.astype("M8[ns]"))
        counts = open_store_raster(month.path, "observations")[:]
        np.testing.assert_array_equal(opened["observations"][number], np.where(counts == 65535, np.nan, counts))
        shares = open_store_raster(month.path, "agreement")[:]
        np.testing.assert_allclose(opened["agreement"][number], np.where(shares == 255, np.nan, shares * 0.004), 1e-6)


def test_the_chunks_take_no_space_and_missing_ones_stay_away(joined: Path, months: list[PeriodStore]) -> None:
    pixels = [file for name in (LABELS_ARRAY, *LAYER_NAMES) for file in joined.rglob(f"{name}/**/*")]
    chunks = [file for file in pixels if file.is_file() and not file.name.startswith((".z", "zarr.json"))]
    assert {file.stat().st_nlink for file in chunks} == {2}
    owned = {(status.st_dev, status.st_ino) for month in months for status in map(os.stat, month.path.rglob("*"))}
    assert {(status.st_dev, status.st_ino) for status in map(os.stat, chunks)} <= owned
    assert len(chunks) == sum(len(month.files or ()) for month in months)
    labels = open_store_raster(joined, LABELS_ARRAY)
    assert labels.nchunks_initialized < labels.nchunks and (labels[1, :512] == NODATA).all()


def test_it_is_sealed_and_damage_is_found(joined: Path) -> None:
    assert is_sealed(joined) and has_sealed_content(joined)
    assert zarr.open_group(joined, mode="r").attrs["seamline"]["map"] == "m"
    file = max((path for path in (joined / LABELS_ARRAY).rglob("*") if path.is_file()), key=os.path.getsize)
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[:-1])  # a file of its own: the period's stays as it is
    assert not has_sealed_content(joined)
    file.write_bytes(content)
    assert has_sealed_content(joined)


def test_multiscales_lead_to_the_overviews(joined: Path, months: list[PeriodStore]) -> None:
    attributes, own = (zarr.open_group(path, mode="r").attrs.asdict() for path in (joined, months[0].path))
    for name in ("multiscales", "zarr_conventions", "spatial:transform", "spatial:shape", "proj:code"):
        assert attributes[name] == own[name]
    assert not list(find_stale_overviews(joined))


@pytest.mark.parametrize("months", ["2"], indirect=True)  # for version 3 see the test of the readers
def test_gdal_reads_each_period(joined: Path, months: list[PeriodStore]) -> None:
    for name in (LABELS_ARRAY, "observations", "last_date"):
        for number, month in enumerate(months):
            with rasterio.open(f'ZARR:"{joined}":/{name}:{number}') as file:
                np.testing.assert_array_equal(file.read(1), open_store_raster(month.path, name)[:])
                assert file.crs == "EPSG:32633" and file.transform == GRID.transform
                assert file.nodata == get_nodata(file.dtypes[0])


def test_nothing_is_read_again(
    months: list[PeriodStore], tmp_path: Path, joined: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is not known is read, to the same seal."""
    unknown = [replace(month, files=None) for month in months]
    write(tmp_path / "read.zarr", unknown)

    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(store_files, "compute_digest", refuse)
    write(tmp_path / "known.zarr", months)
    seals = {zarr.open_group(path, mode="r").attrs["seamline"]["content"] for path in tmp_path.glob("*.zarr")}
    assert seals == {zarr.open_group(joined, mode="r").attrs["seamline"]["content"]}


def test_chunks_are_copied_where_links_are_not_possible(
    months: list[PeriodStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(link: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    write(tmp_path / "map.zarr", months)
    assert has_sealed_content(tmp_path / "map.zarr")
    np.testing.assert_array_equal(
        open_store_raster(tmp_path / "map.zarr", LABELS_ARRAY)[2], open_store_raster(months[2].path, LABELS_ARRAY)[:]
    )


def test_a_period_that_is_written_anew_leaves_the_joined_store_as_it_was(tmp_path: Path) -> None:
    """Since zarr puts a new file in the place of a chunk."""
    month = make_period(tmp_path, 0, ZarrLayout(256))
    write(tmp_path / "map.zarr", [month])
    before = open_store_raster(month.path, LABELS_ARRAY)[:]
    write_labels(month.path, Window(0, 0, *GRID.shape), np.zeros(GRID.shape, np.uint8))
    np.testing.assert_array_equal(open_store_raster(tmp_path / "map.zarr", LABELS_ARRAY)[0], before)
    assert has_sealed_content(tmp_path / "map.zarr")


def test_a_grid_without_crs_and_overviews(tmp_path: Path) -> None:
    grid = GeoBox((30, 40), Affine(1, 0, 0, 0, 1, 0), None)
    month = make_period(tmp_path, 0, ZarrLayout(256), grid)
    write(tmp_path / "map.zarr", [month], grid)
    assert set(list_store_rasters(tmp_path / "map.zarr")) == {LABELS_ARRAY, *LAYER_NAMES}
    assert list_levels(tmp_path / "map.zarr") == [tmp_path / "map.zarr"] and has_sealed_content(tmp_path / "map.zarr")


def unsealed(month: PeriodStore) -> PeriodStore:
    zarr.open_group(month.path, mode="r+", use_consolidated=False).update_attributes({"seamline": {}})
    return month


def fewer_layers(month: PeriodStore) -> PeriodStore:
    store = month.path.with_name("other.zarr")
    create_store(store, GRID, CLASSES, ZarrLayout(256), title="other")
    seal(store, {})
    return replace(month, path=store)


REFUSED: dict[str, tuple[Callable[[PeriodStore, Path], list[PeriodStore]], str]] = {
    "none": (lambda month, folder: [], "no period"),
    "order": (lambda month, folder: [month, month], "expected a day after 2024-06-01"),
    "unsealed": (lambda month, folder: [unsealed(month)], "is not sealed"),
    "layers": (lambda month, folder: [month, replace(fewer_layers(month), start=date(2024, 6, 2))], "expected .*agree"),
    "chunks": (
        lambda month, folder: [month, make_period(folder, 1, ZarrLayout(128))],
        r"chunks \(128, 128\), expected \(256, 256\)",
    ),
    "grid": (
        lambda month, folder: [month, make_period(folder, 1, ZarrLayout(256), GRID.translate_pix(1, 0))],
        "has attributes",
    ),
    "lost": (lambda month, folder: [replace(month, files={**(month.files or {}), **lost(month)})], "no such file"),
}


def lost(month: PeriodStore) -> dict[str, store_files.StoredFile]:
    """The files, of which one is gone."""
    files = dict(month.files or {})
    (month.path / next(iter(files))).unlink()
    return files


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    make, message = REFUSED[case]
    (tmp_path / "out").mkdir()
    periods = make(make_period(tmp_path, 0, ZarrLayout(256)), tmp_path)
    with pytest.raises((ValueError, OSError), match=f"(?i){message}"):
        write(tmp_path / "out" / "map.zarr", periods)
    assert not list((tmp_path / "out").iterdir())


def test_a_store_that_is_there_is_not_replaced(months: list[PeriodStore], joined: Path) -> None:
    with pytest.raises(FileExistsError):
        write(joined, months)


def test_a_period_ends_after_it_starts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected an end after the start"):
        PeriodStore("a", MONTHS[1], MONTHS[1], tmp_path)
