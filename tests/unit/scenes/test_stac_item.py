"""STAC items that are not what they should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seamline.pipeline.common.errors import InputError, RunError
from seamline.pipeline.scenes.stac_item import read_source_item
from seamline.pipeline.storage import json_documents as documents


@pytest.mark.parametrize(
    "fields", [{"eo:bands": ["blue"]}, {"raster:bands": [{"scale": "x"}]}, {"bands": [{"offset": []}]}]
)
def test_malformed_bands_are_refused(fields: dict[str, Any], tmp_path: Path) -> None:
    asset = {"href": "./b.tif", "type": "image/tiff; application=geotiff", **fields}
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "x",
        "geometry": None,
        "links": [],
        "properties": {"datetime": "2024-01-01T00:00:00Z"},
        "assets": {"b": asset},
    }
    path = tmp_path / "item.json"
    path.write_text(json.dumps(item))
    with pytest.raises(InputError, match=r"bands of .*item\.json.*correct the item"):
        read_source_item(str(path))


def test_an_item_that_no_server_gives_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_RETRY_WAITS", (0.0,))
    with pytest.raises(RunError, match=r"http://127\.0\.0\.1:9/item\.json does not answer.* in 2 tries"):
        read_source_item("http://127.0.0.1:9/item.json?signature=secret")
