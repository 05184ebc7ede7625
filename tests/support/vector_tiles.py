"""PMTiles of polygons, as GDAL reads them: one tile at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pmtiles.reader import MmapSource, Reader, all_tiles
from pyproj import Transformer

EARTH = 40075016.685578488
UNITS = 4096


@dataclass(frozen=True)
class TileFile:
    """A file of tiles."""

    path: Path

    @cached_property
    def places(self) -> dict[int, list[tuple[int, int]]]:
        """Column and row of the tiles of each zoom."""
        found: dict[int, list[tuple[int, int]]] = {}
        with self.path.open("rb") as file:
            for (zoom, col, row), _ in all_tiles(MmapSource(file)):
                found.setdefault(zoom, []).append((col, row))
        return found

    @cached_property
    def header(self) -> dict[str, Any]:
        with self.path.open("rb") as file:
            return dict(Reader(MmapSource(file)).header())

    @cached_property
    def metadata(self) -> dict[str, Any]:
        with self.path.open("rb") as file:
            return dict(Reader(MmapSource(file)).metadata())

    @property
    def zoom(self) -> int:
        return max(self.places)

    def read(self, zoom: int, col: int, row: int) -> tuple[NDArray[np.object_], dict[str, NDArray[Any]]]:
        """Polygons of a tile with its buffer, in whole units of the tile, y to the south; and their fields.

        GDAL's own clip at the edge of the tile loses some polygons (3.12), so it is left out.
        """
        address = f"MVT:/vsipmtiles/{self.path.absolute()}/{zoom}/{col}/{row}.mvt"
        meta, _, geometries, columns = pyogrio.raw.read(address, CLIP="NO")
        unit = EARTH / (1 << zoom) / UNITS
        left, top = col * UNITS * unit - EARTH / 2, EARTH / 2 - row * UNITS * unit

        def to_tile(points: NDArray[np.float64]) -> NDArray[np.float64]:
            places: NDArray[np.float64] = np.rint(np.column_stack([points[:, 0] - left, top - points[:, 1]]) / unit)
            return places

        return shapely.transform(shapely.from_wkb(geometries), to_tile), dict(zip(meta["fields"], columns, strict=True))

    def read_inner(self, zoom: int, col: int, row: int) -> tuple[NDArray[np.object_], dict[str, NDArray[Any]]]:
        """The same, without the buffer."""
        polygons, fields = self.read(zoom, col, row)
        return shapely.intersection(polygons, shapely.box(0, 0, UNITS, UNITS)), fields


def project(degrees: NDArray[np.float64], zoom: int) -> NDArray[np.float64]:
    """Longitudes and latitudes (n, 2) in units of a zoom (n, 2), by the formula of the sphere."""
    longitude, latitude = np.radians(degrees.T)
    y = np.log(np.tan(np.pi / 4 + latitude / 2))
    return np.column_stack([longitude / np.pi + 1, 1 - y / np.pi]) / 2 * (UNITS << zoom)


def locate(grid: GeoBox, zoom: int, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> NDArray[np.float64]:
    """Units of centres of pixels at a zoom."""
    x, y = grid.transform * (cols + 0.5, rows + 0.5)
    longitude, latitude = Transformer.from_crs(grid.crs.proj, "EPSG:4326", always_xy=True).transform(x, y)
    return project(np.column_stack([(longitude + 180) % 360 - 180, latitude]), zoom)


def find_classes(file: TileFile, zoom: int, points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Class of the polygon at places in units of a zoom; -1 without one, -2 where there are several."""
    found = np.full(len(points), -1)
    tiles = np.floor(points / UNITS).astype(int)
    for col, row in file.places[zoom]:
        inside = np.flatnonzero((tiles == (col, row)).all(axis=1))
        polygons, fields = file.read(zoom, col, row)
        hits, which = (
            shapely.STRtree(polygons)
            .query(shapely.points(points[inside] - np.array([col, row]) * UNITS), predicate="within")
            .tolist()
        )
        found[inside[hits]] = fields["class"][which]
        twice, count = np.unique(hits, return_counts=True)
        found[inside[twice[count > 1]]] = -2
    return found
