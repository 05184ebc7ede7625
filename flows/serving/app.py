"""The routes of the web map: page, scenes, tiles, pixels, polygons, metrics. Only GET; nothing is written."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import version as find_version
from pathlib import Path as FilePath
from typing import Annotated, Any
from zlib import crc32

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from morecantile.errors import MorecantileError
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from pystac import MediaType
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rio_tiler.errors import RioTilerError, TileOutsideBounds

from seamline.flows.serving.limits import WorkPlaces
from seamline.flows.serving.map_history import make_map_router
from seamline.flows.serving.metrics import MetricsCache
from seamline.flows.serving.pages import Basemap, add_pages, build_security_policy
from seamline.flows.serving.pixel import describe_pixel
from seamline.flows.serving.results import POLYGONS_FILE, SCENE_FILES, DamagedResult, NotFound, ServedResults
from seamline.flows.serving.tiles import LAYER_PREFIX, SceneId, list_color_ramps, make_router
from seamline.flows.serving.vectors import MAX_POLYGONS, read_polygons
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import CATALOG, COLLECTION, ITEMS, PREVIEW, ZARR
from seamline.pipeline.stac.catalog import build_catalog
from seamline.pipeline.stac.extent import Box, Interval

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

_FILE_SECURITY_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; sandbox allow-downloads"
)
"""Of files of results: a report runs no script and is nobody's origin, whatever is in it."""
_SHOWN_TYPES = {str(kind) for kind in (MediaType.HTML, MediaType.PNG, MediaType.JSON, MediaType.GEOJSON)}
"""Types of files that a browser shows; others are downloaded."""
_JSON = str(MediaType.JSON)
_PARQUET = str(MediaType.VND_APACHE_PARQUET)
_STORE_TYPES: dict[str, Any] = {_JSON: {}, "application/octet-stream": {}}

_DESCRIPTION = (
    "A folder of segmented scenes: what the page of the map is made of, for other programs. Only GET; nothing is "
    "written. Errors answer JSON with one sentence, `detail`."
)
_TAGS = {
    "Scenes": "What there is, and what a pixel is",
    "Maps": "What a pixel of a map of many scenes was in each period, and which scenes say so",
    "Tiles": "Layers of a scene as tiles in Web Mercator",
    "STAC": "The static STAC catalogue and the files of the scenes",
    "Operation": "What Seamline does",
}
_BOX = "West,south,east,north in degrees (WGS 84); west > east across the antimeridian."
_INTERVAL = "A time, `FROM/TO`, `FROM/..` or `../TO` (ISO 8601); 2026 and 2026-06 are a whole year and month."
_RANGE_ERRORS = {
    400: "the header `Range` cannot be read; ask for bytes=FIRST-LAST, or leave it out",
    416: "the header `Range` asks for bytes behind the end of the file, whose size `Content-Range` says",
}
"""What is wrong with a request that is answered by one of these statuses, which no route gives for anything else."""

_Middleware = Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]]


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


_PARTS: dict[int | str, dict[str, Any]] = {
    206: {"description": "The part that `Range` asks for"},
    **{
        status: {"model": _Problem, "description": text[0].upper() + text[1:]} for status, text in _RANGE_ERRORS.items()
    },
}
"""Answers of routes that send a file."""


def create_app(root: FilePath, allow_empty: bool = False, basemap: Basemap | None = None) -> FastAPI:
    """Return the app that serves the catalogue in ``root``.

    Args:
        root: Folder of the catalogue.
        allow_empty: Serve a folder without a catalogue, or one that does not exist yet, as an empty catalogue.
        basemap: A background map that the page loads from another server.

    Raises:
        InputError: There is no catalogue, or MapLibre is not installed.
    """
    results = ServedResults.from_folder(root, allow_empty)
    app = FastAPI(
        title="Seamline",
        version=find_version("seamline"),
        description=_DESCRIPTION,
        openapi_tags=[{"name": name, "description": text} for name, text in _TAGS.items()],
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        responses=_ERRORS,
    )
    for kind, status in _ERROR_STATUS.items():
        app.add_exception_handler(kind, _make_error_handler(status))
    app.add_exception_handler(RequestValidationError, _refuse_parameters)
    app.add_exception_handler(TileOutsideBounds, lambda request, error: Response(status_code=204))
    app.middleware("http")(_make_header_setter(build_security_policy(basemap)))
    places = [Depends(WorkPlaces(), scope="function")]
    empty: dict[int | str, dict[str, Any]] = {204: {"description": "The scene has no pixel in the tile"}}
    app.include_router(_make_scene_router(results, basemap), dependencies=places, tags=["Scenes"])
    app.include_router(make_map_router(results), dependencies=places, tags=["Maps"])
    app.include_router(make_router(results), prefix=LAYER_PREFIX, dependencies=places, responses=empty, tags=["Tiles"])
    app.include_router(_make_stac_router(results), prefix="/stac", dependencies=places, tags=["STAC"])
    app.include_router(_make_metrics_router(results), dependencies=places, tags=["Operation"])
    add_pages(app)
    return app


def _make_metrics_router(results: ServedResults) -> APIRouter:
    router, metrics = APIRouter(), MetricsCache(results.root)

    @router.get("/metrics", responses={200: {"content": {CONTENT_TYPE_LATEST: {}}}}, response_class=Response)
    def get_metrics() -> Response:
        """Return the gauges that Prometheus scrapes."""
        return Response(metrics.render(), media_type=CONTENT_TYPE_LATEST)

    return router


def _make_scene_router(results: ServedResults, basemap: Basemap | None) -> APIRouter:
    router, settings = APIRouter(), {"ramps": list_color_ramps(), "basemap": basemap and basemap.describe()}

    @router.get("/scenes", responses={304: {"description": "Nothing has changed since `If-None-Match`"}})
    def list_scenes(
        request: Request,
        response: Response,
        bbox: Annotated[str, Query(description=_BOX)] = "",
        interval: Annotated[str, Query(alias="datetime", description=_INTERVAL)] = "",
    ) -> Any:
        """Return all scenes, or those in a box and a time; without these also damaged and rejected ones, and why.

        The `ETag` of the answer changes whenever a scene is published, replaced, withdrawn or rejected, so that
        `If-None-Match` makes it cheap to ask again.
        """
        _refuse_other_parameters(request, {"bbox", "datetime"})
        found = results.find_scenes(
            Box.from_text(bbox) if bbox else None, Interval.from_text(interval) if interval else None
        )
        rejected = [] if bbox or interval else results.list_rejected()
        response.headers["ETag"] = tag = f'"{found.tag}-{crc32(repr(rejected).encode()):x}"'
        if request.headers.get("If-None-Match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        return {"folder": results.root.name, "scenes": found.scenes, "rejected": rejected, **settings}

    @router.get("/scenes/{scene}")
    def get_scene(scene: SceneId) -> dict[str, Any]:
        """Return what the page shows of one scene: time, place, shares of the classes, layers, and its files."""
        return results.summarize_scene(scene) | {"files": results.list_files(scene)}

    @router.get(
        "/scenes/{scene}/preview.png",
        responses={200: {"content": {"image/png": {}}}, **_PARTS},
        response_class=Response,
    )
    def get_preview(scene: SceneId) -> FileResponse:
        """Return the picture of source and segmentation side by side."""
        return FileResponse(results.find_file(scene, PREVIEW), media_type="image/png")

    @router.get("/scenes/{scene}/pixel")
    def get_pixel(
        scene: SceneId,
        lon: Annotated[float, Query(ge=-540, le=540, allow_inf_nan=False, description="Degrees east, WGS 84.")],
        lat: Annotated[float, Query(ge=-90, le=90, allow_inf_nan=False, description="Degrees north, WGS 84.")],
    ) -> dict[str, Any]:
        """Return class, layers and outline of the pixel at a location."""
        return describe_pixel(results, scene, lon, lat)

    @router.get("/scenes/{scene}/polygons", response_class=JSONResponse)
    def get_polygons(
        scene: SceneId,
        bbox: Annotated[str, Query(description=_BOX)],
        limit: Annotated[int, Query(ge=1, le=MAX_POLYGONS, description="Most polygons to return.")] = MAX_POLYGONS,
    ) -> Response:
        """Return the polygons that intersect a box, as GeoJSON; `truncated` is true where some are left out."""
        box, path = Box.from_text(bbox), results.find_file(scene, POLYGONS_FILE)
        bounds = results.open_item(scene).bbox
        return Response(read_polygons(path, box, Box(*bounds) if bounds else box, limit), media_type="application/json")

    return router


def _make_stac_router(results: ServedResults) -> APIRouter:
    """Return the routes of the static STAC catalogue: links in it are relative, and lead to these routes."""
    router = APIRouter()

    @router.get(f"/{CATALOG}")
    def get_catalog() -> dict[str, Any]:
        """Return the STAC catalogue, which links the items of all scenes that are whole."""
        return build_catalog(scene["id"] for scene in results.summarize_scenes().scenes if "problem" not in scene)

    @router.get(f"/{COLLECTION}", responses={200: {"content": {_JSON: {}}}, **_PARTS}, response_class=Response)
    def get_collection() -> FileResponse:
        """Return the STAC collection of the items, with extent and summaries."""
        return FileResponse(results.find_catalog_file(COLLECTION), media_type=_JSON)

    @router.get(f"/{ITEMS}", responses={200: {"content": {_PARQUET: {}}}, **_PARTS}, response_class=Response)
    def get_table() -> FileResponse:
        """Return the table of all items (stac-geoparquet)."""
        return FileResponse(results.find_catalog_file(ITEMS), media_type=_PARQUET, filename=ITEMS)

    @router.get(
        f"/{{scene}}/{ZARR}/{{key:path}}", responses={200: {"content": _STORE_TYPES}, **_PARTS}, response_class=Response
    )
    def get_store_file(
        scene: SceneId, key: Annotated[str, Path(description="Key in the store: `zarr.json`, `segmentation/c/0/0`.")]
    ) -> FileResponse:
        """Return a file of a scene's Zarr store, which zarr and xarray open by the address of the store."""
        path = results.find_store_file(scene, key)
        kind = _JSON if path.suffix == ".json" or path.name[0] == "." else "application/octet-stream"
        return FileResponse(path, media_type=kind, headers={"Content-Security-Policy": _FILE_SECURITY_POLICY})

    kinds: dict[str, Any] = {str(file.media_type): {} for file in SCENE_FILES.values()}

    @router.get(
        "/{scene}/{name}",
        responses={200: {"content": kinds}, **_PARTS},
        response_class=Response,
    )
    def get_file(
        scene: SceneId,
        name: Annotated[str, Path(description="Name of a file of the scene: `item.json`, `segmentation.tif`.")],
    ) -> FileResponse:
        """Return a file of a scene: its STAC item, a raster, polygons, the report.

        `Range` takes parts, so that GDAL and QGIS read a COG from here without a download (`/vsicurl/`).
        """
        if name not in SCENE_FILES:
            raise NotFound(f"scene {scene} has no {name[:80]}")
        path, kind = results.find_file(scene, name), str(SCENE_FILES[name].media_type)
        shows = "inline" if kind in _SHOWN_TYPES else "attachment"
        return FileResponse(
            path,
            media_type=kind,
            filename=f"{scene}_{name}",
            content_disposition_type=shows,
            headers={"Content-Security-Policy": _FILE_SECURITY_POLICY},
        )

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


def _make_error_handler(status: int) -> Callable[[Request, Exception], JSONResponse]:
    return lambda request, error: JSONResponse({"detail": " ".join(str(error).split())}, status)


def _refuse_parameters(request: Request, error: Exception) -> JSONResponse:
    """Say in one sentence which parameters cannot be used."""
    assert isinstance(error, RequestValidationError)
    problems = [f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors()]
    return JSONResponse({"detail": "; ".join(problems)}, 422)


def _make_range_error(response: Response) -> JSONResponse:
    detail, size = _RANGE_ERRORS[response.status_code], response.headers.get("Content-Range")
    return JSONResponse({"detail": detail}, response.status_code, headers={"Content-Range": size} if size else None)


def _make_header_setter(policy: str) -> _Middleware:
    """Return what forbids pages to load from other hosts, and has browsers ask again for files that may change."""

    async def add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        if response.status_code in _RANGE_ERRORS:  # which Starlette answers as text
            response = _make_range_error(response)
        response.headers.setdefault("Content-Security-Policy", policy)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers.setdefault("Cache-Control", "no-cache")
        return response

    return add_headers
