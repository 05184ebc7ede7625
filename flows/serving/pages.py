"""The pages of the map and what they may load: the map itself, the description of its routes, a background map."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from seamline.pipeline.common.errors import InputError

_STATIC_FOLDER = Path(__file__).parent / "static"
_URL_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~:/?&=%+@!{}]+")
"""Those of a URL, without the ones that would end a directive or a source of the content security policy."""
_HOST = re.compile(r"[A-Za-z0-9.-]+")


@dataclass(frozen=True)
class Basemap:
    """A background map of tiles that the browser loads from another server.

    Attributes:
        url: Address of a tile with ``{z}``, ``{x}`` and ``{y}`` (Web Mercator, 256 × 256 pixels).
        attribution: Whose map it is, as plain text; by default the name of the host.

    Raises:
        InputError: ``url`` is no such address.
    """

    url: str
    attribution: str = ""
    origin: str = field(init=False)
    """Scheme, host and port: all that the page is allowed to load besides its own files."""

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise _refuse_basemap(self.url) from error
        names = re.findall(r"\{([^}]*)\}", parts.path + parts.query)
        is_usable = (
            parts.scheme in ("http", "https")
            and _HOST.fullmatch(host)
            and parts.username is None
            and port != 0
            and _URL_CHARACTERS.fullmatch(self.url)
            and sorted(names) == ["x", "y", "z"]
        )
        if not is_usable:
            raise _refuse_basemap(self.url)
        object.__setattr__(self, "origin", f"{parts.scheme}://{host}{f':{port}' if port else ''}")
        object.__setattr__(self, "attribution", self.attribution or host)

    def describe(self) -> dict[str, str]:
        """Return what the page needs to draw it; the attribution as HTML, which the page's map takes."""
        return {"tiles": self.url, "attribution": html.escape(self.attribution)}


def _refuse_basemap(url: str) -> InputError:
    return InputError(
        "--basemap",
        got=url[:200],
        expected="the address of tiles in Web Mercator with {z}, {x} and {y}, such as https://host/{z}/{x}/{y}.png",
        fix="take the XYZ address of a tile server; one of its hosts where it has several ({s})",
    )


def build_security_policy(basemap: Basemap | None) -> str:
    """Return the content security policy of the pages: they load from their own server, and tiles of the basemap."""
    tiles = f" {basemap.origin}" if basemap else ""
    return (
        f"default-src 'self'; connect-src 'self'{tiles}; img-src 'self' data: blob:; worker-src blob:; "
        "style-src 'self' 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def add_pages(app: FastAPI) -> None:
    """Add the page, its files, and the page that describes the routes.

    Raises:
        InputError: MapLibre is not installed.
    """

    @app.get("/", include_in_schema=False)
    def get_page() -> FileResponse:
        return FileResponse(_STATIC_FOLDER / "index.html")

    # FastAPI's own pages load their scripts from the internet.
    @app.get("/docs", include_in_schema=False)
    def get_documentation(request: Request) -> HTMLResponse:
        base = str(request.base_url)
        return HTMLResponse(_load_template().render(info=app.openapi()["info"], base=base, tags=_list_operations(app)))

    app.mount("/maplibre", StaticFiles(directory=_find_maplibre()))
    app.mount("/static", StaticFiles(directory=_STATIC_FOLDER))


@cache
def _load_template() -> Template:
    loader = PackageLoader("seamline.flows.serving")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["code"] = _mark_code
    return environment.get_template("docs.html")


def _mark_code(text: str) -> Markup:
    """Return text as HTML with ``<code>`` for what stands between backticks."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text)))


def _list_operations(app: FastAPI) -> dict[str, list[dict[str, Any]]]:
    """Return the operations of the OpenAPI document by tag: path, summary, description, parameters, answers."""
    document = app.openapi()
    tags: dict[str, list[dict[str, Any]]] = {tag["name"]: [] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        operation = methods["get"]
        parameters = [_describe_parameter(parameter) for parameter in operation.get("parameters", [])]
        kinds = list(operation["responses"]["200"].get("content", {}))
        texts = {status: answer["description"] for status, answer in operation["responses"].items()}
        tags[operation["tags"][0]].append(
            {
                "path": path,
                "anchor": operation["operationId"],
                "summary": operation["summary"],
                "description": operation.get("description", ""),
                "parameters": parameters,
                "kinds": kinds,
                "answers": texts,
            }
        )
    return tags


def _describe_parameter(parameter: dict[str, Any]) -> dict[str, Any]:
    schema = parameter["schema"]
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    limits = [f"{word} {schema[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in schema]
    return {
        "name": parameter["name"],
        "place": parameter["in"],
        "is_required": parameter["required"],
        "text": parameter.get("description") or schema.get("description", ""),
        "values": values,
        "limits": " ".join(limits),
        "default": schema.get("default"),
    }


def _find_maplibre() -> Path:
    """Return the folder of MapLibre GL JS in the package ``maplibre``, which is not imported."""
    spec = find_spec("maplibre")
    for folder in (spec and spec.submodule_search_locations) or ():
        script = Path(folder) / "srcjs" / "maplibre-gl.js"
        if script.is_file():
            return script.parent
    raise InputError(
        "the map's program",
        got="no maplibre-gl.js",
        expected="the package maplibre 0.3",
        fix="install seamline anew",
    )
