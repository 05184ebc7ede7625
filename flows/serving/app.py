"""The routes of the web map: page, scenes, tiles, pixels, polygons, metrics. Only GET; nothing is written."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from morecantile.errors import MorecantileError
from prometheus_client import CONTENT_TYPE_LATEST
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rio_tiler.errors import RioTilerError, TileOutsideBounds

from seamline.flows.serving.metrics import render_metrics
from seamline.flows.serving.pixel import describe_pixel
from seamline.flows.serving.results import POLYGONS_FILE, DamagedResult, NotFound, ServedResults
from seamline.flows.serving.tiles import LAYER_PREFIX, list_color_ramps, make_router
from seamline.flows.serving.vectors import MAX_POLYGONS, read_polygons
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import PREVIEW
from seamline.pipeline.stac.extent import Box

_STATIC_FOLDER = Path(__file__).parent / "static"
_ERROR_STATUS: dict[type[Exception], int] = {
    InputError: 422,
    NotFound: 404,
    DamagedResult: 409,
    MorecantileError: 404,
    RioTilerError: 409,
    RasterioError: 409,
    CPLE_BaseError: 409,
}
"""HTTP status of each error. A reader's error is damage (409), since the item's checksum vouches for the file."""

_CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; worker-src blob:; style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'none'"
)


def create_app(root: Path, allow_empty: bool = False) -> FastAPI:
    """Return the app that serves the catalogue in ``root``.

    Args:
        root: Folder of the catalogue.
        allow_empty: Serve a folder without a catalogue, or one that does not exist yet, as an empty catalogue.

    Raises:
        InputError: There is no catalogue, or MapLibre is not installed.
    """
    results = ServedResults.from_folder(root, allow_empty)
    # No pages of documentation: FastAPI's load their scripts from the internet.
    app = FastAPI(title="Seamline", docs_url=None, redoc_url=None, openapi_url=None)
    for kind, status in _ERROR_STATUS.items():
        app.add_exception_handler(kind, _make_error_handler(status))
    app.add_exception_handler(TileOutsideBounds, lambda request, error: Response(status_code=204))
    app.middleware("http")(_add_headers)
    app.include_router(make_router(results), prefix=LAYER_PREFIX)
    _add_scene_routes(app, results)

    @app.get("/", include_in_schema=False)
    def get_page() -> FileResponse:
        return FileResponse(_STATIC_FOLDER / "index.html")

    @app.get("/metrics")
    def get_metrics() -> Response:
        """Return the gauges that Prometheus scrapes."""
        return Response(render_metrics(root), media_type=CONTENT_TYPE_LATEST)

    app.mount("/maplibre", StaticFiles(directory=_find_maplibre()))
    app.mount("/static", StaticFiles(directory=_STATIC_FOLDER))
    return app


def _add_scene_routes(app: FastAPI, results: ServedResults) -> None:
    @app.get("/scenes")
    def list_scenes(
        request: Request, bbox: str = "", interval: Annotated[str, Query(alias="datetime")] = ""
    ) -> dict[str, Any]:
        """Return all scenes, or those in a box and a time; a damaged scene comes with its problem."""
        _refuse_other_parameters(request, {"bbox", "datetime"})
        scenes = list(results.summarize_scenes())
        if bbox or interval:
            found = results.find_scene_ids(bbox, interval)
            scenes = [scene for scene in scenes if scene["id"] in found]
        return {"folder": results.root.name, "scenes": scenes, "ramps": list_color_ramps()}

    @app.get("/scenes/{scene}")
    def get_scene(scene: str) -> dict[str, Any]:
        """Return what the page shows of one scene."""
        return results.summarize_scene(scene)

    @app.get("/scenes/{scene}/preview.png")
    def get_preview(scene: str) -> FileResponse:
        """Return the picture of source and segmentation side by side."""
        return FileResponse(results.find_file(scene, PREVIEW), media_type="image/png")

    @app.get("/scenes/{scene}/pixel")
    def get_pixel(
        scene: str,
        lon: Annotated[float, Query(ge=-540, le=540, allow_inf_nan=False)],
        lat: Annotated[float, Query(ge=-90, le=90, allow_inf_nan=False)],
    ) -> dict[str, Any]:
        """Return class and layers at a location (degrees, WGS 84)."""
        return describe_pixel(results, scene, lon, lat)

    @app.get("/scenes/{scene}/polygons")
    def get_polygons(
        scene: str, bbox: str, limit: Annotated[int, Query(ge=1, le=MAX_POLYGONS)] = MAX_POLYGONS
    ) -> JSONResponse:
        """Return the polygons that intersect ``bbox`` (west,south,east,north; west > east across the antimeridian)."""
        box, path = Box.from_text(bbox), results.find_file(scene, POLYGONS_FILE)
        bounds = results.open_item(scene).bbox
        return JSONResponse(read_polygons(path, box, Box(*bounds) if bounds else box, limit))


def _refuse_other_parameters(request: Request, known: set[str]) -> None:
    """Refuse unknown parameters, since the list would look filtered by them and is not."""
    if unknown := sorted(request.query_params.keys() - known):
        raise InputError(
            f"parameter {unknown[0][:80]}",
            got=request.query_params[unknown[0]][:80],
            expected="only bbox and datetime",
            fix="leave it out; `seamline query` takes an SQL expression (--where)",
        )


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


def _make_error_handler(status: int) -> Callable[[Request, Exception], JSONResponse]:
    return lambda request, error: JSONResponse({"detail": " ".join(str(error).split())}, status)


async def _add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Forbid the page to load from other hosts, and have browsers ask again for files that a run may overwrite."""
    response = await call_next(request)
    response.headers["Content-Security-Policy"] = _CONTENT_SECURITY_POLICY
    response.headers.setdefault("Cache-Control", "no-cache")
    return response
