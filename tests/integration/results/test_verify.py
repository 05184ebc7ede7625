"""``seamline verify``: silent on what a run published, and on every way to damage it not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pystac
import pytest
import rasterio
import zarr

from seamline.flows.cli.main import app
from seamline.flows.runs.observer import RunObserver
from seamline.flows.runs.segment import segment
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.publishing.completeness import list_missing_outputs
from seamline.pipeline.results.verify import verify
from seamline.pipeline.stac.assets import compute_file_info
from seamline.pipeline.stac.catalog import update_catalog
from seamline.pipeline.stac.items import build_item_table, encode_table
from tests.support.small_rasters import make_noise, write_geotiff


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, small_model: Model, cluster: Any) -> Path:
    """Results of one small scene."""
    folder = tmp_path_factory.mktemp("published")
    write_geotiff(folder / "scene.tif", make_noise(6, 300, 600))
    options = SegmentOptions(cluster=cluster(1), outputs=("cog", "zarr", "probabilities", "confidence"))
    segment(folder / "scene.tif", small_model.folder, folder / "out", options, RunObserver())
    return folder / "out"


def cog(scene: Path) -> Path:
    return scene / "segmentation.tif"


def a_label(scene: Path) -> None:
    with rasterio.open(cog(scene), "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        labels = file.read(1)
        labels[5, 5] = (labels[5, 5] + 1) % 3
        file.write(labels, 1)


def half_a_file(scene: Path) -> None:
    cog(scene).write_bytes(cog(scene).read_bytes()[:2000])


def a_label_in_zarr(scene: Path) -> None:
    array = zarr.open_array(scene / "segmentation.zarr" / "segmentation", mode="r+")
    array[7, 7] = (int(array[7, 7]) + 1) % 3


def labels_in_zarr_alone(scene: Path) -> None:
    """Where there is no COG to compare with; the number of pixels of a class tells it."""
    cog(scene).unlink()
    a_label_in_zarr(scene)


def an_overview(scene: Path) -> None:
    array = zarr.open_array(scene / "segmentation.zarr" / "ovr_2x" / "segmentation", mode="r+")
    array[7, 7] = (int(array[7, 7]) + 1) % 3


def a_probability_in_zarr(scene: Path) -> None:
    array = zarr.open_array(scene / "segmentation.zarr" / "probabilities", mode="r+")
    array[1, 7, 7] = (int(array[1, 7, 7]) + 1) % 250


def no_seal(scene: Path) -> None:
    group = zarr.open_group(scene / "segmentation.zarr", mode="r+", use_consolidated=False)
    group.update_attributes({"seamline": {}})


def no_preview(scene: Path) -> None:
    (scene / "preview.png").unlink()


def list_another_scene(scene: Path) -> None:
    table = build_item_table({"x": json.loads((scene / "item.json").read_text())})
    (scene.parent / "items.parquet").write_bytes(encode_table(table))


def half_a_table(scene: Path) -> None:
    table = scene.parent / "items.parquet"
    table.write_bytes(table.read_bytes()[:1000])


def another_layer(scene: Path) -> None:
    """A raster that its item calls a COG."""
    write_geotiff(scene / "disagreement.tif", make_noise(1, 600, 600, high=250, dtype="uint8"))
    described = {
        "href": "./disagreement.tif",
        "type": pystac.MediaType.COG,
        **compute_file_info(scene / "disagreement.tif"),
    }
    edited_item(lambda item: item["assets"].update(disagreement=described))(scene)


def edited_item(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(scene: Path) -> None:
        item = json.loads((scene / "item.json").read_text())
        change(item)
        (scene / "item.json").write_text(json.dumps(item))

    return edit


def other_text(name: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(scene: Path) -> None:
        path = scene / "segmentation.zarr" / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return edit


def flipped(name: str) -> Callable[[Path], None]:
    def flip(scene: Path) -> None:
        path = scene / "segmentation.zarr" / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    return flip


def no_overviews(scene: Path) -> None:
    for level in (scene / "segmentation.zarr").glob("ovr_*"):
        shutil.rmtree(level)


def moved_east(item: dict[str, Any]) -> None:
    item["bbox"] = [item["bbox"][0] + 5, item["bbox"][1], item["bbox"][2] + 5, item["bbox"][3]]
    item["geometry"]["coordinates"] = [[[x + 5, y] for x, y in item["geometry"]["coordinates"][0]]]


def made_a_sliver(item: dict[str, Any]) -> None:
    west, south, _, north = item["bbox"]
    item["bbox"] = [west, south, west + 1e-5, north]
    ring = [[west, south], [west + 1e-5, south], [west + 1e-5, north], [west, north], [west, south]]
    item["geometry"] = {"type": "Polygon", "coordinates": [ring]}


def made_a_bow_tie(item: dict[str, Any]) -> None:
    west, south, east, north = item["bbox"]
    ring = [[west, south], [east, north], [east, south], [west, north], [west, south]]
    item["geometry"] = {"type": "Polygon", "coordinates": [ring]}


def piped(name: str) -> Callable[[Path], None]:
    def damage(scene: Path) -> None:
        (scene / name).unlink()
        os.mkfifo(scene / name)

    return damage


DAMAGE: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "a label": (a_label, "segmentation.tif", "file:checksum"),
    "a label beside zarr": (a_label, "segmentation.zarr", "1 values are others"),
    "counts": (a_label, "segmentation.tif", "pixels of"),
    "half a file": (half_a_file, "segmentation.tif", "file:size"),
    "a label in zarr": (a_label_in_zarr, "segmentation.zarr", "1 values are others"),
    "a probability in zarr": (a_probability_in_zarr, "segmentation.zarr", "1 values are others than in probabilities"),
    "a label in zarr alone": (labels_in_zarr_alone, "segmentation.zarr", "pixels of"),
    "an overview": (an_overview, "segmentation.zarr", "ovr_2x is not the overview"),
    "an item of another scene": (edited_item(lambda item: item.update(id="x")), "item.json", "of another scene, x"),
    "no seal": (no_seal, "segmentation.zarr", "not sealed"),
    "no preview": (no_preview, "preview.png", "not there"),
    "an item without geometry": (edited_item(lambda item: item.pop("geometry")), "item.json", ""),
    "a pipe for a picture": (piped("preview.png"), "preview.png", "neither a file nor a folder"),
    "a pipe for labels": (piped("segmentation.tif"), "segmentation.tif", "neither a file nor a folder"),
    "a pipe for the item": (piped("item.json"), "item.json", "neither a file nor a folder"),
    "a shape beyond all memory": (
        edited_item(lambda item: item["properties"].update({"proj:shape": [10**10, 10**10]})),
        "segmentation.zarr",
        "segmentation: spatial:shape",
    ),
    "a path outside": (
        edited_item(lambda item: item["assets"]["preview"].update(href="../../x.png")),
        "../../x.png",
        "outside",
    ),
    "an item that is not the table's": (
        edited_item(lambda item: item["properties"].update(title="x")),
        "items.parquet",
        "not what item.json says",
    ),
    "a table that has lost a scene": (
        list_another_scene,
        "items.parquet",
        "does not list the scene",
    ),
    "no table": (lambda scene: (scene.parent / "items.parquet").unlink(), "items.parquet", "not there"),
    "half a table": (half_a_table, "items.parquet", ""),
    "a layer that is no COG": (another_layer, "disagreement.tif", "tiled"),
    "an item that is no JSON": (lambda scene: (scene / "item.json").write_text("{") and None, "item.json", ""),
    "a GeoTransform": (
        other_text("spatial_ref/zarr.json", "500000.0", "500030.0"),
        "segmentation.zarr",
        "GeoTransform",
    ),
    "a CRS": (other_text("spatial_ref/zarr.json", "32620", "32621"), "segmentation.zarr", "texts of one CRS"),
    "a place": (other_text("segmentation/zarr.json", "500000.0", "500030.0"), "segmentation.zarr", "spatial:transform"),
    "a class": (other_text("segmentation/zarr.json", "c0 c1", "c1 c0"), "segmentation.zarr", "flag_meanings"),
    "consolidated metadata": (other_text("zarr.json", "c0 c1", "c1 c0"), "segmentation.zarr", "consolidated"),
    "x": (flipped("x/c/0"), "segmentation.zarr", ""),
    "y": (flipped("y/c/0"), "segmentation.zarr", ""),
    "no overviews": (no_overviews, "segmentation.zarr", "ovr_2x"),
    "an area": (edited_item(lambda item: item["properties"].update(c0_area_m2=1)), "item.json", "c0_area_m2 is not"),
    "a geometry elsewhere": (edited_item(moved_east), "item.json", "outside of its raster"),
    "a sliver": (edited_item(made_a_sliver), "segmentation.tif", "of the labels lie outside"),
    "a sliver beside zarr": (edited_item(made_a_sliver), "segmentation.zarr", "of the labels lie outside"),
    "a bow tie": (edited_item(made_a_bow_tie), "item.json", "geometry is not valid"),
    "a box elsewhere": (edited_item(lambda item: item.update(bbox=[1, 2, 3, 4])), "item.json", "bbox is not"),
    "no assets": (edited_item(lambda item: item.update(assets={})), "item.json", "run.json is not its asset"),
    "no properties": (edited_item(lambda item: item.update(properties=None)), "item.json", ""),
    "a nested item": (lambda scene: (scene / "item.json").write_text("[" * 100_000) and None, "item.json", ""),
    "no catalogue": (
        lambda scene: (scene.parent / "catalog.json").write_text('{"type":"x"}') and None,
        "catalog.json",
        "",
    ),
    "no collection": (lambda scene: (scene.parent / "collection.json").unlink(), "collection.json", "is not there"),
    "another collection": (
        lambda scene: (
            (scene.parent / "collection.json").write_text(
                (scene.parent / "collection.json").read_text().replace('"maximum": ', '"maximum": 1')
            )
            and None
        ),
        "collection.json",
        "is not what items.parquet says",
    ),
    "another model": (lambda scene: (scene / "model.json").write_text("{}") and None, "model.json", "when it was"),
    "a run of another scene": (
        lambda scene: (
            (scene / "run.json").write_text(
                (scene / "run.json").read_text().replace('"scene_digest": "', '"scene_digest": "0')
            )
            and None
        ),
        "segmentation.tif",
        "another run",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_found(case: str, published: Path, tmp_path: Path) -> None:
    damage, subject, problem = DAMAGE[case]
    out = tmp_path / "out"
    shutil.copytree(published, out)
    damage(out / "scene")
    found = list(verify(out))
    assert any(subject in one.subject and problem in one.problem and one.scene in ("scene", "") for one in found), found


def test_what_a_run_published_is_whole(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(verify(published)) == []
    assert app(["verify", str(published)], standalone_mode=False) == 0
    assert capsys.readouterr().out == "1 scene, no findings\n"


def test_a_scene_that_the_table_does_not_hold_as_it_is_is_published_again(published: Path, tmp_path: Path) -> None:
    """What a publishing leaves that was killed after the item."""
    out = tmp_path / "out"
    shutil.copytree(published, out)
    assert list_missing_outputs(out / "scene", ("cog", "zarr"), None) == []
    edited_item(lambda item: item["assets"]["run"].update({"file:checksum": "1220"}))(out / "scene")
    update_catalog(out)
    shutil.copy(published / "scene" / "item.json", out / "scene" / "item.json")
    assert list_missing_outputs(out / "scene", ("cog", "zarr"), None) == ["item"]
    (out / "items.parquet").unlink()
    assert list_missing_outputs(out / "scene", ("cog", "zarr"), None) == ["item"]


def test_the_catalogue_lists_every_scene(published: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(published, out)
    shutil.copytree(out / "scene", out / "forgotten")
    found = [(one.subject, one.problem) for one in verify(out) if one.scene == "forgotten"]
    assert found == [
        ("catalog.json", "does not list the scene"),
        ("item.json", "is of another scene, scene"),
        ("items.parquet", "does not list the scene"),
    ]
    shutil.rmtree(out / "scene")
    found = [(one.subject, one.problem) for one in verify(out) if one.scene == "scene"]
    assert found == [("item.json", "is not there"), ("items.parquet", "lists a scene that is not there")]
    (out / "catalog.json").unlink()
    with pytest.raises(InputError, match=r"results .*out: got no catalog\.json, expected a folder that"):
        list(verify(out))
