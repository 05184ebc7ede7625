"""Tiles of Web Mercator, drawn by titiler: only the layers of a scene, only from GeoTIFFs below the root."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import morecantile
import numpy as np
import rasterio
from affine import Affine
from fastapi import APIRouter, Depends, Query, Request
from matplotlib import colormaps
from matplotlib.colors import to_hex
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
from seamline.pipeline.products.layers import LAYER_SCALE, LAYERS, Layer

LAYER_PREFIX = "/scenes/{scene}/layers/{layer}"
TILE_SIZE = 512
_MAX_ZOOM = 24
_EXTRA_ZOOMS = 2
"""Zooms beyond the one whose pixels are as large as the scene's: there the nearest one makes some wider than others."""
_RAMP_STOPS = (0.0, 0.25, 0.5, 0.75, 1.0)
_EARTH_RADIUS = 6_378_137
"""Metres, of Web Mercator's sphere."""
_MAX_LATITUDE = 85.06
"""Degrees, of Web Mercator's square."""
LayerName = Literal["segmentation", "overview", "confidence", "disagreement"]
Palette = dict[int, tuple[int, int, int, int]]

GDAL_SINGLE_FILE = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}
"""For GDAL: look at no file beside the one that is opened; it could be a link to anywhere."""


@contextmanager
def open_geotiff(path: Path | str) -> Iterator[DatasetReader]:
    """A GeoTIFF and nothing else, since other formats may name other files."""
    with rasterio.Env(**GDAL_SINGLE_FILE), rasterio.open(path, driver="GTiff") as dataset:
        yield dataset


class GeoTiffReader(Reader):
    """rio-tiler's reader of what ``open_cached_raster`` opens, which may lie across the antimeridian."""

    def __attrs_post_init__(self) -> None:
        self.dataset = self._ctx_stack.enter_context(open_geotiff(str(self.input)))
        super().__attrs_post_init__()  # type: ignore[no-untyped-call]

    @property
    def maxzoom(self) -> int:
        """Where a pixel of the scene is several of a tile, so that it has its shape.

        The smallest of those in its middle and corners count: from edge to edge a scene across the antimeridian would
        be as wide as the world, and at a pole pixels have no size. What lies beyond Web Mercator's square counts as if
        it lay at its edge.
        """
        right, down = np.array([[0.0], [1], [0]]), np.array([[0.0], [0], [1]])
        cols, rows = self.width * np.array([0.5, 0, 1, 0, 1]), self.height * np.array([0.5, 0, 0, 1, 1])
        grid: Affine = self.transform
        places = grid @ (cols + right, rows + down)
        if self.crs.is_geographic:
            lon, lat = places
            edge = lat[0].clip(-_MAX_LATITUDE, _MAX_LATITUDE)
            places = lon, (lat - lat[0] + edge).clip(-89, 89)  # PROJ knows no place of a pole
        seen = transform(self.crs, self.tms.rasterio_crs, *(part.ravel() for part in places))
        x, y = (np.reshape(part, (3, -1)) for part in seen)
        around = 2 * np.pi * _EARTH_RADIUS
        sides = np.hypot((x[1:] - x[0] + around / 2) % around - around / 2, y[1:] - y[0])
        sides = sides[np.isfinite(sides) & (sides > 0)]
        as_large = self.tms.zoom_for_res(float(sides.min())) if sides.size else int(super().maxzoom)
        return min(as_large + _EXTRA_ZOOMS, _MAX_ZOOM)

    def get_geographic_bounds(self, crs: CRS) -> tuple[float, float, float, float]:
        """All around the world across the antimeridian, where bounds of tiles may not wrap (TileJSON 3.0)."""
        west, south, east, north = super().get_geographic_bounds(crs)
        return (west, south, east, north) if -180 <= west < east <= 180 else (-180.0, south, 180.0, north)

    def tile(self, tile_x: int, tile_y: int, tile_z: int, **options: Any) -> ImageData:  # type: ignore[override]
        """As rio-tiler's, and what a grid in degrees has on the other side of the antimeridian."""
        try:
            return super().tile(tile_x, tile_y, tile_z, **options)
        except TileOutsideBounds:
            west, _, east, _ = self.bounds
            if not self.crs.is_geographic or -180 <= west < east <= 180:
                raise
            there = Affine.translation(360 if west < -180 else -360, 0) @ self.transform
            placed = {"crs": self.crs, "transform": there, "width": self.width, "height": self.height}
            with WarpedVRT(self.dataset, src_transform=there, **placed) as moved:
                return Reader(None, dataset=moved).tile(tile_x, tile_y, tile_z, **options)


class TileEndpoints(TilerFactory):
    """Of titiler's endpoints those that a map needs."""

    def register_routes(self) -> None:
        """``tiles/WebMercatorQuad/{z}/{x}/{y}`` and ``WebMercatorQuad/tilejson.json``."""
        self.tile()  # type: ignore[no-untyped-call]
        self.tilejson()  # type: ignore[no-untyped-call]


@dataclass
class _ResamplingOptions(DefaultDependency):
    """Labels are never mixed; a picture looks better when it is. rio-tiler's words for GDAL's two resamplings."""

    resampling_method: str = "nearest"
    reproject_method: str = "nearest"


def make_router(results: ServedResults) -> APIRouter:
    """Routes below ``LAYER_PREFIX``."""
    palettes = {name: _make_palette(layer) for name, layer in LAYERS.items() if not layer.per_class}

    def path(scene: str, layer: LayerName) -> str:
        if not results.item(scene).has_location:
            raise NotFound(f"scene {scene} has no place on Earth")
        return str(results.file(scene, LAYER_FILES[layer]))

    def colors(layer: LayerName) -> Palette | None:
        return palettes.get(layer)  # labels have theirs in the file

    def resampling(layer: LayerName) -> _ResamplingOptions:
        return _ResamplingOptions("bilinear", "bilinear") if layer == "overview" else _ResamplingOptions()

    web = morecantile.defaults.TileMatrixSets({"WebMercatorQuad": morecantile.tms.get("WebMercatorQuad")})
    tiles = TileEndpoints(
        router=APIRouter(dependencies=[Depends(_check_tile_request)]),
        router_prefix=LAYER_PREFIX,
        reader=GeoTiffReader,
        supported_tms=web,
        path_dependency=path,
        colormap_dependency=colors,
        dataset_dependency=resampling,  # type: ignore[arg-type]  # a function will do
        environment_dependency=lambda: GDAL_SINGLE_FILE,
        # Nothing else can be asked for.
        process_dependency=lambda: None,
        layer_dependency=DefaultDependency,
        tile_dependency=DefaultDependency,
        render_dependency=DefaultDependency,
    )
    return tiles.router


def _check_tile_request(request: Request, tilesize: Annotated[int, Query(ge=64, le=1024)] = TILE_SIZE) -> None:
    """A tile is small, whoever asks, and one that Web Mercator has."""
    z, x, y = (request.path_params.get(name, "0") for name in "zxy")
    if not all(part.isdecimal() and len(part) < 9 for part in (z, x, y)) or int(z) > _MAX_ZOOM:
        raise NotFound(f"there is no tile {z[:9]}/{x[:9]}/{y[:9]}")


def list_color_ramps() -> dict[str, dict[str, Any]]:
    """How the layers are drawn, for a legend: colours from 0 to the brightest value, and that."""
    return {
        name: {
            "brightest": layer.brightest,
            "colors": [to_hex(color) for color in colormaps[layer.colormap](_RAMP_STOPS)],
        }
        for name, layer in LAYERS.items()
        if not layer.per_class
    }


def _make_palette(layer: Layer) -> Palette:
    """A colour for each digital number of a quantised layer."""
    steps = np.clip(np.arange(256) * LAYER_SCALE / layer.brightest, 0, 1)
    found = (colormaps[layer.colormap](steps) * 255).round().astype(int).tolist()
    return {number: tuple(color) for number, color in enumerate(found)} | {NODATA: (0, 0, 0, 0)}
