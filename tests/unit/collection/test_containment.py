"""A scene in the inbox cannot make the flow read, run or ask anything that is not in the inbox."""

from __future__ import annotations

import json
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from seamline.flows.collection.discovery import discover
from seamline.flows.collection.scene_ref import Discovery
from seamline.flows.collection.scene_sources import Inbox
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.scenes.band_matching import BandNeed
from seamline.pipeline.scenes.open_scene import SceneOptions, open_scene
from tests.support.small_sources import scene_names, write_band, write_vrt


class Asked(BaseHTTPRequestHandler):
    """Notes every request."""

    paths: list[str]

    def do_GET(self) -> None:
        self.paths.append(self.path)
        self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """Address of a server on this machine, and the paths that it was asked for."""
    Asked.paths = []
    with HTTPServer(("127.0.0.1", 0), Asked) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_address[1]}", Asked.paths
        listening.shutdown()


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """An inbox beside a raster that does not belong to it."""
    write_band(tmp_path / "outside" / "secret.tif")
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


def look(inbox: Path, *allow: str) -> Discovery:
    return discover(Inbox(folder=inbox, settle=0, allow=allow))


def vrt_of(source: str, attributes: str = "", band: str = "") -> str:
    simple = f"<SimpleSource><SourceFilename {attributes}>{source}</SourceFilename></SimpleSource>"
    return (
        '<VRTDataset rasterXSize="8" rasterYSize="8"><SRS>EPSG:32620</SRS><GeoTransform>0,1,0,0,0,-1</GeoTransform>'
        f'<VRTRasterBand dataType="Byte" band="1" {band}>{simple}</VRTRasterBand></VRTDataset>'
    )


def item_of(href: str) -> str:
    asset = {"href": href, "type": "image/tiff; application=geotiff", "eo:bands": [{"common_name": "blue"}]}
    fields = {"type": "Feature", "stac_version": "1.0.0", "id": "x", "geometry": None, "links": []}
    return json.dumps({**fields, "properties": {"datetime": "2024-01-01T00:00:00Z"}, "assets": {"blue": asset}})


def write_zip(path: Path, name: str, content: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)


def write_raster_with(path: Path, suffix: str, content: str) -> None:
    write_band(path)
    path.with_name(path.name + suffix).write_text(content)


WMS = '<GDAL_WMS><Service name="TMS"><ServerUrl>{server}/${{z}}</ServerUrl></Service></GDAL_WMS>'
PYTHON = "<PixelFunctionLanguage>Python</PixelFunctionLanguage>"
OVERVIEW = (
    '<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW&#95;FILE">{outside}</MDI></Metadata></PAMDataset>'
)

DROPPED: dict[str, Callable[[Path, str, str], object]] = {
    "a VRT": lambda d, outside, server: (d / "x.vrt").write_text(vrt_of(outside)),
    "a VRT by another name": lambda d, outside, server: (d / "x.tif").write_text(vrt_of(outside)),
    "a VRT that looks like a TIFF": lambda d, outside, server: (d / "x.tif").write_text("II*\0" + vrt_of(outside)),
    "a VRT that looks like Imagine": lambda d, outside, server: (d / "x.img").write_text(
        "EHFA_HEADER_TAG" + vrt_of(outside)
    ),
    "names in capitals": lambda d, outside, server: (d / "x.vrt").write_text(
        vrt_of(outside).replace("SourceFilename", "SOURCEFILENAME").replace("VRTDataset", "vrtDATASET")
    ),
    "a file of text": lambda d, outside, server: (d / "x.vrt").write_text(vrt_of("/etc/hostname")),
    "a climb": lambda d, outside, server: (d / "x.vrt").write_text(
        vrt_of("../outside/secret.tif", 'relativeToVRT="1"')
    ),
    "a path from the working folder": lambda d, outside, server: (d / "x.vrt").write_text(vrt_of("x.tif")),
    "a VRT of a VRT": lambda d, outside, server: (
        (d / "x.vrt").write_text(vrt_of("y.part.vrt", 'relativeToVRT="1"')),
        (d / "y.part.vrt").write_text(vrt_of(outside)),
    ),
    "a declaration": lambda d, outside, server: (d / "x.vrt").write_text(
        f'<!DOCTYPE x [<!ENTITY p "{outside}">]>' + vrt_of("&p;")
    ),
    "a function in Python": lambda d, outside, server: (d / "x.vrt").write_text(
        vrt_of("x.tif", 'relativeToVRT="1"').replace("<SimpleSource>", PYTHON + "<SimpleSource>")
    ),
    "an address in a VRT": lambda d, outside, server: (d / "x.vrt").write_text(vrt_of(f"/vsicurl/{server}/a.tif")),
    "a driver in a VRT": lambda d, outside, server: (d / "x.vrt").write_text(vrt_of(f"GTIFF_DIR:1:{outside}")),
    "XML in a VRT": lambda d, outside, server: (d / "x.vrt").write_text(vrt_of(vrt_of(outside).replace("<", "&lt;"))),
    "a web service": lambda d, outside, server: (d / "x.tif").write_text(WMS.format(server=server)),
    "a link": lambda d, outside, server: (d / "x.tif").symlink_to(outside),
    "a linked folder": lambda d, outside, server: (d / "x").symlink_to(Path(outside).parent),
    "a link in a folder": lambda d, outside, server: ((d / "x").mkdir(), (d / "x" / "blue.tif").symlink_to(outside)),
    "a linked mask": lambda d, outside, server: (write_band(d / "x.tif"), (d / "x.tif.msk").symlink_to(outside)),
    "overviews": lambda d, outside, server: write_raster_with(d / "x.tif", ".ovr", vrt_of(outside)),
    "overviews by a side-car": lambda d, outside, server: write_raster_with(
        d / "x.tif", ".aux.xml", OVERVIEW.format(outside=outside)
    ),
    "an item": lambda d, outside, server: (d / "x.json").write_text(item_of(outside)),
    "an item with a URL of a file": lambda d, outside, server: (d / "x.json").write_text(item_of(f"file://{outside}")),
    "an item with an address": lambda d, outside, server: (d / "x.json").write_text(item_of(f"{server}/a.tif")),
    "an item with GDAL's address": lambda d, outside, server: (d / "x.json").write_text(
        item_of(f"/vsicurl/{server}/a.tif")
    ),
    "metadata of a cloud": lambda d, outside, server: (d / "x.json").write_text(
        item_of("http://169.254.169.254/latest/meta-data/x.tif")
    ),
    "a bucket": lambda d, outside, server: (d / "x.json").write_text(item_of("s3://bucket/x.tif")),
    "a VRT in an archive": lambda d, outside, server: write_zip(d / "x.zip", "blue.vrt", vrt_of(outside)),
}


@pytest.mark.parametrize("case", DROPPED)
def test_what_lies_outside_is_not_read(case: str, inbox: Path, server: tuple[str, list[str]]) -> None:
    address, asked = server
    DROPPED[case](inbox, str(inbox.parent / "outside" / "secret.tif"), address)
    found = look(inbox)
    assert not found.scenes and not found.waiting
    assert any("names what is outside of the inbox" in rejected.reason for rejected in found.rejected)
    assert all("\n" not in rejected.reason for rejected in found.rejected)
    assert not asked


def test_a_declaration_is_refused_whatever_it_declares(inbox: Path) -> None:
    """GDAL knows none, so that it would read another name than the one that was checked."""
    write_band(inbox / "x.tif")
    named = vrt_of("&p;", 'relativeToVRT="1"')
    (inbox / "y.vrt").write_text(f'<!DOCTYPE x [<!ENTITY p "x.tif">]>{named}')
    (rejected,) = look(inbox).rejected
    assert "a declaration, which GDAL would not heed" in rejected.reason


@pytest.mark.parametrize("name", ["x.tif", "x.json", "x.zip", "x/blue.tif", "source.vrt"])
def test_a_pipe_in_the_inbox_is_not_waited_for(name: str, inbox: Path) -> None:
    (inbox / name).parent.mkdir(exist_ok=True)
    if name == "source.vrt":
        (inbox / "x.vrt").write_text(vrt_of("pipe.tif.part", 'relativeToVRT="1"'))
        name = "pipe.tif.part"
    os.mkfifo(inbox / name)
    write_band(inbox / "other.tif")
    found = look(inbox)
    assert scene_names(found) == ["other"]
    assert found.waiting or all("a pipe, socket or device" in rejected.reason for rejected in found.rejected)
    with pytest.raises(InputError, match="a pipe, socket or device"):
        open_scene(inbox / name, [BandNeed("blue", ())], SceneOptions())


def test_what_lies_in_the_inbox_is_read(inbox: Path) -> None:
    write_band(inbox / "plain.tif")
    write_band(inbox / "parts" / "blue.tif")
    write_vrt(inbox / "mosaic.vrt", inbox / "parts" / "blue.tif")
    (inbox / "item.json").write_text(item_of("./parts/blue.tif"))
    (inbox / "link.tif").symlink_to(inbox / "plain.tif")
    found = look(inbox)
    assert not found.rejected
    assert {"plain", "mosaic", "x"} <= set(scene_names(found))


def test_folders_and_hosts_can_be_allowed(inbox: Path) -> None:
    outside = inbox.parent / "outside"
    (inbox / "x.vrt").write_text(vrt_of(str(outside / "secret.tif")))
    (inbox / "linked.tif").symlink_to(outside / "secret.tif")
    assert scene_names(look(inbox, str(outside))) == ["linked", "x"]
    (inbox / "x.vrt").unlink()
    (inbox / "x.json").write_text(item_of("https://example.org/a.tif"))
    assert scene_names(look(inbox, "example.org", str(outside))) == ["linked", "x"]
    (inbox / "x.json").write_text(item_of("s3://bucket/a.tif"))
    assert scene_names(look(inbox, "s3://bucket", str(outside))) == ["linked", "x"]
    assert scene_names(look(inbox, "s3://other", str(outside))) == ["linked"]
