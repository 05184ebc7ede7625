"""The routes of the web map: page, scenes, tiles, pixels, polygons, metrics. Only GET; nothing is written."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from morecantile.errors import MorecantileError
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rio_tiler.errors import RioTilerError, TileOutsideBounds

from seamline.flows.serving.limits import WorkPlaces
from seamline.flows.serving.metrics import MetricsCache
from seamline.flows.serving.pixel import describe_pixel
from seamline.flows.serving.results import POLYGONS_FILE, DamagedResult, NotFound, ServedResults
from seamline.flows.serving.tiles import LAYER_PREFIX, list_color_ramps, make_router
from seamline.flows.serving.vectors import MAX_POLYGONS, read_polygons
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import PREVIEW
from seamline.pipeline.stac.extent import Box, Interval

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


class _Problem(BaseModel):
    """What every error answers."""

    detail: str


_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": _Problem, "description": description}
    for status, description in {
        404: "There is nothing of that name or place",
        409: "The result is unfinished or damaged",
        422: "A parameter cannot be used",
        503: "The server is busy with other requests",
    }.items()
}


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
    app = FastAPI(title="Seamline", docs_url=None, redoc_url=None, openapi_url=None, responses=_ERRORS)
    for kind, status in _ERROR_STATUS.items():
        app.add_exception_handler(kind, _make_error_handler(status))
    app.add_exception_handler(RequestValidationError, _refuse_parameters)
    app.add_exception_handler(TileOutsideBounds, lambda request, error: Response(status_code=204))
    app.middleware("http")(_add_headers)
    places = [Depends(WorkPlaces(), scope="function")]
    empty: dict[int | str, dict[str, Any]] = {204: {"description": "The scene has no pixel in the tile"}}
    app.include_router(make_router(results), prefix=LAYER_PREFIX, dependencies=places, responses=empty)
    app.include_router(_make_scene_router(results), dependencies=places)

    @app.get("/", include_in_schema=False)
    def get_page() -> FileResponse:
        return FileResponse(_STATIC_FOLDER / "index.html")

    app.mount("/maplibre", StaticFiles(directory=_find_maplibre()))
    app.mount("/static", StaticFiles(directory=_STATIC_FOLDER))
    return app


def _make_scene_router(results: ServedResults) -> APIRouter:
    router, metrics = APIRouter(), MetricsCache(results.root)

    @router.get("/metrics", responses={200: {"content": {CONTENT_TYPE_LATEST: {}}}}, response_class=Response)
    def get_metrics() -> Response:
        """Return the gauges that Prometheus scrapes."""
        return Response(metrics.render(), media_type=CONTENT_TYPE_LATEST)

    @router.get("/scenes")
    def list_scenes(
        request: Request, bbox: str = "", interval: Annotated[str, Query(alias="datetime")] = ""
    ) -> dict[str, Any]:
        """Return all scenes, or those in a box and a time; without these also damaged and rejected ones, and why."""
        _refuse_other_parameters(request, {"bbox", "datetime"})
        scenes = results.find_scenes(
            Box.from_text(bbox) if bbox else None, Interval.from_text(interval) if interval else None
        )
        rejected = [] if bbox or interval else results.list_rejected()
        return {"folder": results.root.name, "scenes": scenes, "rejected": rejected, "ramps": list_color_ramps()}

    @router.get("/scenes/{scene}")
    def get_scene(scene: str) -> dict[str, Any]:
        """Return what the page shows of one scene."""
        return results.summarize_scene(scene)

    @router.get("/scenes/{scene}/preview.png", responses={200: {"content": {"image/png": {}}}}, response_class=Response)
    def get_preview(scene: str) -> FileResponse:
        """Return the picture of source and segmentation side by side."""
        return FileResponse(results.find_file(scene, PREVIEW), media_type="image/png")

    @router.get("/scenes/{scene}/pixel")
    def get_pixel(
        scene: str,
        lon: Annotated[float, Query(ge=-540, le=540, allow_inf_nan=False)],
        lat: Annotated[float, Query(ge=-90, le=90, allow_inf_nan=False)],
    ) -> dict[str, Any]:
        """Return class and layers at a location (degrees, WGS 84)."""
        return describe_pixel(results, scene, lon, lat)

    @router.get("/scenes/{scene}/polygons", response_class=JSONResponse)
    def get_polygons(
        scene: str, bbox: str, limit: Annotated[int, Query(ge=1, le=MAX_POLYGONS)] = MAX_POLYGONS
    ) -> Response:
        """Return the polygons that intersect ``bbox`` (west,south,east,north; west > east across the antimeridian)."""
        box, path = Box.from_text(bbox), results.find_file(scene, POLYGONS_FILE)
        bounds = results.open_item(scene).bbox
        return Response(read_polygons(path, box, Box(*bounds) if bounds else box, limit), media_type="application/json")

    return router


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


def _refuse_parameters(request: Request, error: Exception) -> JSONResponse:
    """Say in one sentence which parameters cannot be used."""
    assert isinstance(error, RequestValidationError)
    problems = [f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors()]
    return JSONResponse({"detail": "; ".join(problems)}, 422)


async def _add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Forbid the page to load from other hosts, and have browsers ask again for files that a run may overwrite."""
    response = await call_next(request)
    response.headers["Content-Security-Policy"] = _CONTENT_SECURITY_POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-cache")
    return response
