from __future__ import annotations

import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import rioxarray  # noqa: F401  (the accessor .rio)
import xarray
import zarr
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from rasterio.crs import CRS

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.geozarr import find_crs_code
from seamline.pipeline.products.seal import is_sealed, seal
from seamline.pipeline.products.zarr_store import (
    ZarrLayout,
    create_store,
    open_labels,
    open_store_raster,
    write_labels,
    write_store_raster,
)
from tests.support.small_grids import CLASSES, GRIDS, NORTH_UP, make_labels


@pytest.fixture(params=GRIDS)
def grid(request: pytest.FixtureRequest) -> GeoBox:
    return GRIDS[request.param]


def test_xarray_reads_labels_crs_and_transform(grid: GeoBox, tmp_path: Path) -> None:
    path, labels = tmp_path / "segmentation.zarr", make_labels(grid)
    create_store(path, grid, CLASSES, ZarrLayout(32), title="a scene")
    write_labels(path, Window(0, 0, *grid.shape), labels)
    seal(path, {})
    with xarray.open_zarr(path, decode_coords="all") as store:
        read = store["segmentation"]
        assert read.dims == ("y", "x")
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, labels)
        assert read.rio.nodata == NODATA
        assert read.rio.transform().almost_equals(grid.transform)
        assert read.rio.crs == (None if grid.crs is None else CRS.from_wkt(grid.crs.to_wkt()))
        if grid.axis_aligned:
            corners = [grid.transform @ (0.5, 0.5), grid.transform @ (109.5, 69.5)]
            np.testing.assert_allclose(np.transpose([read["x"][[0, -1]], read["y"][[0, -1]]]), corners)
        assert read.attrs["flag_values"] == [0, 1]
        assert read.attrs["flag_meanings"].split() == ["bare_land", "water"]
        assert read.attrs["flag_colors"].split() == ["#c8b478", "#1e5ac8"]


def test_every_convention_tells_the_same_place(grid: GeoBox, tmp_path: Path) -> None:
    create_store(tmp_path / "s.zarr", grid, CLASSES, ZarrLayout(32), title="a scene")
    attributes = dict(open_labels(tmp_path / "s.zarr").attrs)
    names = [convention["name"] for convention in attributes["zarr_conventions"]]
    assert Affine(*attributes["spatial:transform"]) == grid.transform
    assert attributes["spatial:shape"] == list(grid.shape)
    assert attributes["spatial:dimensions"] == ["y", "x"]
    corners = np.array([grid.transform @ corner for corner in ((0, 0), (110, 0), (0, 70), (110, 70))])
    np.testing.assert_allclose(attributes["spatial:bbox"], [*corners.min(0), *corners.max(0)])
    if grid.crs is None:
        assert names == ["spatial"]
        assert "_CRS" not in attributes
        return
    assert names == ["proj", "spatial"]
    mapping = zarr.open_array(tmp_path / "s.zarr" / attributes["grid_mapping"], mode="r").attrs
    texts = [attributes["proj:wkt2"], attributes["_CRS"]["wkt"], mapping["crs_wkt"], mapping["spatial_ref"]]
    assert all(type(grid.crs)(text) == grid.crs for text in texts)
    if (code := find_crs_code(grid)) is not None:
        assert attributes["proj:code"] == code
        assert attributes["_CRS"]["url"].endswith(code.replace(":", "/0/"))


def test_chunks_of_nodata_take_no_space(tmp_path: Path) -> None:
    grid = GRIDS["projected"]
    create_store(tmp_path / "s.zarr", grid, CLASSES, ZarrLayout(32), title="a scene")
    write_labels(tmp_path / "s.zarr", Window(0, 0, 32, 64), np.full((32, 64), NODATA, np.uint8))
    folder = tmp_path / "s.zarr" / "segmentation" / "c"
    assert not folder.exists() or not [file for file in folder.rglob("*") if file.is_file()]
    assert (open_labels(tmp_path / "s.zarr")[:] == NODATA).all()


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_flipped_byte_is_never_another_label(zarr_format: Literal[2, 3], tmp_path: Path) -> None:
    grid, path, whole = GRIDS["projected"], tmp_path / "s.zarr", Window(0, 0, 70, 110)
    create_store(path, grid, CLASSES, ZarrLayout(128, zarr_format=zarr_format), title="a scene")
    write_labels(path, whole, make_labels(grid))
    chunk = path / "segmentation" / ("0.0" if zarr_format == 2 else "c/0/0")
    written, seen = chunk.read_bytes(), 0
    for place in range(0, len(written), 7):
        chunk.write_bytes(written[:place] + bytes([written[place] ^ 4]) + written[place + 1 :])
        try:
            np.testing.assert_array_equal(open_labels(path)[:], make_labels(grid))
        except (RuntimeError, zlib.error, ValueError):
            seen += 1
    assert seen > len(written) / 10


SPAN = st.tuples(st.integers(0, 13), st.integers(1, 13)).map(sorted).filter(lambda span: span[0] < span[1])


@given(rows=SPAN, cols=SPAN)
def test_a_window_that_shares_a_chunk_is_refused(
    tmp_path_factory: pytest.TempPathFactory, rows: list[int], cols: list[int]
) -> None:
    path = tmp_path_factory.getbasetemp() / "aligned.zarr"
    height, width, chunk = 10, 13, 4
    rows = [min(row, height) for row in rows]
    if rows[0] == rows[1]:
        return
    if not path.exists():
        create_store(path, GeoBox((height, width), NORTH_UP, "EPSG:32620"), CLASSES, ZarrLayout(chunk), title="a scene")
    window = Window(rows[0], cols[0], rows[1] - rows[0], cols[1] - cols[0])
    written = np.zeros((height, width), bool)
    written[window.to_slices()] = True
    blocks = [written[r : r + chunk, c : c + chunk] for r in range(0, 10, 4) for c in range(0, 13, 4)]
    labels = np.ones(window.shape, np.uint8)
    if all(block.all() or not block.any() for block in blocks):
        write_labels(path, window, labels)
    else:
        with pytest.raises(ValueError, match="two writers of one chunk race and lose pixels"):
            write_labels(path, window, labels)


@pytest.mark.parametrize(
    ("window", "labels", "message"),
    [
        (Window(0, 0, 32, 32), np.zeros((32, 31), np.uint8), "shape"),
        (Window(0, 0, 32, 32), np.zeros((32, 32), np.int64), "uint8"),
        (Window(-32, 0, 32, 32), np.zeros((32, 32), np.uint8), "whole Zarr chunks"),
        (Window(64, 0, 32, 32), np.zeros((32, 32), np.uint8), "whole Zarr chunks"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, window: Window, labels: np.ndarray, message: str) -> None:
    create_store(tmp_path / "s.zarr", GRIDS["projected"], CLASSES, ZarrLayout(32), title="a scene")
    with pytest.raises(ValueError, match=message):
        write_labels(tmp_path / "s.zarr", window, labels)


def test_numbers_of_another_type_than_the_layers_are_refused(tmp_path: Path) -> None:
    create_store(tmp_path / "s.zarr", GRIDS["projected"], CLASSES, ZarrLayout(32), title="a", layers=["observations"])
    assert open_store_raster(tmp_path / "s.zarr", "observations")[:].max() == 65535
    with pytest.raises(ValueError, match=r"observations takes uint16 of shape \(32, 32\), got uint8"):
        write_store_raster(tmp_path / "s.zarr", "observations", Window(0, 0, 32, 32), np.zeros((32, 32), np.uint8))


def test_the_seal_is_the_last_word(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    assert not is_sealed(path)
    create_store(path, GRIDS["projected"], CLASSES, ZarrLayout(32), title="a scene")
    assert not is_sealed(path)
    write_labels(path, Window(0, 0, 32, 32), np.ones((32, 32), np.uint8))
    seal(path, {"digest": "abc", "sealed": False})
    assert is_sealed(path)
    group = zarr.open_group(path, mode="r", use_consolidated=True)
    mark = dict(group.attrs["seamline"])
    assert len(mark.pop("content")) == 32
    assert mark == {"digest": "abc", "sealed": True}
    assert group["segmentation"][0, 0] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.zarr"]


def test_a_store_is_not_made_twice_nor_found_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no segmentation store: got .*s\.zarr, expected a Zarr group"):
        open_labels(tmp_path / "s.zarr")
    create_store(tmp_path / "s.zarr", GRIDS["projected"], CLASSES, ZarrLayout(32), title="a scene")
    with pytest.raises(FileExistsError, match="remove it"):
        create_store(tmp_path / "s.zarr", GRIDS["projected"], CLASSES, ZarrLayout(32), title="a scene")
