"""The plan of a map: its scenes, its grid, and what is to be computed. ``seamline mosaic --plan`` shows it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import shapely
import shapely.geometry
from odc.geo.crs import CRS
from pyproj.exceptions import CRSError

from seamline.flows.maps.options import MosaicOptions
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import MAP_STORE, ZARR
from seamline.pipeline.fusion.map_folder import is_whole, name_period
from seamline.pipeline.geometry.map_grid import MapGrid
from seamline.pipeline.mosaic.changes import PeriodChanges, find_changes
from seamline.pipeline.mosaic.map_record import (
    MapClass,
    MapDefinition,
    MapExtent,
    MapRecord,
    name_crs,
    read_map_record,
    refuse_other_definition,
)
from seamline.pipeline.mosaic.periods import ALL, PeriodRule
from seamline.pipeline.mosaic.selection import SceneChoice, Selection, select_scenes
from seamline.pipeline.products.seal import has_sealed_content, is_sealed
from seamline.pipeline.scenes.aoi import read_area
from seamline.pipeline.storage.object_store import ObjectFolder


@dataclass(frozen=True)
class MapPlan:
    """What is to be done for a map.

    Attributes:
        folder: absolute path of the map.
        old: record of the map as it is; None if there is none, or it is to be made anew.
        record: record of the map as it is to be.
        periods: what is to be done with the chunks of each period, by the names of the periods.
        withdrawn: names of the periods that the map no longer has.
        warnings: what was left out or assumed, a line each.
    """

    folder: Path
    old: MapRecord | None
    record: MapRecord
    periods: Mapping[str, PeriodChanges]
    withdrawn: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the map: that of its folder."""
        return self.folder.name

    @property
    def chunk_count(self) -> int:
        """Number of chunks that are to be computed, of all periods."""
        return sum(len(changes.computed) for changes in self.periods.values())

    def is_period_unchanged(self, period: str) -> bool:
        """Return whether the files of a period can stay as they are: same scenes, same grid, and all of them there."""
        old, new, folder = self.old, self.record, self.folder / name_period(self.name, period)
        return (
            old is not None
            and old.grid == new.grid
            and old.periods.get(period) == new.periods[period]
            and is_whole(folder)
            and is_sealed(folder / ZARR)
        )

    @property
    def is_done(self) -> bool:
        """Whether the map is already as it is to be."""
        has_store = self.record.definition.period == ALL.name or is_sealed(self.folder / MAP_STORE)
        is_same = self.old is not None and self.old.skipped == self.record.skipped and not self.withdrawn
        return is_same and has_store and all(map(self.is_period_unchanged, self.record.periods))

    def find_kept_store(self, period: str) -> Path | None:
        """Return the store of a period of the map as it is, whose chunks are taken over; None if it cannot be used.

        All of it is read: what is damaged is computed anew.
        """
        store = self.folder / name_period(self.name, period) / ZARR
        return store if self.periods[period].kept and is_sealed(store) and has_sealed_content(store) else None


def plan_map(
    catalogue: Path | ObjectFolder,
    folder: Path,
    options: MosaicOptions,
    damaged: Mapping[str, str] = MappingProxyType({}),
) -> MapPlan:
    """Find out what is to be done for a map; no pixel is read.

    Args:
        catalogue: folder of the catalogue of the scenes, local or in object storage.
        folder: absolute path of the map.
        options: what the map is.
        damaged: why scenes cannot be read that look whole, by their ids, as a run has found out.

    Raises:
        InputError: the scenes cannot be fused, or the folder holds another map or something else.
    """
    crs = _parse_crs(options.crs)
    area = _read_area(options, crs)
    rule = PeriodRule.parse(options.period)
    # Refuses resolution and bounds before any scene is looked at.
    grid = None if area is None else MapGrid.from_bounds(crs, options.resolution, area.bounds)
    choice = SceneChoice(
        rule, crs, area, options.where, options.model, options.unseen, options.labels, options.on_bad_scene, damaged
    )
    selection = select_scenes(catalogue, choice)
    definition = _define_map(options, crs, area, selection)
    if grid is None:
        grids = (scene.grid.geobox for scenes in selection.periods.values() for scene in scenes)
        grid = MapGrid.from_scenes(crs, options.resolution, grids)
    if options.polygon_options is not None:
        options.polygon_options.check_grid(grid.geobox)
    extent = MapExtent(left=grid.left, top=grid.top, width=grid.width, height=grid.height)
    record = MapRecord(definition=definition, grid=extent, periods=dict(selection.periods), skipped=selection.skipped)
    old = None if options.overwrite else read_map_record(folder)
    if old is not None:
        refuse_other_definition(folder, old.definition, definition)
    changes = find_changes(old, record)
    return MapPlan(folder, old, record, changes.periods, changes.withdrawn, selection.warnings)


def _parse_crs(text: str) -> CRS:
    try:
        return CRS(text)
    except (CRSError, ValueError, TypeError) as error:
        raise InputError(
            "--crs", got=text, expected="a CRS that PROJ knows", fix="correct it; for example EPSG:32632"
        ) from error


def _read_area(options: MosaicOptions, crs: CRS) -> shapely.Polygon | shapely.MultiPolygon | None:
    """Return where the map is to be, in its CRS; None where the scenes decide."""
    if options.bounds is not None:
        left, bottom, right, top = options.bounds
        if not (all(map(math.isfinite, options.bounds)) and left < right and bottom < top):
            raise InputError(
                "--bounds",
                got=",".join(f"{side:g}" for side in options.bounds),
                expected="left, bottom, right, top in the CRS of the map, left below right, bottom below top",
                fix="correct it",
            )
        return shapely.box(left, bottom, right, top)
    return None if options.aoi is None else read_area(options.aoi, crs)


def _define_map(
    options: MosaicOptions, crs: CRS, area: shapely.Polygon | shapely.MultiPolygon | None, selection: Selection
) -> MapDefinition:
    aoi = None if area is None or options.bounds is not None else shapely.geometry.mapping(area)
    return MapDefinition(
        crs=name_crs(crs),
        resolution=options.resolution,
        bounds=options.bounds,
        aoi=aoi,
        period=options.period,
        where=options.where,
        model=selection.model,
        model_digest=selection.model_digest,
        classes=tuple(map(MapClass.from_label_class, selection.classes)),
        unseen=selection.unseen,
        labels_allowed=options.labels,
        outputs=options.outputs,
    )
