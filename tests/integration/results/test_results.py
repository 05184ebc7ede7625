"""What people open of a scene's results: the report in a browser, the Dataset in a notebook; and what is refused."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
import zarr
from affine import Affine
from matplotlib.figure import Figure
from PIL import Image

from seamline import flows
from seamline.flows.runs.observer import RunObserver
from seamline.flows.runs.scene_job import open_input
from seamline.flows.runs.segment import segment
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.common.classes import NODATA, LabelClass
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.products.run_record import RunRecord, read_record
from seamline.pipeline.report.report import ModelCard, write_report
from seamline.pipeline.scenes.scene import Scene
from seamline.pipeline.stac.assets import compute_file_info
from tests.support.small_rasters import make_noise, write_geotiff

LAYERS = ("probabilities", "confidence", "disagreement")
HOSTILE = '<script src="https://evil.example/x.js">alert(1)</script>'
README = f"""# A model

{HOSTILE} [text](https://evil.example) ![picture](https://evil.example/p.png) <https://evil.example>

| a | b |
|---|---|
| 1 | {HOSTILE} |
"""


@dataclass(frozen=True)
class Published:
    """Results of a scene, and what was segmented with what."""

    out: Path
    scene: Scene
    model: Model

    @property
    def folder(self) -> Path:
        return self.out / "scene"

    @property
    def record(self) -> RunRecord:
        return read_record(self.folder)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, small_model: Model, cluster: Any) -> Published:
    """A scene with nodata in a corner, several Zarr chunks, all layers."""
    folder = tmp_path_factory.mktemp("results")
    pixels = make_noise(6, 300, 700)
    pixels[:, :90, :120] = 0
    source = write_geotiff(folder / "scene.tif", pixels, nodata=0)
    options = SegmentOptions(
        cluster=cluster(1), window=160, halo=48, overlap=16, chunk_tiles=4, outputs=("cog", "zarr", *LAYERS)
    )
    segment(source, small_model.folder, folder / "out", options, RunObserver())
    return Published(folder / "out", open_input(source, small_model, options), small_model)


class Page(HTMLParser):
    """A page as a browser reads it: its text, its tags, and all that it would load or link to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.words, self.tags, self.loads, self.links = [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "srcset", "data", "poster", "xlink:href")]
        self.links += [value for name, value in attrs if name == "href"]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_report_of_a_run_tells_it_all_and_loads_nothing(published: Published) -> None:
    page = Page(published.folder / "report.html")
    record = published.record
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    (picture,) = page.loads
    assert b64decode(picture.removeprefix("data:image/png;base64,")) == (published.folder / "preview.png").read_bytes()
    assert not re.search(r"url\((?!#)|@import|https?://", (published.folder / "report.html").read_text())
    for row in record.classes:
        assert f"{row.name} {row.share * 100:.1f} %" in page.text and f"{row.pixels:,}" in page.text
    for text in (
        "halo 48",
        "Feathered: neighbouring tiles are blended over 16 pixels",
        record.scene_digest,
        record.model_digest,
        "EPSG:32620",
        "700 × 300",
        "Acquired unknown",
        "random",
        "Apache-2.0",
        f"{record.peak_memory_bytes / 2**20:,.0f} MiB at most",
        record.source,
        record.versions["zarr"],
        *record.seconds,
    ):
        assert text in page.text, text
    assert "Bad blocks none" in page.text and all(warning in page.text for warning in record.warnings)
    assert {"segmentation.tif", "probabilities.tif", "item.json", "run.json"} <= set(page.links)
    assert all((published.folder / link).exists() for link in page.links)


def test_names_warnings_and_cards_from_files_stay_text(published: Published, tmp_path: Path) -> None:
    shutil.copy(published.folder / "preview.png", tmp_path)
    (tmp_path / '"><script>.tif').touch()
    scene = replace(published.scene, source=HOSTILE, bands=(replace(published.scene.bands[0], name=HOSTILE),))
    classes = [LabelClass(k, f"{k}{HOSTILE}", (k, 0, 0), f'"{HOSTILE}') for k in range(4)]
    warnings = [f"warning {k} {HOSTILE}" for k in range(70)]
    update = {"warnings": warnings, "bad_blocks": [HOSTILE], "versions": {HOSTILE: HOSTILE}}
    record = published.record.model_copy(update=update)
    card = ModelCard(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, (HOSTILE,), None, README)
    write_report(tmp_path, scene, classes, card, record)
    page = Page(tmp_path / "report.html")
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert len(page.loads) == 1 and page.loads[0].startswith("data:")
    assert not [link for link in page.links if ":" in link or "//" in link]
    assert "warning 49" in page.text and "warning 50" not in page.text and "and 21 more" in page.text
    assert all(label.name in page.text for label in classes)
    assert page.text.count(HOSTILE) > 60
    assert "text" in page.text and "picture" in page.text and page.tags.count("table") == 4


@pytest.mark.parametrize(
    ("exact_halo", "halo", "overlap", "said"),
    [
        (96, 96, 0, "Exact: the halo of 96"),
        (96, 64, 0, "Neither exact nor feathered: the network sees 96"),
        (None, 64, 32, "Feathered: neighbouring tiles are blended over 32 pixels. The network sees without a bound"),
        (94, 96, 16, "Feathered: neighbouring tiles are blended over 16 pixels in addition"),
    ],
)
def test_the_report_says_what_the_plan_means(
    published: Published, tmp_path: Path, exact_halo: int | None, halo: int, overlap: int, said: str
) -> None:
    plan = published.record.plan.model_copy(update={"window": 512, "halo": halo, "overlap": overlap})
    classes, record = published.model.classes, published.record.model_copy(update={"plan": plan})
    write_report(tmp_path, published.scene, classes, replace(published.model.card, exact_halo=exact_halo), record)
    assert said in Page(tmp_path / "report.html").text


def opened(out: Path, *without: str) -> xr.Dataset:
    for name in without:
        shutil.rmtree(out / "scene" / name)
    return flows.open_result(out, "scene")


@pytest.mark.parametrize("raster", ["zarr", "cog"])
def test_the_dataset_has_the_pixels_of_the_files(published: Published, tmp_path: Path, raster: str) -> None:
    out = tmp_path / "out"
    shutil.copytree(published.out, out)
    dataset = opened(out, *(("segmentation.zarr",) if raster == "cog" else ()))
    with rasterio.open(published.folder / "segmentation.tif") as file:
        np.testing.assert_array_equal(dataset["segmentation"], file.read(1))
        assert dataset.rio.crs == file.crs
        assert dataset.rio.transform() == dataset["segmentation"].rio.transform() == file.transform
        assert dataset["segmentation"].rio.nodata == NODATA
        rows, cols = np.array([0, 299]), np.array([0, 699])
        east, north = rasterio.transform.xy(file.transform, rows, cols)
        np.testing.assert_allclose(dataset["x"][cols], east)
        np.testing.assert_allclose(dataset["y"][rows], north)
    for name in LAYERS:
        with rasterio.open(published.folder / f"{name}.tif") as file:
            values = np.squeeze(file.read(masked=True).filled(0) * file.scales[0])
            missing = np.squeeze(file.read_masks() == 0)
        found = dataset[name]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(np.isnan(found), missing)
        np.testing.assert_allclose(found.fillna(0), values, atol=1e-6)
    assert dataset["probabilities"].dims == ("class", "y", "x")
    # The labels are those of the most probable class: the names belong to the bands.
    best = dataset["probabilities"].fillna(-1).argmax("class")
    sure = dataset["confidence"] > 0.01
    assert (dataset["segmentation"].where(sure) == best.where(sure)).sum() == sure.sum()


def test_zarr_and_cog_yield_the_same_dataset(published: Published, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(published.out, out)
    first = opened(out)
    xr.testing.assert_identical(first.compute(), opened(out, "segmentation.zarr").compute())


def test_nothing_is_read_before_it_is_needed(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []  # pixels; dask asks once for none to learn of what kind they are
    real = zarr.Array.__getitem__

    def watched(self: Any, key: Any) -> Any:
        pixels = real(self, key)
        read.append(pixels.size)
        return pixels

    monkeypatch.setattr(zarr.Array, "__getitem__", watched)
    dataset = flows.open_result(published.out, "scene")
    text, html = repr(dataset.seamline), dataset.seamline._repr_html_()
    assert sum(read) == 0
    store = zarr.open_array(published.folder / "segmentation.zarr" / "segmentation", mode="r")
    assert dataset["segmentation"].data.chunksize == store.chunks
    assert dataset["segmentation"].data.npartitions > 1
    dataset["segmentation"][-20:-10, -20:-10].compute()
    assert sum(read) <= store.chunks[0] * store.chunks[1]
    assert text and html


def test_the_accessor_tells_of_the_classes(published: Published) -> None:
    dataset, record = flows.open_result(published.out, "scene"), published.record
    shown = dataset.seamline
    assert shown.classes == {0: "c0", 1: "c1", 2: "c2", 3: "c3"}
    assert shown.colors["c2"] == "#0204fd"
    table = shown.table()
    assert list(table["share"]) == [row.share for row in record.classes]
    assert list(table["area_m2"]) == [row.area_m2 for row in record.classes]
    assert dict(shown.count()) == {row.name: row.pixels for row in record.classes}
    part = dataset.isel(x=slice(200, 230), y=slice(100, 140))
    assert part.seamline.count().sum() == 30 * 40
    assert float(dataset["class_share"].sel({"class": "c1"})) == record.classes[1].share
    picture = shown.picture(1000)
    assert (picture[..., 3] == 0).sum() == 90 * 120
    assert set(map(tuple, picture[200:].reshape(-1, 4))) <= {(k, 2 * k, 255 - k, 255) for k in range(4)}
    axes = shown.plot(Figure().add_subplot())
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["c0", "c1", "c2", "c3"]
    assert axes.get_images()[0].get_extent() == [500_000, 521_000, 5_991_000, 6_000_000]


def test_a_notebook_shows_swatches_shares_areas_and_a_picture(published: Published) -> None:
    dataset = flows.open_result(published.out, "scene")
    html = dataset.seamline._repr_html_()
    for row, label in zip(published.record.classes, published.model.classes, strict=True):
        assert row.name in html and "#{:02x}{:02x}{:02x}".format(*label.color) in html
        assert f"{row.share * 100:.1f} %" in html
    assert "xarray.Dataset" in html and "km²" in html
    whole, part = (
        Image.open(io.BytesIO(b64decode(re.search(r"data:image/png;base64,([^\"]+)", shown)[1])))
        for shown in (html, dataset.isel(x=slice(0, 200)).seamline._repr_html_())
    )
    assert whole.width > 700 and part.size == (200, 300)
    hostile = dataset.assign_coords({"class": [HOSTILE] * 4})
    assert "<script" not in hostile.seamline._repr_html_()


def test_the_dataset_can_be_written_and_read_again(published: Published, tmp_path: Path) -> None:
    dataset = flows.open_result(published.out, "scene")
    dataset.to_zarr(tmp_path / "scene.zarr", consolidated=False)
    with xr.open_zarr(tmp_path / "scene.zarr", decode_coords="all", consolidated=False) as again:
        np.testing.assert_array_equal(again["segmentation"], dataset["segmentation"])
        assert again.rio.crs == dataset.rio.crs
        assert again.seamline.classes == dataset.seamline.classes


def test_a_rotated_grid_has_a_transform_and_no_axes(
    small_model: Model, cluster: Callable[[int], str], tmp_path: Path
) -> None:
    turned = Affine.translation(500_000, 6_000_000) @ Affine.rotation(30) @ Affine.scale(30, -30)
    source = write_geotiff(tmp_path / "turned.tif", make_noise(6, 60, 80), transform=turned)
    options = SegmentOptions(cluster=cluster(1), window=160, halo=48)
    segment(source, small_model.folder, tmp_path / "out", options, RunObserver())
    for _ in range(2):  # from the store, and without it
        dataset = flows.open_result(tmp_path / "out", "turned")
        assert not {"x", "y"} & set(dataset.coords)
        assert dataset.rio.transform().almost_equals(turned) and dataset.rio.crs.to_epsg() == 32620
        shutil.rmtree(tmp_path / "out" / "turned" / "segmentation.zarr", ignore_errors=True)


def edited(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        document = json.loads((folder / name).read_text())
        change(document)
        (folder / name).write_text(json.dumps(document))

    return edit


def unseal(folder: Path) -> None:
    zarr.open_group(folder / "segmentation.zarr", mode="r+", use_consolidated=False).update_attributes({"seamline": {}})


def only_zarr(change: Callable[[Path], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / "segmentation.tif").unlink()
        change(folder)

    return edit


def only_cog(change: Callable[[Path], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        shutil.rmtree(folder / "segmentation.zarr")
        change(folder)

    return edit


def tagged(**tags: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        with rasterio.open(folder / "segmentation.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
            file.update_tags(**tags)

    return edit


def named(document: dict[str, Any]) -> None:
    document["classes"][1]["name"] = "lava"


def sealed_by(folder: Path, **seal: str) -> None:
    group = zarr.open_group(folder / "segmentation.zarr", mode="r+", use_consolidated=False)
    group.update_attributes({"seamline": {**group.attrs["seamline"], **seal}})


def test_a_flipped_byte_of_the_store_is_no_label(published: Published, tmp_path: Path) -> None:
    shutil.copytree(published.out, tmp_path / "out")
    chunks = tmp_path / "out" / "scene" / "segmentation.zarr" / "segmentation" / "c"
    chunk = max(filter(Path.is_file, chunks.rglob("*")), key=lambda path: path.stat().st_size)
    written = bytearray(chunk.read_bytes())
    written[-9] ^= 1
    chunk.write_bytes(written)
    with pytest.raises(RuntimeError, match="Zstd"):
        flows.open_result(tmp_path / "out", "scene").segmentation.values  # noqa: B018


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "unsealed, no COG": (only_zarr(unseal), "not sealed"),
    "no labels": (only_cog(lambda folder: (folder / "segmentation.tif").unlink()), "no labels"),
    "no record": (lambda folder: (folder / "run.json").unlink(), r"no run\.json"),
    "an empty record": (lambda folder: (folder / "run.json").write_text(""), r"a damaged run\.json"),
    "a record of nothing": (lambda folder: (folder / "run.json").write_text("[]"), r"a damaged run\.json"),
    "an item of nothing": (lambda folder: (folder / "item.json").write_text("{}"), r"a damaged item\.json \(id: Field"),
    "another scene's item": (edited("item.json", lambda item: item.update(id="other")), "another scene: 'other'"),
    "another scene's record": (edited("run.json", lambda run: run.update(scene="other")), "another scene: 'other'"),
    "another model's store": (lambda folder: sealed_by(folder, model_digest="0"), "zarr of another scene or model"),
    "another scene's COG": (only_cog(tagged(scene_digest="0")), "tif of another scene or model"),
    "other classes in the record": (edited("run.json", named), "other classes"),
    "other classes in the COG": (only_cog(tagged(CLASS_1="lava")), r"other classes in segmentation\.tif"),
    "other classes in the store": (
        lambda folder: zarr.open_array(folder / "segmentation.zarr" / "segmentation", mode="r+").update_attributes(
            {"flag_meanings": "a b"}
        ),
        r"other classes in segmentation\.zarr",
    ),
    "half a COG": (
        only_cog(lambda folder: (folder / "segmentation.tif").write_bytes(b"II*\0 and no more")),
        r"a damaged segmentation\.tif",
    ),
    "half a store": (
        lambda folder: (folder / "segmentation.zarr" / "segmentation" / "zarr.json").write_text('{"zarr_f'),
        r"a damaged segmentation\.zarr",
    ),
    "no grid": (
        lambda folder: shutil.rmtree(folder / "segmentation.zarr" / "spatial_ref"),
        r"a damaged segmentation\.zarr",
    ),
    "another size": (
        edited("item.json", lambda item: item["properties"].update({"proj:shape": [1, 2]})),
        r"\(300, 700\) labels, \(1, 2\) in item\.json",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_results_are_refused_in_one_line_and_left_alone(case: str, published: Published, tmp_path: Path) -> None:
    damage, said = BAD[case]
    shutil.copytree(published.out, tmp_path / "out")
    damage(tmp_path / "out" / "scene")

    def contents() -> dict[Path, object]:
        return {path: compute_file_info(path) for path in (tmp_path / "out").rglob("*")}

    before = contents()
    with pytest.raises(InputError, match=said) as refused:
        flows.open_result(tmp_path / "out", "scene")
    assert "\n" not in str(refused.value)
    assert contents() == before


@pytest.mark.parametrize("name", ["../x", "/etc", "", ".", "..", "scene/../scene", "scen", "a\0b", ".run"])
def test_names_that_lead_elsewhere_are_refused(name: str, published: Published) -> None:
    with pytest.raises(InputError, match=r"scene in .*: got .*expected one of scene;") as refused:
        flows.open_result(published.out, name)
    assert "\n" not in str(refused.value)


def test_a_link_out_of_the_results_is_refused(published: Published, tmp_path: Path) -> None:
    (tmp_path / "scene").symlink_to(published.folder)
    with pytest.raises(InputError, match="scene in "):
        flows.open_result(tmp_path, "scene")
    with pytest.raises(InputError, match="there is none"):
        flows.open_result(tmp_path / "nowhere", "scene")


def test_importing_flows_stays_light() -> None:
    code = "import sys, flows; sys.exit(bool({'xarray', 'dask', 'torch', 'prefect'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
