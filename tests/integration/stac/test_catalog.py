"""Processes that publish to one catalogue at the same time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pystac
import pystac.validation

from seamline.pipeline.stac.catalog import update_catalog, write_item
from seamline.pipeline.stac.items import read_item_table
from tests.support.stac_items import UTM, check_core_schema, make_scene_item

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
    write_item(make_scene_item(tmp_path / "SCENE", UTM), tmp_path)
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
    check_core_schema(json.loads((tmp_path / "catalog.json").read_text()))
    assert [(name, row["turn"]) for name, row in read_item_table(tmp_path / "items.parquet").items()] == [
        (name, 2) for name in names
    ]
    assert not list(tmp_path.glob(".*"))
    before = [(tmp_path / name).read_bytes() for name in ("catalog.json", "items.parquet")]
    update_catalog(tmp_path)
    assert [(tmp_path / name).read_bytes() for name in ("catalog.json", "items.parquet")] == before
