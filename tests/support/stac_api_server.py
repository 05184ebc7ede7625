"""A STAC API on a port of its own, small and real, that can be told to fail; it also serves files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

CORE = "https://api.stacspec.org/v1.0.0"


@dataclass
class StacApi:
    """``items`` are what it holds; ``trouble`` is asked before each search and may answer it in its own way."""

    items: list[Any]
    page: int = 10
    post: bool = True
    extensions: tuple[str, ...] = ()
    trouble: Callable[[FolderHandler, int], bool] = lambda handler, number: False
    searches: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def landing(self) -> dict[str, Any]:
        methods = ["GET", "POST"] if self.post else ["GET"]
        links = [
            {"rel": "search", "type": "application/geo+json", "href": f"{self.url}/search", "method": method}
            for method in methods
        ]
        return {
            "type": "Catalog",
            "stac_version": "1.0.0",
            "id": "api",
            "description": "-",
            "links": [{"rel": "self", "href": self.url}, *links],
            "conformsTo": [f"{CORE}/core", f"{CORE}/item-search", *self.extensions],
        }

    def found(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A page; its token is the number of the first item. ``limit`` is the client's wish for a page."""
        wanted = [
            item for item in self.items if not isinstance(item, dict) or item["collection"] in asked["collections"]
        ]
        start, size = int(asked.get("token", 0)), min(self.page, int(asked.get("limit", self.page)))
        links: list[dict[str, Any]] = []
        if start + size < len(wanted):
            token = str(start + size)
            if self.post:
                links = [
                    {
                        "rel": "next",
                        "href": f"{self.url}/search",
                        "method": "POST",
                        "body": {"token": token},
                        "merge": True,
                    }
                ]
            else:
                query = f"collections={','.join(asked['collections'])}&limit={size}&token={token}"
                links = [{"rel": "next", "href": f"{self.url}/search?{query}"}]
        return {"type": "FeatureCollection", "features": wanted[start : start + size], "links": links}


class FolderHandler(SimpleHTTPRequestHandler):
    """Routes of ``api`` first, then files below a folder."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *args: Any, api: StacApi, folder: Path) -> None:
        self.api = api
        super().__init__(*args, directory=str(folder))

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path in ("", "/"):
            self.reply(self.api.landing())
        elif parts.path == "/search":
            asked: dict[str, Any] = {key: values[0] for key, values in parse_qs(parts.query).items()}
            self._search(asked | {"collections": asked.get("collections", "").split(",")})
        elif parts.path.startswith("/collections/"):
            name = parts.path.rpartition("/")[2]
            found = [item for item in self.api.items if isinstance(item, dict) and item.get("id") == name]
            self.reply(*(found or [{"code": "NotFound"}, 404])[:2])
        elif parts.path == "/moved":
            self.redirect("/")
        else:
            super().do_GET()

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/moved-search":
            self.redirect("/search")
        else:
            self._search(asked)

    def _search(self, asked: dict[str, Any]) -> None:
        self.api.searches.append(asked)
        if not self.api.trouble(self, len(self.api.searches)):
            self.reply(self.api.found(asked))

    def reply(self, document: Any, status: int = 200) -> None:
        self.send(json.dumps(document).encode(), status)

    def send(
        self, body: bytes, status: int = 200, *, length: int | None = None, kind: str = "application/json"
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def redirect(self, to: str) -> None:
        self.send_response(301)
        self.send_header("Location", to)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def break_off(self, *, told: bool) -> bool:
        """A page cut in the middle, with the length of the whole or without any."""
        self.close_connection = True
        page = json.dumps(self.api.found(self.api.searches[-1])).encode()
        if told:
            self.send(page[: len(page) // 2], length=len(page))
        else:
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(page[: len(page) // 2])
        return True

    def stay_silent(self, seconds: float) -> bool:
        self.close_connection = True
        time.sleep(seconds)
        return True

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serve_directory(api: StacApi, folder: Path) -> Iterator[StacApi]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(FolderHandler, api=api, folder=folder)) as server:
        api.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()


def make_stac_item(name: str, href: str, collection: str = "s2", **properties: Any) -> dict[str, Any]:
    """A STAC item with one raster, as an API gives it: without links, which are optional here."""
    box = [-60.5, -3.5, -60.0, -3.0]
    ring = [[box[0], box[1]], [box[2], box[1]], [box[2], box[3]], [box[0], box[3]], [box[0], box[1]]]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": collection,
        "bbox": box,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"datetime": "2024-06-01T10:00:00Z", **properties},
        "links": [],
        "assets": {"image": {"href": href, "type": "image/tiff; application=geotiff"}},
    }
