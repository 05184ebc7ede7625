"""Scenes in folders, archives and containers, beside files that belong to others."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
import xarray as xr

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.raster_io.content import hash_content
from seamline.pipeline.scenes.band_matching import BandNeed
from seamline.pipeline.scenes.open_scene import SceneOptions, make_scene_id, open_scene
from seamline.pipeline.scenes.scene import Scene, read_block
from seamline.pipeline.scenes.source_files import list_rasters, name_source, normalize_address
from tests.support.small_rasters import BAND_NAMES, UTM, make_noise, write_geotiff
from tests.support.virtual_rasters import make_band, make_source, make_vrt

SAFE = "S2B_MSIL2A_20230408T095549_N0509_R122_T33TWN_20230408T121212.SAFE"
GRANULE = "GRANULE/L2A_T33TWN_A031_20230408T095549"
NUMBERS = make_noise(6, 40, 50, low=500, high=4000)
SENTINEL2 = dict(zip(BAND_NAMES, ("B02", "B03", "B04", "B08", "B11", "B12"), strict=True))


def opened(source: object, **options: object) -> Scene:
    needs = [BandNeed(name, ()) for name in BAND_NAMES]
    return open_scene(str(source), needs, SceneOptions(**{"scale": 1e-4, **options}))


def numbers_of(scene: Scene) -> np.ndarray:
    return read_block(scene, Window(0, 0, *scene.grid.shape)).pixels


@pytest.fixture
def bands(tmp_path: Path) -> Path:
    """A folder with a file for each band."""
    for name, band in zip(BAND_NAMES, NUMBERS, strict=True):
        write_geotiff(tmp_path / "bands" / f"{name}.tif", band[None], transform=UTM)
    return tmp_path / "bands"


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """A .SAFE folder of Sentinel-2 with bands, masks and a preview."""
    folder = tmp_path / "in" / SAFE
    for name, band in zip(BAND_NAMES, NUMBERS, strict=True):
        number, edge = SENTINEL2[name], "10m" if SENTINEL2[name] < "B09" else "20m"
        path = folder / GRANULE / "IMG_DATA" / f"R{edge}" / f"T33TWN_20230408T095549_{number}_{edge}.jp2"
        write_jp2(path, band)
        write_jp2(folder / GRANULE / "QI_DATA" / f"MSK_DETFOO_{number}.jp2", band // 1000)
    write_jp2(folder / GRANULE / "QI_DATA" / "T33TWN_20230408T095549_PVI.jp2", NUMBERS[0] // 100)
    return folder


def write_jp2(path: Path, band: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"count": 1, "height": band.shape[0], "width": band.shape[1], "dtype": band.dtype}
    lossless = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
    with rasterio.open(path, "w", **shape, **lossless, transform=UTM, crs="EPSG:32620") as file:
        file.write(band, 1)


def test_what_macos_leaves_beside_bands_is_passed_over(bands: Path, tmp_path: Path) -> None:
    for name in BAND_NAMES:
        (bands / f"._{name}.tif").write_bytes(b"\0\5\26\7")
    np.testing.assert_array_equal(numbers_of(opened(bands)), NUMBERS)
    with zipfile.ZipFile(tmp_path / "bands.zip", "w") as archive:
        for name in BAND_NAMES:
            archive.write(bands / f"{name}.tif", f"bands/{name}.tif")
            archive.writestr(f"__MACOSX/bands/._{name}.tif", b"\0\5\26\7")
    np.testing.assert_array_equal(numbers_of(opened(tmp_path / "bands.zip")), NUMBERS)


@pytest.mark.parametrize("name", ["bands.tar", "bands.tar.gz", "bands.tgz"])
def test_an_archive_of_tar_is_a_folder(bands: Path, tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / name, "w" if name.endswith(".tar") else "w:gz") as archive:
        for band in BAND_NAMES:
            archive.add(bands / f"{band}.tif", f"{band}.tif")
    scene = opened(tmp_path / name)
    assert scene.id == "bands"
    np.testing.assert_array_equal(numbers_of(scene), NUMBERS)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:100])
    with pytest.raises(InputError, match=r"cannot open .* expected a TAR file|no rasters in"):
        opened(tmp_path / name)


@pytest.mark.parametrize("name", ["a" * 101, "Überflug"])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_in_an_archive_are_read_or_refused_with_a_way_out(
    bands: Path, tmp_path: Path, name: str, form: int
) -> None:
    with tarfile.open(tmp_path / "x.tar", "w", format=form) as archive:
        for band in BAND_NAMES:
            archive.add(bands / f"{band}.tif", f"{name}/{band}.tif")
    if form == tarfile.PAX_FORMAT:
        with pytest.raises(InputError, match=r"GDAL cannot read 6 files .*PAX format.*unpack it"):
            opened(tmp_path / "x.tar")
    else:
        np.testing.assert_array_equal(numbers_of(opened(tmp_path / "x.tar")), NUMBERS)


@pytest.mark.parametrize("below", ["", "GRANULE", GRANULE, f"{GRANULE}/IMG_DATA", ".."])
def test_a_product_of_sentinel2_is_found_from_each_of_its_folders(product: Path, below: str) -> None:
    scene = opened(product.parent if below == ".." else product / below, scale=None)
    np.testing.assert_array_equal(numbers_of(scene), NUMBERS)
    assert all((band.scale, band.offset) == (1e-4, -0.1) for band in scene.bands)
    assert scene.id == (SAFE if below != ".." else "in")


def test_a_zipped_product_of_sentinel2_has_no_masks_among_its_bands(product: Path, tmp_path: Path) -> None:
    path = tmp_path / "download.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(file for file in product.rglob("*") if file.is_file()):
            archive.write(file, file.relative_to(product.parent))
    scene = opened(path, scale=None)
    np.testing.assert_array_equal(numbers_of(scene), NUMBERS)
    assert all((band.scale, band.offset) == (1e-4, -0.1) for band in scene.bands)


def test_two_products_in_one_folder_are_refused(product: Path) -> None:
    product.with_name("S2A_other.SAFE").mkdir()
    (product / "GRANULE").rename(product / "G")
    for name in (product.name, "S2A_other.SAFE"):
        band = product.with_name(name) / "GRANULE" / "L2A" / "IMG_DATA" / "R10m" / "T33TWN_B02_10m.jp2"
        write_jp2(band, NUMBERS[0])
    with pytest.raises(InputError, match=r"holds 2 products: got S2A_other.SAFE, S2B_.*; name one of them"):
        list_rasters(str(product.parent))


def write_container(path: Path, write: Callable[[xr.Dataset], object]) -> None:
    x, y = UTM.c + 30 * (np.arange(50) + 0.5), UTM.f - 30 * (np.arange(40) + 0.5)
    axes = {name: {"standard_name": f"projection_{name}_coordinate", "units": "m"} for name in "xy"}
    attributes = {"grid_mapping": "spatial_ref", "scale_factor": 1e-4}
    variables = {
        name: (("y", "x"), band.astype("int16"), attributes) for name, band in zip(BAND_NAMES, NUMBERS, strict=True)
    }
    dataset = xr.Dataset(variables, coords={"x": ("x", x, axes["x"]), "y": ("y", y, axes["y"])})
    dataset["spatial_ref"] = xr.DataArray(0, attrs=pyproj.CRS.from_epsg(32620).to_cf())
    path.parent.mkdir(parents=True, exist_ok=True)
    write(dataset)


def test_the_variables_of_a_netcdf_file_are_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "in" / "scene.nc"
    write_container(path, lambda dataset: dataset.to_netcdf(path))
    scene = opened(path)
    assert scene.id == "scene"
    np.testing.assert_array_equal(numbers_of(scene), NUMBERS)
    monkeypatch.chdir(tmp_path)
    one = opened("NETCDF:in/scene.nc:nir", bands=("1",) * 6)
    assert one.id == "scene-nir" and all(str(path) in band.path for band in one.bands)
    np.testing.assert_array_equal(numbers_of(one)[0], NUMBERS[3])
    assert normalize_address(f'NETCDF:"{path}":nir') == f'NETCDF:"{path}":nir'
    assert normalize_address("C:no.tif") == str(tmp_path / "C:no.tif")


def test_texts_in_a_netcdf_file_are_no_bands(tmp_path: Path) -> None:
    path = tmp_path / "cube.nc"

    def write(dataset: xr.Dataset) -> None:
        cube = dataset[list(BAND_NAMES)].to_dataarray("band", "numbers")
        cube.attrs = dict(dataset["blue"].attrs)
        placed = cube.astype("int16").to_dataset().assign(spatial_ref=dataset["spatial_ref"])
        placed.to_netcdf(path, engine="scipy")

    write_container(path, write)
    assert [name.rpartition(":")[2] for name in list_rasters(str(path))] == ["numbers"]
    np.testing.assert_array_equal(numbers_of(opened(path, bands=tuple("123456"))), NUMBERS)


def test_texts_are_told_from_bytes(tmp_path: Path) -> None:
    names = np.array([["blue", "red"], ["x", "y"]], dtype="S4")
    plain = xr.Dataset({name: (("y", "x"), np.ones((20, 20), "int16")) for name in ("blue", "red")})
    plain.assign(texts=(("a", "b"), names)).to_netcdf(tmp_path / "no place.nc", engine="scipy")
    found = list_rasters(str(tmp_path / "no place.nc"))
    assert [name.rpartition(":")[2] for name in found] == ["blue", "red"]
    write_geotiff(tmp_path / "bytes.tif", np.ones((2, 20, 20), "int8"))
    rasterio.shutil.copy(tmp_path / "bytes.tif", tmp_path / "bytes.nc", driver="netCDF", FORMAT="NC4")
    (tmp_path / "bytes.nc").rename(tmp_path / "bytes.h5")  # so that GDAL's driver of HDF5 opens it
    found = list_rasters(str(tmp_path / "bytes.h5"))
    assert [(name[:5], name.rpartition("/")[2]) for name in found] == [("HDF5:", "Band1"), ("HDF5:", "Band2")]


def test_the_arrays_of_a_zarr_folder_are_bands_and_its_chunks_its_content(tmp_path: Path) -> None:
    path = tmp_path / "scene.zarr"
    write_container(path, lambda dataset: dataset.to_zarr(path, zarr_format=2))
    scene = opened(path)
    assert (scene.id, name_source(str(path))) == ("scene", "scene")
    np.testing.assert_array_equal(numbers_of(scene), NUMBERS)
    before = hash_content(scene.bands[0].path, [1])
    chunk = path / "blue" / "0.0"
    chunk.write_bytes((path / "red" / "0.0").read_bytes())
    assert hash_content(scene.bands[0].path, [1]) != before


def test_a_zarr_folder_that_gdal_does_not_read_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "scene.zarr"
    write_container(path, lambda dataset: dataset.to_zarr(path, zarr_format=2))
    for metadata in (path / ".zmetadata", *path.glob("*/.zarray")):
        metadata.write_text(metadata.read_text().replace('"zstd"', '"unheard-of"').replace('"blosc"', '"unheard-of"'))
    with pytest.raises(InputError, match=r"cannot open .*unheard-of"):
        opened(path)


def test_subdatasets_are_named_after_their_files(tmp_path: Path) -> None:
    names = []
    for path in (
        tmp_path / "a.nc",
        tmp_path / "b.nc",
        tmp_path / "S2A_X.SAFE" / "MTD.xml",
        tmp_path / "S2B_X.SAFE" / "MTD.xml",
    ):
        path.parent.mkdir(exist_ok=True)
        path.touch()
        names += [name_source(f'NETCDF:"{path}":{variable}') for variable in ("blue", "/one/blue", "/two/blue")]
        names += [name_source(f"GTIFF_DIR:{page}:{path}") for page in (1, 2)]
    assert len(set(names)) == len(names) and names[0] == "a-blue"
    assert len({make_scene_id(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    "address", ["https://[::1", "https://[::1/x.tif", "s3://[x/y.tif", "file://[x/y.tif", "x\0.tif", "s3://b/x\0.tif"]
)
def test_what_looks_like_an_address_and_is_none_is_said_in_a_line(address: str) -> None:
    with pytest.raises(InputError, match=r"no address: got .*expected a URL or a path"):
        opened(address)


@pytest.mark.parametrize(
    "name",
    [
        "{}/pipe",
        'NETCDF:"{}/pipe":x',
        'HDF5:"{}/pipe"://x',
        "GTIFF_DIR:1:{}/pipe",
        "/vsisubfile/0_100,{}/pipe",
        "/vsizip/{}/pipe/x.tif",
        "/vsizip/{{{}/pipe}}/x.tif",
        "/vsigzip/{}/pipe",
        "/vsicached?file={}/pipe&chunk_size=1MB",
        "zip://{}/pipe!x.tif",
        "vrt://{}/pipe?bands=1",
    ],
)
def test_no_name_of_gdal_lets_it_wait_for_a_pipe(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"pipe: got a pipe, socket or device"):
        opened(name.format(tmp_path))


def test_a_vrt_does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    bands = [make_band(i, name, make_source("pipe", i), "Byte") for i, name in enumerate(BAND_NAMES[2::-1], 1)]
    (tmp_path / "x.vrt").write_text(make_vrt([*bands, make_band(4, "nir", make_source("pipe", 4), "Byte")]))
    with pytest.raises(InputError, match=r"pipe: got a pipe, socket or device"):
        opened(tmp_path / "x.vrt")
