from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pystac.validation
from affine import Affine
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.zarr_store import ZarrLayout, create_store, open_labels, write_labels
from seamline.pipeline.stac.catalog import update_catalog, write_item
from seamline.pipeline.stac.class_areas import compute_class_areas
from seamline.pipeline.stac.items import read_item_table
from seamline.pipeline.stac.scene_item import ModelReference, Provenance, build_scene_item

CLASSES = [LabelClass(0, "land", (200, 180, 120)), LabelClass(1, "water", (30, 90, 200), "open water")]


UTM = GeoBox((300, 200), Affine(30, 0, 600000, 0, -30, 9700000), "EPSG:32620")


ACQUIRED, PROCESSED = datetime(2023, 7, 23, 14, 20, tzinfo=UTC), datetime(2026, 11, 22, 12, tzinfo=UTC)


def store(folder: Path, grid: GeoBox, labels: np.ndarray | None = None, chunk: int = 64) -> Any:
    create_store(folder / "segmentation.zarr", grid, CLASSES, ZarrLayout(chunk), title="a scene")
    if labels is not None:
        write_labels(folder / "segmentation.zarr", Window(0, 0, *grid.shape), labels)
    return open_labels(folder / "segmentation.zarr")


def item_of(
    folder: Path, grid: GeoBox, acquired: datetime | None = ACQUIRED, classes: list[LabelClass] = CLASSES
) -> pystac.Item:
    folder.mkdir(exist_ok=True)
    (folder / "segmentation.tif").write_bytes(b"labels")
    table = compute_class_areas(store(folder, grid, np.ones(grid.shape, np.uint8)), grid, classes)
    model = ModelReference("a U-Net", "ab" * 32, "/models/a/model.json")
    software = {"seamline": "0.1.0"}
    provenance = Provenance("/scenes/a.tif", model, acquired, PROCESSED, software, "segmented by a U-Net")
    return build_scene_item(folder, folder.name, grid, classes, table, provenance)


def validated(document: dict[str, Any]) -> dict[str, Any]:
    """Core schema only, which pystac carries; the extensions' schemas would be fetched."""
    pystac.validation.validate_dict({**document, "stac_extensions": []})
    return document


PUBLISH = """
import json, os, sys
from pathlib import Path
from seamline.pipeline.stac.catalog import update_catalog
out, name = Path(sys.argv[1]), sys.argv[2]
item = json.loads((out / "item.json").read_text())
sys.stdin.readline()
for turn in (1, 2):
    for number in range(4):
        scene = out / f"{name}-{number:02}"
        scene.mkdir(exist_ok=True)
        item["id"], item["properties"]["turn"] = scene.name, turn
        part = scene / ".item.part"
        part.write_text(json.dumps(item))
        part.replace(scene / "item.json")
        update_catalog(out)
"""


def test_processes_publish_at_once_and_lose_nothing(tmp_path: Path) -> None:
    """Neither new items nor rewritten ones, neither from the catalogue nor from the table."""
    write_item(item_of(tmp_path / "SCENE", UTM), tmp_path)
    shutil.rmtree(tmp_path / "SCENE")
    command = [sys.executable, "-c", PUBLISH, str(tmp_path)]
    runs = [subprocess.Popen([*command, name], stdin=subprocess.PIPE, text=True) for name in "abc"]
    for run in runs:  # all have imported by the time they read the line
        assert run.stdin is not None
        run.stdin.write("go\n")
        run.stdin.close()
    assert [run.wait(60) for run in runs] == [0, 0, 0]
    names = sorted(f"{name}-{number:02}" for name in "abc" for number in range(4))
    catalog = pystac.Catalog.from_file(str(tmp_path / "catalog.json"))
    assert sorted(item.id for item in catalog.get_items()) == names
    links = [link for link in catalog.links if link.rel == "item"]
    assert all(str(link.href).startswith("./") for link in links)
    validated(json.loads((tmp_path / "catalog.json").read_text()))
    assert [(name, row["turn"]) for name, row in read_item_table(tmp_path / "items.parquet").items()] == [
        (name, 2) for name in names
    ]
    assert not list(tmp_path.glob(".*"))
    before = [(tmp_path / name).read_bytes() for name in ("catalog.json", "items.parquet")]
    update_catalog(tmp_path)
    assert [(tmp_path / name).read_bytes() for name in ("catalog.json", "items.parquet")] == before
