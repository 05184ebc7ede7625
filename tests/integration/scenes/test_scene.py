"""A scene on a web server is read in ranges."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio

from seamline.pipeline.common.errors import BadBlockError, InputError
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.scenes.band_matching import BandNeed
from seamline.pipeline.scenes.open_scene import SceneOptions, open_scene
from seamline.pipeline.scenes.scene import Scene, read_block
from tests.support.small_rasters import make_noise, write_tiled


def scene_of(source: Any, count: int, **options: Any) -> Scene:
    needs = [BandNeed(f"b{number}") for number in range(1, count + 1)]
    return open_scene(source, needs, SceneOptions(**options), reflectance=False)


class _Ranges(BaseHTTPRequestHandler):
    """Serves one folder, ranges included, and counts."""

    folder: Path
    broken = False
    requests = 0

    def do_GET(self, body: bool = True) -> None:
        type(self).requests += 1
        file = self.folder / self.path.lstrip("/")
        if not file.is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        wanted = self.headers.get("Range")
        if wanted and self.broken:
            self.send_error(403)
            return
        first, last = 0, len(content) - 1
        if wanted:
            start, _, stop = wanted.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(stop or last), last)
        self.send_response(206 if wanted else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        if body:
            self.wfile.write(content[first : last + 1])

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def website(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[_Ranges]]]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = type("Ranges", (_Ranges,), {"folder": tmp_path})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()
    thread.join()


def test_http_is_read_in_ranges_and_an_outage_is_no_missing_data(
    tmp_path: Path, website: tuple[str, type[_Ranges]]
) -> None:
    address, handler = website
    pixels = make_noise(2, 1024, 1024)
    path = write_tiled(tmp_path / "x.tif", pixels, names=("b1", "b2"))
    scene = scene_of(f"{address}/x.tif", 2)
    np.testing.assert_array_equal(read_block(scene, Window(0, 0, 100, 100)).pixels, pixels[:, :100, :100])
    opening = handler.requests
    read_block(scene, Window(0, 0, 50, 50))
    assert handler.requests == opening  # still open, and cached
    assert scene.id == "x" and scene.compute_digest() == scene.compute_digest() != scene_of(path, 2).compute_digest()
    item = pystac.Item("item", None, None, datetime(2020, 1, 1), {})
    item.add_asset("data", pystac.Asset("x.tif", media_type="image/tiff"))
    item.save_object(dest_href=str(tmp_path / "item.json"), include_self_link=False)
    by_item = scene_of(f"{address}/item.json", 2)
    assert by_item.bands == scene.bands and by_item.compute_digest() == scene.compute_digest()
    handler.broken = True
    with pytest.raises(BadBlockError, match="band 1, block row 15"):
        read_block(scene_of(f"{address}/x.tif", 2), Window(1000, 900, 10, 10), "nodata")


def test_a_mask_beside_a_remote_raster_is_not_passed_over(tmp_path: Path, website: tuple[str, type[_Ranges]]) -> None:
    address, _ = website
    pixels = make_noise(2, 128, 128)
    mask = np.full((128, 128), 255, "uint8")
    mask[:40] = 0
    for name, internal in (("beside.tif", False), ("inside.tif", True)):
        path = write_tiled(tmp_path / name, pixels, names=("b1", "b2"))
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(path, "r+") as file:
            file.write_mask(mask)
    with pytest.raises(InputError, match=r"the mask of .*beside\.tif lies in a file beside it: got .*\.msk"):
        scene_of(f"{address}/beside.tif", 2)
    scene = scene_of(f"{address}/inside.tif", 2)
    np.testing.assert_array_equal(read_block(scene, Window(0, 0, 128, 128)).valid, mask > 0)
