"""``predict`` gives an array the labels that ``segment`` gives the files, whatever the chunks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import dask
import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 - the accessor
import xarray as xr

import seamline
from seamline import InputError, SegmentOptions
from seamline.flows.api import arrays
from seamline.flows.runs.observer import RunObserver
from seamline.flows.runs.segment import segment
from seamline.flows.settings.model_folder import Model, RuntimeLoader
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.scenes.scene import read_block
from tests.support.run_folders import FIXED_ENGINE
from tests.support.sample_data import MANAUS, find_shared
from tests.support.small_models import make_random_network, save_model

SCENES = {"Manaus": MANAUS, "Aquileia": "aquileia-s2", "Madagascar": "madagascar-l8-2020"}
OPTIONS = {"engine": "torch", "precision": "fp32", "window": 768}
CHUNKS = ({"y": 300, "x": 200}, {"y": -1, "x": 128}, {"band": 1, "y": 1000, "x": 333})


def read_array(path: Path) -> tuple[xr.DataArray, dict[str, float]]:
    """The bands of a scene as rioxarray users have them, and what the scene's numbers mean."""
    scene = seamline.open_scene(path, "land-water-cloud")
    block = read_block(scene, Window(0, 0, *scene.grid.shape))
    a, _, c, _, e, f = scene.grid.transform[:6]
    height, width = scene.grid.shape
    array = xr.DataArray(
        block.pixels,
        {
            "band": [band.name for band in scene.bands],
            "y": f + e * (np.arange(height) + 0.5),
            "x": c + a * (np.arange(width) + 0.5),
        },
        ("band", "y", "x"),
    ).rio.write_crs(scene.grid.crs.to_wkt())
    band = scene.bands[0]
    meaning = {"scale": band.scale, "offset": band.offset}
    return array, meaning | ({} if band.nodata is None else {"nodata": band.nodata})


@pytest.fixture(scope="module")
def file_labels(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], np.ndarray]:
    """The labels of a run over the files of a scene; computed once."""

    @cache
    def run(name: str) -> np.ndarray:
        out = tmp_path_factory.mktemp(name)
        options = SegmentOptions(outputs=("cog",), **OPTIONS)
        result = segment(find_shared(SCENES[name]), "land-water-cloud", out, options, RunObserver())
        with rasterio.open(result.folder / "segmentation.tif") as file:
            return file.read(1)

    return run


@pytest.mark.parametrize("name", SCENES)
def test_labels_are_those_of_the_files_whatever_the_chunks(name: str, file_labels: Callable[[str], np.ndarray]) -> None:
    array, meaning = read_array(find_shared(SCENES[name]))
    for chunks in (None, *CHUNKS):
        given = array if chunks is None else array.chunk(chunks)
        found = seamline.predict(given, "land-water-cloud", **meaning, options=SegmentOptions(**OPTIONS))
        assert dask.is_dask_collection(found) == (chunks is not None)
        assert found.rio.crs == array.rio.crs and found.rio.transform() == array.rio.transform()
        np.testing.assert_array_equal(found.segmentation.values, file_labels(name))


@pytest.fixture(scope="module")
def feathered_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A network whose reach no halo covers, so that its tiles are blended."""
    folder = tmp_path_factory.mktemp("feathered")
    save_model(folder, make_random_network(norm="group"), ("red", "nir"))
    return seamline.load_model(folder)


def make_image(*shape: int) -> xr.DataArray:
    """Reflectances with a hole, (…, red and nir, y, x)."""
    values = np.random.default_rng(0).random((*shape[:-2], 2, *shape[-2:]), np.float32) / 2
    values[..., 20:30, 40:60] = np.nan
    dims = ("time", "band", "y", "x")[-values.ndim :]
    return xr.DataArray(values, {"band": ["red", "nir"], "spatial_ref": 0}, dims)


def write_image(array: xr.DataArray, path: Path) -> Path:
    profile = {"driver": "GTiff", "count": 2, "height": array.sizes["y"], "width": array.sizes["x"], "dtype": "float32"}
    with rasterio.open(
        path, "w", **profile, crs="EPSG:32633", transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)
    ) as file:
        file.write(array.values)
        file.descriptions = ("red", "nir")
    return path


@pytest.mark.parametrize("chunks", [None, {"y": 50, "x": 70}])
@pytest.mark.parametrize("window", [64, 96])
def test_blended_tiles_are_those_of_a_run(
    feathered_model: Model, tmp_path: Path, chunks: dict[str, int] | None, window: int
) -> None:
    array = make_image(150, 130)
    options = {**FIXED_ENGINE, "window": window, "halo": 8, "overlap": 16}
    outputs = ("cog", "probabilities")
    run = seamline.segment(
        write_image(array, tmp_path / "image.tif"),
        feathered_model,
        tmp_path / "out",
        SegmentOptions(**options, chunk_tiles=2, outputs=outputs),
    )
    given = array if chunks is None else array.chunk(chunks)
    found = seamline.predict(given, feathered_model, probabilities=True, options=SegmentOptions(**options))
    with rasterio.open(run.folder / "segmentation.tif") as file:
        np.testing.assert_array_equal(found.segmentation.values, file.read(1))
    with rasterio.open(run.folder / "probabilities.tif") as file:
        published, has_label = file.read() * 0.004, file.read() != 255
    probabilities = found.probabilities.values
    assert np.abs(probabilities - published)[has_label].max() <= 0.00201
    np.testing.assert_array_equal(np.isnan(probabilities), ~has_label)


def test_a_part_that_is_computed_has_the_labels_of_the_whole(feathered_model: Model) -> None:
    options = SegmentOptions(**FIXED_ENGINE, window=64, halo=8, overlap=16)
    whole = seamline.predict(make_image(200, 190), feathered_model, options=options)
    lazy = seamline.predict(make_image(200, 190).chunk({"x": 64}), feathered_model, options=options)
    np.testing.assert_array_equal(lazy.segmentation[55:70, 100:180].values, whole.segmentation[55:70, 100:180].values)


def test_steps_of_time_are_segmented_on_their_own(feathered_model: Model) -> None:
    options = SegmentOptions(**FIXED_ENGINE, window=64, halo=8, overlap=0)
    series = make_image(3, 70, 80).assign_coords(time=[1, 2, 3])
    found = seamline.predict(series.transpose("y", "x", "band", "time"), feathered_model, options=options)
    assert found.segmentation.dims == ("time", "y", "x") and list(found.time) == [1, 2, 3]
    for step in range(3):
        alone = seamline.predict(series[step], feathered_model, options=options)
        np.testing.assert_array_equal(found.segmentation[step].values, alone.segmentation.values)


def test_bands_are_found_by_name_wherever_it_stands(feathered_model: Model) -> None:
    options = SegmentOptions(**FIXED_ENGINE, window=64, halo=8, overlap=0)
    array = make_image(70, 80)
    expected = seamline.predict(array, feathered_model, options=options).segmentation.values
    turned = array[::-1]
    ways = {
        "coordinate": turned,
        "common_name, as stackstac gives it": turned.assign_coords(
            band=["B08", "B04"], common_name=("band", ["nir", "red"])
        ),
        "long_name, as rioxarray gives it": turned.assign_coords(band=[1, 2]).assign_attrs(long_name=("nir", "red")),
        "a Dataset": xr.Dataset({"nir": array[1].drop_vars("band"), "red": array[0].drop_vars("band")}),
    }
    for way, given in ways.items():
        found = seamline.predict(given, feathered_model, options=options).segmentation.values
        np.testing.assert_array_equal(found, expected, way)
    named = seamline.predict(turned, feathered_model, bands=[2, 1], options=options).segmentation.values
    np.testing.assert_array_equal(named, expected)
    numbered = turned.assign_coords(band=[8, 4])  # as a selection of a file's bands has them
    found = seamline.predict(numbered, feathered_model, bands=[4, 8], options=options).segmentation.values
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(InputError, match=r"no band 2: got the bands 8, 4 in the array's coordinate band"):
        seamline.predict(numbered, feathered_model, bands=[2, 1], options=options)


def test_scales_of_attributes_and_of_the_user_are_applied(feathered_model: Model) -> None:
    options = SegmentOptions(**FIXED_ENGINE, window=64, halo=8, overlap=0)
    numbers = (make_image(70, 80).fillna(0) * 10000).round().astype(np.uint16)
    expected = seamline.predict(numbers / 10000 - 0.1, feathered_model, options=options).segmentation.values
    with_attributes = numbers.assign_attrs(scale_factor=1e-4, add_offset=-0.1)
    for found in (
        seamline.predict(with_attributes, feathered_model, options=options),
        seamline.predict(numbers, feathered_model, scale=1e-4, offset=-0.1, options=options),
    ):
        assert (found.segmentation.values == expected).mean() > 0.999  # 1/10000 is rounded in another place


def test_numbers_without_a_meaning_are_refused(feathered_model: Model) -> None:
    array = make_image(70, 80)
    with pytest.raises(InputError, match=r"uint16 without the attribute scale_factor.*scale=0.0001"):
        seamline.predict(array.fillna(0).astype(np.uint16), feathered_model)
    lazy = seamline.predict((array * 10000).chunk({"x": 40}), feathered_model)
    with pytest.raises(InputError, match=r"cannot be reflectances.*a median of 2\d\d\d.*scale=0.0001"):
        lazy.compute(scheduler="synchronous")


def test_a_scale_without_the_offset_that_belongs_to_it_is_refused(feathered_model: Model) -> None:
    """With scale alone the attribute's offset would be dropped, and nearly all labels wrong."""
    options = SegmentOptions(**FIXED_ENGINE, window=64, halo=8, overlap=0)
    numbers = (make_image(70, 80).fillna(0) * 10000).round().astype(np.uint16)
    numbers = numbers.assign_attrs(scale_factor=1e-4, add_offset=-0.1)
    with pytest.raises(InputError, match=r"scale=0.0001 beside the attribute add_offset, -0.1.*offset=-0.1"):
        seamline.predict(numbers, feathered_model, scale=1e-4, options=options)
    expected = seamline.predict(numbers, feathered_model, options=options)
    same = seamline.predict(numbers, feathered_model, scale=1e-4, offset=-0.1, options=options)
    xr.testing.assert_equal(same, expected)
    shifted = seamline.predict(numbers, feathered_model, offset=-0.1, options=options)  # the scale is the attribute's
    xr.testing.assert_equal(shifted, expected)


def test_values_that_no_surface_has_are_warned_of_where_the_user_gave_the_scale(feathered_model: Model) -> None:
    options = SegmentOptions(**FIXED_ENGINE, window=64, halo=8, overlap=0)
    numbers = (make_image(70, 80).fillna(0) * 10000).round().astype(np.uint16)
    with pytest.warns(UserWarning, match=r"cannot be reflectances: got a median of 2\d\d\d.*number × 1 \+ 0"):
        seamline.predict(numbers, feathered_model, scale=1, options=options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seamline.predict(numbers, feathered_model, scale=1e-4, options=options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": 0}, r"scale: got 0, expected one number.*other than 0"),
        ({"scale": float("nan")}, r"scale: got nan"),
        ({"scale": "0.0001"}, r"scale: got '0.0001'"),
        ({"scale": [1e-4, 1e-4]}, r"scale: got \[0.0001, 0.0001\]"),
        ({"offset": float("inf")}, r"offset: got inf"),
        ({"nodata": "none"}, r"nodata: got 'none'"),
        ({"bands": "1,2"}, r"bands: got '1,2', expected a list"),
        ({"bands": 1}, r"bands: got 1, expected a list"),
        ({"options": {"window": 96}}, r"options: got a dict, expected a SegmentOptions"),
    ],
)
def test_arguments_of_other_types_are_refused(
    feathered_model: Model, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        seamline.predict(make_image(70, 80), feathered_model, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (make_image(70, 80).astype(complex), r"the numbers of the array: got complex128"),
        (make_image(70, 80).astype(object), r"the numbers of the array: got object"),
        (make_image(70, 80).assign_coords(band=["red", "blue"]), r"do not match the model.*red, nir"),
        (make_image(70, 80).rename(y="row"), r"the dimensions of the array.*rename"),
        (make_image(70, 80)[:, :0], r"0 × 80 pixels"),
    ],
)
def test_arrays_that_cannot_be_segmented_are_refused(feathered_model: Model, array: xr.DataArray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        seamline.predict(array, feathered_model)


def test_options_that_would_be_ignored_are_refused(feathered_model: Model) -> None:
    with pytest.raises(InputError, match=r"the options scale, outputs|the options outputs, scale"):
        seamline.predict(
            make_image(70, 80), feathered_model, options=SegmentOptions(outputs=("cog",), scale=0.5, window=96)
        )
    with pytest.raises(InputError, match=r"a ndarray, expected an xarray"):
        seamline.predict(np.zeros((2, 9, 9)), feathered_model)  # type: ignore[arg-type]


def test_assumptions_are_warnings(tmp_path: Path) -> None:
    save_model(tmp_path, make_random_network(in_channels=6), ("blue", "green", "red", "nir", "swir16", "swir22"))
    array = xr.DataArray(np.full((6, 64, 64), 0.2, np.float32), dims=("band", "y", "x"))
    with pytest.warns(UserWarning, match="does not name its bands"):
        seamline.predict(array, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seamline.predict(array, tmp_path, bands=range(1, 7))


def test_a_band_without_data_is_no_reason_to_refuse_the_others(feathered_model: Model) -> None:
    array = make_image(70, 80)
    array[1] = np.nan
    found = seamline.predict(
        array, feathered_model, options=SegmentOptions(**FIXED_ENGINE, window=64, halo=8, overlap=0)
    )
    assert (found.segmentation != 255).sum() > 70 * 80 - 10 * 20 - 1


def test_threads_that_want_a_network_at_first_load_it_once(
    feathered_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[object] = []
    arrays._load_anew.cache_clear()
    load = RuntimeLoader.__call__
    monkeypatch.setattr(RuntimeLoader, "__call__", lambda self: (loaded.append(self), load(self))[1])
    few = SegmentOptions(**FIXED_ENGINE, window=64, halo=8, overlap=0, chunk_tiles=1)
    lazy = seamline.predict(make_image(300, 280).chunk({"x": 70}), feathered_model, options=few)
    lazy.compute(scheduler="threads", num_workers=6)
    assert len(loaded) == 1
