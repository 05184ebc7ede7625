"""Catalogues of items without results, and what is touched while one is published or looked at."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from seamline.pipeline.common.layout import ITEM
from seamline.pipeline.stac.catalog import update_catalog

Item = dict[str, Any]


def make_item(scene: str, **properties: Any) -> Item:
    """An item whose row does not become small by being like others."""
    digest = random.Random(f"{scene}{properties}").randbytes(200).hex()
    assets = {"run": {"href": "./run.json", "title": digest, "file:checksum": f"1220{digest[:64]}"}}
    box = [0.0, 0.0, 1.0, 1.0]
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [],
        "id": scene,
        "geometry": {"type": "Point", "coordinates": [0.5, 0.5]},
        "bbox": box,
        "properties": {"datetime": "2026-01-01T00:00:00Z", "water_share": 0.5, **properties},
        "links": [],
        "assets": assets,
    }


def put_item(out: Path, scene: str, **properties: Any) -> None:
    """Publish an item as a run does: another file takes the place of the one before."""
    (out / scene).mkdir(parents=True, exist_ok=True)
    part = out / scene / ".part"
    part.write_text(json.dumps(make_item(scene, **properties)))
    part.replace(out / scene / ITEM)


def make_catalog(out: Path, count: int) -> Path:
    for number in range(count):
        put_item(out, f"s-{number:05}", number=number)
    update_catalog(out)
    return out


@contextmanager
def count_files(with_status: bool = False) -> Iterator[list[str]]:
    """Collect the paths that are opened or listed; with those whose status is asked for, if that is wanted."""
    seen: list[str] = []
    is_on = [True]

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if is_on and event in ("open", "os.scandir", "os.listdir"):
            seen.append(str(arguments[0]))

    def look(path: Any, *rest: Any, **named: Any) -> os.stat_result:
        if with_status:
            seen.append(str(path))
        return stat(path, *rest, **named)

    stat = os.stat
    sys.addaudithook(note)
    with mock.patch.object(os, "stat", look):
        yield seen
    is_on.clear()
