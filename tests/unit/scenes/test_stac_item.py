"""STAC items that are not what they should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seamline.pipeline.common.errors import InputError, RunError
from seamline.pipeline.common.sensors import recognize_sensors
from seamline.pipeline.scenes.stac_item import read_source_item
from seamline.pipeline.storage import web_requests
from tests.support.stac_items import write_source_item

BLUE = {"eo:bands": [{"common_name": "blue"}]}


@pytest.mark.parametrize(
    "fields", [{"eo:bands": ["blue"]}, {"raster:bands": [{"scale": "x"}]}, {"bands": [{"offset": []}]}]
)
def test_malformed_bands_are_refused(fields: dict[str, Any], tmp_path: Path) -> None:
    path = write_item(tmp_path, "b.tif", {"href": "./b.tif", **fields})
    with pytest.raises(InputError, match=r"bands of .*item\.json.*correct the item"):
        read_source_item(str(path))


def test_an_item_that_no_server_gives_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_requests, "_RETRY_WAITS", (0.0,))
    with pytest.raises(RunError, match=r"http://127\.0\.0\.1:9/item\.json does not answer.* in 2 tries"):
        read_source_item("http://127.0.0.1:9/item.json?signature=secret")


@pytest.mark.parametrize(
    ("file", "href"),
    [
        ("my data/blue 1.tif", "./my data/blue 1.tif"),
        ("my data/blue 1.tif", "./my%20data/blue%201.tif"),
        ("h#sh/blue.tif", "h%23sh/blue.tif"),
        ("h#sh/blue.tif", "./h#sh/blue.tif"),
        ("blue%20x.tif", "./blue%20x.tif"),
        ("blue%20x.tif", "./blue%2520x.tif"),
        ("blue.tif", "file://{folder}/blue.tif"),
        ("blue.tif", "file:{folder}/blue.tif"),
        ("my data/blue.tif", "file:{folder}/my%20data/blue.tif"),
        ("blue.tif", "FILE://{folder}/blue.tif"),
        ("my data/blue.tif", "file://localhost{folder}/my%20data/blue.tif"),
        ("blue.tif", "{folder}/blue.tif"),
        ("blue.tif", "../{name}/blue.tif"),
    ],
)
def test_hrefs_lead_to_files_percent_encoded_or_not(file: str, href: str, tmp_path: Path) -> None:
    write_item(tmp_path, file, {**BLUE, "href": href.format(folder=tmp_path, name=tmp_path.name)})
    assert read_source_item(str(tmp_path / "item.json")).bands[0].path == str(tmp_path / file)


def test_a_file_on_this_disk_is_taken_under_whatever_address(tmp_path: Path) -> None:
    alternate = {"local": {"href": f"file://{tmp_path}/blue.tif"}, "other": {"href": "https://example.org/blue.tif"}}
    write_item(tmp_path, "blue.tif", {**BLUE, "href": "s3://no-such-bucket/blue.tif", "alternate": alternate})
    (band,) = read_source_item(str(tmp_path / "item.json")).bands
    assert band.path == str(tmp_path / "blue.tif")
    (tmp_path / "blue.tif").unlink()
    assert read_source_item(str(tmp_path / "item.json")).bands[0].path == "s3://no-such-bucket/blue.tif"


@pytest.mark.parametrize(
    ("named", "properties", "expected"),
    [
        ({"platform": "rapideye-3"}, {"instruments": ["msi"]}, []),
        ({"platform": "landsat-8"}, {"s2:mgrs_tile": "33TWN"}, ["Landsat 8/9"]),
        ({"collection": "HLSS30_2.0", "title": "HLS.S30.T33TWN"}, {"instruments": ["msi"]}, ["HLS S30"]),
        ({}, {"instruments": ["msi"]}, ["Sentinel-2"]),
        ({}, {"instruments": ["MSI", "x"]}, ["Sentinel-2"]),
        ({}, {"instruments": ["msix"]}, []),
        ({}, {"s2:mgrs_tile": "33TWN"}, ["Sentinel-2"]),
        ({"constellation": "Sentinel 2"}, {}, ["Sentinel-2"]),
    ],
)
def test_a_sensor_that_is_named_goes_before_fields_that_many_have(
    named: dict[str, Any], properties: dict[str, Any], expected: list[str], tmp_path: Path
) -> None:
    path = write_item(tmp_path, "b.tif", {**BLUE, "href": "./b.tif"})
    document = json.loads(path.read_text())
    document["id"] = "item"
    document["properties"] |= {**named, **properties, "processing:version": "04.00"}
    path.write_text(json.dumps(document))
    item = read_source_item(str(path))
    assert recognize_sensors(" ".join(item.names)) == expected
    assert item.baseline == (4.0 if expected == ["Sentinel-2"] else None)


def write_item(folder: Path, file: str, asset: dict[str, Any]) -> Path:
    """An item of one band, and its file, which is empty."""
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).touch()
    return write_source_item(folder, {"b": {"type": "image/tiff; application=geotiff", **asset}})
