"""Draw the layers of a scene as Web Mercator tiles with titiler, from its GeoTIFFs only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import morecantile
import numpy as np
import rasterio
from affine import Affine
from fastapi import APIRouter, Depends, Query, Request
from fastapi import Path as PathParameter
from fastapi.routing import APIRoute
from matplotlib import colormaps
from matplotlib.colors import to_hex
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform
from rio_tiler.errors import TileOutsideBounds
from rio_tiler.io import Reader
from rio_tiler.models import ImageData
from titiler.core.dependencies import DefaultDependency
from titiler.core.factory import TilerFactory

from seamline.flows.serving.results import LAYER_FILES, NotFound, ServedResults
from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.products.layers import LAYERS, Layer

LAYER_PREFIX = "/scenes/{scene}/layers/{layer}"
_TILE_SIZE = 512
_MAX_ZOOM = 24
_EXTRA_ZOOMS = 2
"""Zooms beyond the one whose pixels have the scene's size.

At that zoom nearest neighbour draws some of the scene's pixels wider than others; two zooms further they look alike.
"""
_RAMP_STOPS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where a legend samples a layer's colour map."""
_EARTH_RADIUS = 6_378_137
"""Radius of Web Mercator's sphere in metres (EPSG:3857)."""
_MAX_LATITUDE = 85.06
"""Latitude at the edge of Web Mercator's square, in degrees."""
SceneId = Annotated[str, PathParameter(description="Id of a scene: the name of its folder.")]
_LayerName = Annotated[
    Literal["segmentation", "overview", "confidence", "disagreement", "agreement", "observations", "last_date"],
    PathParameter(description="What to draw: the classes, the scene in colour, or another layer of the result."),
]
_HiddenClasses = Annotated[
    str,
    Query(pattern=r"^(\d{1,3}(,\d{1,3})*)?$", description="Labels of classes that are not drawn: `1` or `0,3`."),
]
_Palette = dict[int, tuple[int, int, int, int]]
"""RGBA of each digital number."""

_DESCRIPTIONS = {
    "{y}.{format}": (
        "get_tile_of_format",
        "Get Tile",
        "Return a tile of a layer as an image. QGIS takes the address, with `.png`, as an XYZ layer.",
    ),
    "{y}": ("get_tile", "Get Tile of Any Format", "Return a tile of a layer, as PNG where it has gaps, else as JPEG."),
    "tilejson.json": (
        "get_tilejson",
        "Get TileJSON",
        "Return bounds, zooms and the address of the tiles of a layer (TileJSON 3.0).",
    ),
}
"""Operation id, summary and description of titiler's routes by the end of their path."""

_GDAL_OPTIONS: dict[str, str | int] = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_CACHEMAX": 128}
"""GDAL reads no side-car file, which could be a link that leads out of the catalogue, and keeps 128 MB of blocks.

By itself it would keep a twentieth of the machine's memory.
"""


@contextmanager
def open_geotiff(path: Path | str) -> Iterator[DatasetReader]:
    """Open a GeoTIFF and no other format; some formats, such as VRT, refer to other files."""
    with rasterio.Env(**_GDAL_OPTIONS), rasterio.open(path, driver="GTiff") as dataset:
        yield dataset


class _GeoTiffReader(Reader):
    """rio-tiler's reader for files that ``open_geotiff`` opens and that may lie across the antimeridian."""

    def __attrs_post_init__(self) -> None:
        self.dataset = self._ctx_stack.enter_context(open_geotiff(str(self.input)))
        super().__attrs_post_init__()  # type: ignore[no-untyped-call]

    @property
    def maxzoom(self) -> int:
        """The zoom at which a pixel of the scene covers several pixels of a tile, so that its shape is seen."""
        sides = self._measure_pixels()
        native_zoom = self.tms.zoom_for_res(float(sides.min())) if sides.size else int(super().maxzoom)
        return min(native_zoom + _EXTRA_ZOOMS, _MAX_ZOOM)

    def _measure_pixels(self) -> NDArray[np.float64]:
        """Return the lengths in Web Mercator metres of pixels' sides, in the scene's middle and corners.

        rio-tiler divides the scene's width by its number of pixels instead. That fails for a scene across the
        antimeridian, which would be as wide as the world, and at a pole, where pixels have no size. Pixels beyond Web
        Mercator's square are measured as if they lay at its edge.
        """
        # For each of five pixels: its corner, the corner to the right and the one below (3, 5).
        right, down = np.array([[0.0], [1], [0]]), np.array([[0.0], [0], [1]])
        cols, rows = self.width * np.array([0.5, 0, 1, 0, 1]), self.height * np.array([0.5, 0, 0, 1, 1])
        grid: Affine = self.transform
        x, y = grid @ (cols + right, rows + down)
        if self.crs.is_geographic:
            edge = y[0].clip(-_MAX_LATITUDE, _MAX_LATITUDE)
            y = (y - y[0] + edge).clip(-89, 89)  # a pole has no coordinates in Web Mercator
        corners = transform(self.crs, self.tms.rasterio_crs, x.ravel(), y.ravel())
        x, y = (np.reshape(part, (3, -1)) for part in corners)
        circumference = 2 * np.pi * _EARTH_RADIUS
        across = (x[1:] - x[0] + circumference / 2) % circumference - circumference / 2
        sides: NDArray[np.float64] = np.hypot(across, y[1:] - y[0])
        return sides[np.isfinite(sides) & (sides > 0)]

    def get_geographic_bounds(self, crs: CRS) -> tuple[float, float, float, float]:
        """Return west, south, east, north; of a scene across the antimeridian the whole range of longitudes.

        Bounds in TileJSON 3.0 may not wrap around.
        """
        west, south, east, north = super().get_geographic_bounds(crs)
        return (west, south, east, north) if -180 <= west < east <= 180 else (-180.0, south, 180.0, north)

    def tile(self, tile_x: int, tile_y: int, tile_z: int, **options: Any) -> ImageData:  # type: ignore[override]
        """Read a tile, also of the part of a grid in degrees that lies beyond ±180.

        Args:
            tile_x: Column of the tile.
            tile_y: Row of the tile.
            tile_z: Zoom of the tile.
            **options: Options of rio-tiler.

        Returns:
            The tile's pixels.

        Raises:
            TileOutsideBounds: The scene has no pixel in the tile.
        """
        try:
            return super().tile(tile_x, tile_y, tile_z, **options)
        except TileOutsideBounds:
            west, _, east, _ = self.bounds
            if not self.crs.is_geographic or -180 <= west < east <= 180:
                raise
            shifted = Affine.translation(360 if west < -180 else -360, 0) @ self.transform
            grid = {"crs": self.crs, "transform": shifted, "width": self.width, "height": self.height}
            with WarpedVRT(self.dataset, src_transform=shifted, **grid) as dataset:
                return Reader(None, dataset=dataset).tile(tile_x, tile_y, tile_z, **options)


class _TileEndpoints(TilerFactory):
    """The endpoints of titiler that a map needs: tiles and TileJSON."""

    def register_routes(self) -> None:
        """Register ``tiles/WebMercatorQuad/{z}/{x}/{y}`` and ``WebMercatorQuad/tilejson.json``."""
        self.tile()  # type: ignore[no-untyped-call]
        self.tilejson()  # type: ignore[no-untyped-call]


@dataclass
class _ResamplingOptions(DefaultDependency):
    """Resampling of reading and of warping: nearest neighbour for labels, which must not be mixed."""

    resampling_method: str = "nearest"
    reproject_method: str = "nearest"


def make_router(results: ServedResults) -> APIRouter:
    """Return the routes of tiles, all below ``LAYER_PREFIX``."""
    palettes = {name: _make_palette(layer) for name, layer in LAYERS.items() if not layer.per_class}

    def find_shading(scene: SceneId, layer: _LayerName) -> Callable[[ImageData], ImageData] | None:
        if layer not in LAYERS or LAYERS[layer].dtype == "uint8":
            return None
        return partial(_shade, results.open_item(scene).find_range(LAYERS[layer]))

    def find_path(scene: SceneId, layer: _LayerName) -> str:
        if not results.open_item(scene).has_location:
            raise NotFound(f"scene {scene} has no place on Earth")
        return str(results.find_file(scene, LAYER_FILES[layer]))

    def find_palette(scene: SceneId, layer: _LayerName, hidden: _HiddenClasses = "") -> _Palette | None:
        if not hidden:
            return palettes.get(layer)  # None for the labels, whose colour table stands in the file
        if layer != "segmentation":
            raise InputError("hidden", got=f"layer {layer}", expected="classes of segmentation", fix="leave it out")
        labels = [int(label) for label in hidden.split(",")]
        colors = {label.value: (*label.color, 255) for label in results.open_item(scene).label_classes}
        return colors | dict.fromkeys([*labels, NODATA], (0, 0, 0, 0))

    def choose_resampling(layer: _LayerName) -> _ResamplingOptions:
        return _ResamplingOptions("bilinear", "bilinear") if layer == "overview" else _ResamplingOptions()

    web = morecantile.defaults.TileMatrixSets({"WebMercatorQuad": morecantile.tms.get("WebMercatorQuad")})
    tiles = _TileEndpoints(
        router=APIRouter(dependencies=[Depends(_check_tile_request)]),
        router_prefix=LAYER_PREFIX,
        reader=_GeoTiffReader,
        supported_tms=web,
        path_dependency=find_path,
        colormap_dependency=find_palette,
        dataset_dependency=choose_resampling,  # type: ignore[arg-type]  # titiler's type says class, FastAPI takes any callable
        environment_dependency=lambda: _GDAL_OPTIONS,
        process_dependency=find_shading,  # type: ignore[arg-type]  # titiler calls whatever it returns
        # The rest of titiler's parameters (expressions, algorithms, ...) is switched off.
        layer_dependency=DefaultDependency,
        tile_dependency=DefaultDependency,
        render_dependency=DefaultDependency,
    )
    for route in tiles.router.routes:
        assert isinstance(route, APIRoute)
        kind = route.path.removeprefix(LAYER_PREFIX).rpartition("/")[2]
        route.operation_id, route.summary, route.description = _DESCRIPTIONS[kind]
    return tiles.router


def _check_tile_request(
    request: Request,
    tilesize: Annotated[int, Query(ge=64, le=1024, description="Pixels a side of a tile.")] = _TILE_SIZE,
) -> None:
    """Refuse tiles that Web Mercator does not have, and sizes that would take much memory."""
    z, x, y = (request.path_params.get(name, "0") for name in "zxy")
    if not all(part.isdecimal() and len(part) < 9 for part in (z, x, y)) or int(z) > _MAX_ZOOM:
        raise NotFound(f"there is no tile {z[:9]}/{x[:9]}/{y[:9]}")


def list_color_ramps() -> dict[str, dict[str, Any]]:
    """Return how each layer is drawn, for legends: ``colors`` from the darkest value to ``brightest``, by layer.

    Where ``brightest`` is None it depends on the scene.
    """
    return {
        name: {
            "brightest": layer.brightest,
            "colors": [to_hex(color) for color in colormaps[layer.colormap](_RAMP_STOPS)],
        }
        for name, layer in LAYERS.items()
        if not layer.per_class
    }


def _make_palette(layer: Layer) -> _Palette:
    """Return the colour of each digital number of a layer, or of what ``_shade`` makes of those that have more bits."""
    low, high = layer.find_range(None) if layer.dtype == "uint8" else (0, (NODATA - 1) * layer.scale)
    shares = np.clip((np.arange(256) * layer.scale - low) / (high - low), 0, 1)
    colors = (colormaps[layer.colormap](shares) * 255).round().astype(int).tolist()
    return {number: tuple(color) for number, color in enumerate(colors)} | {NODATA: (0, 0, 0, 0)}


def _shade(limits: tuple[float, float], image: ImageData) -> ImageData:
    """Bring the values of a tile between two limits to 0…254, since titiler is fast with palettes of 256 colours only.

    Args:
        limits: values that become 0 and 254, as smaller and larger ones do.
        image: one band, whose mask stays as it is.

    Returns:
        The image itself.
    """
    low, high = limits
    shares = np.clip((image.array.data.astype(float) - low) / (high - low), 0, 1)
    image.array = np.ma.MaskedArray((shares * (NODATA - 1)).round().astype(np.uint8), image.array.mask)
    return image
