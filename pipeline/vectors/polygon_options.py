"""Which polygons a run writes: formats and rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from odc.geo.geobox import GeoBox

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import POLYGON_FILES
from seamline.pipeline.geometry.pixel_area import measure_pixel_areas
from seamline.pipeline.vectors.web_mercator import check_web_mercator


@dataclass(frozen=True)
class PolygonRules:
    """What is done to the regions of a raster before they are written.

    Attributes:
        min_area: regions smaller than this, in m², join a neighbour (``sieve.py``). 0: none do.
        simplify: in pixels; corners are removed whose triangle is smaller than the square of it (``simplify.py``).
            0: all corners are kept.
    """

    min_area: float = 0
    simplify: float = 0

    def __post_init__(self) -> None:
        for value in (self.min_area, self.simplify):
            if not 0 <= value < float("inf"):
                raise ValueError(f"expected numbers from 0, got {self}")


@dataclass(frozen=True)
class PolygonOptions:
    """Which files of polygons a run writes, and by which rules.

    Attributes:
        formats: keys of ``POLYGON_FILES``.
        rules: what is done to the regions.
    """

    formats: tuple[str, ...] = ("parquet", "fgb", "gpkg")
    rules: PolygonRules = PolygonRules()

    def __post_init__(self) -> None:
        if not self.formats or set(self.formats) - set(POLYGON_FILES):
            raise ValueError(f"expected some of {tuple(POLYGON_FILES)}, got {self.formats}")

    @property
    def files(self) -> list[str]:
        """Names of the files."""
        return [POLYGON_FILES[kind] for kind in self.formats]

    def check_grid(self, grid: GeoBox) -> None:
        """Check that a scene can have these polygons; a run does so before any inference.

        Args:
            grid: grid of the scene.

        Raises:
            InputError: the rules have a minimum area, but the CRS of the grid does not say how large a pixel is; or
                PMTiles are wanted, and the scene has no place in Web Mercator.
        """
        if self.rules.min_area > 0 and measure_pixel_areas(grid) is None:
            raise InputError(
                "--polygon-min-area",
                got="a scene whose pixels have no known area",
                expected="a projected or geographic CRS",
                fix="leave it out",
            )
        if "pmtiles" in self.formats:
            check_web_mercator(grid)

    def follow(self, rules: Mapping[str, float] | None) -> bool:
        """Return whether these are the rules that the record of a run says its polygons were made by."""
        return rules == asdict(self.rules)
