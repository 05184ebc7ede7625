"""The plan of a map: its scenes, its grid, and what is to be computed. ``seamline mosaic --plan`` shows it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import shapely
import shapely.geometry
from odc.geo.crs import CRS
from pyproj.exceptions import CRSError

from seamline.flows.maps.options import MosaicOptions
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.map_grid import MapGrid
from seamline.pipeline.maps.map_folder import name_period
from seamline.pipeline.maps.map_storage import MapStorage, WantedFiles
from seamline.pipeline.maps.publish_map import list_period_outputs, list_store_layers
from seamline.pipeline.mosaic.changes import PeriodChanges, find_changes
from seamline.pipeline.mosaic.map_record import (
    MapClass,
    MapDefinition,
    MapExtent,
    MapRecord,
    name_crs,
)
from seamline.pipeline.mosaic.periods import PeriodRule
from seamline.pipeline.mosaic.selection import SceneChoice, Selection, select_scenes
from seamline.pipeline.products.seal import has_sealed_content
from seamline.pipeline.scenes.aoi import read_area
from seamline.pipeline.storage.object_store import ObjectFolder


@dataclass(frozen=True)
class MapPlan:
    """What is to be done for a map.

    Attributes:
        storage: where the map lies.
        old: record of the map as it is; None if there is none, or it is to be made anew.
        record: record of the map as it is to be.
        periods: what is to be done with the chunks of each period, by the names of the periods.
        unchanged: names of the periods whose files stay as they are: same scenes, grid and outputs, and none is lost.
        withdrawn: names of the periods that the map no longer has.
        is_whole: whether what the map has beside its periods is there.
        warnings: what was left out or assumed, a line each.
    """

    storage: MapStorage
    old: MapRecord | None
    record: MapRecord
    periods: Mapping[str, PeriodChanges]
    unchanged: frozenset[str]
    withdrawn: tuple[str, ...]
    is_whole: bool
    warnings: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Absolute path of the map, or of the working folder of a map in object storage."""
        return self.storage.folder

    @property
    def name(self) -> str:
        """Name of the map: that of its folder."""
        return self.folder.name

    @property
    def chunk_count(self) -> int:
        """Number of chunks that are to be computed, of all periods."""
        return sum(len(changes.computed) for changes in self.periods.values())

    @property
    def is_done(self) -> bool:
        """Whether the map is already as it is to be."""
        is_same = self.old is not None and self.old.skipped == self.record.skipped and not self.withdrawn
        return is_same and self.is_whole and self.unchanged == self.record.periods.keys()

    @property
    def rewritten(self) -> tuple[str, ...]:
        """Names of the periods of which files are made anew although no chunk is computed: some are lost, or others."""
        return tuple(name for name, found in self.periods.items() if name not in self.unchanged and not found.computed)

    def find_kept_store(self, period: str) -> Path | None:
        """Return the store of a period of the map as it is, whose chunks are taken over; None if it cannot be used.

        All of it is read: what is damaged is computed anew.
        """
        store = self.storage.find_store(name_period(self.name, period)) if self.periods[period].kept else None
        return store if store is not None and has_sealed_content(store) else None


@dataclass(frozen=True)
class _Files:
    """The files of a map that are there, beside those that are wanted.

    Attributes:
        storage: where the map lies.
        options: what is wanted.
        old: record of the map as it is.
        new: record of the map as it is to be.
    """

    storage: MapStorage
    options: MosaicOptions
    old: MapRecord | None
    new: MapRecord

    def find_unusable(self) -> dict[str, str]:
        """Return why nothing can be taken over of some periods, by their names."""
        both = (self.old.periods.keys() if self.old else set()) & self.new.periods.keys()
        reasons = {period: self.storage.find_problem(self._name(period), self._wanted) for period in both}
        return {period: reason for period, reason in reasons.items() if reason is not None}

    def find_unchanged(self, unusable: Collection[str]) -> frozenset[str]:
        """Return the periods whose files can stay as they are; of the ``unusable`` ones none can."""
        old, new = self.old, self.new
        if old is None or old.grid != new.grid:
            return frozenset()
        same = {period for period, scenes in new.periods.items() if old.periods.get(period) == scenes}
        return frozenset(
            period for period in same - set(unusable) if self.storage.is_current(self._name(period), self._wanted)
        )

    @property
    def _wanted(self) -> WantedFiles:
        outputs, options = self.new.outputs, self.options
        return WantedFiles(
            list_period_outputs(outputs),
            list_store_layers(outputs),
            options.zarr_format,
            options.polygon_options,
            options.check,
        )

    def _name(self, period: str) -> str:
        return name_period(self.storage.folder.name, period)


def plan_map(
    catalogue: Path | ObjectFolder,
    storage: MapStorage,
    options: MosaicOptions,
    damaged: Mapping[str, str] = MappingProxyType({}),
) -> MapPlan:
    """Find out what is to be done for a map; no pixel is read.

    Args:
        catalogue: folder of the catalogue of the scenes, local or in object storage.
        storage: where the map lies.
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
    record = MapRecord(
        definition=definition,
        outputs=options.outputs,
        grid=extent,
        periods=dict(selection.periods),
        skipped=selection.skipped,
    )
    old, damage = (None, None) if options.overwrite else storage.read_record(record)
    files = _Files(storage, options, old, record)
    unusable = files.find_unusable()
    changes = find_changes(old, record, unusable)
    return MapPlan(
        storage,
        old,
        record,
        changes.periods,
        files.find_unchanged(unusable),
        changes.withdrawn,
        damage is None and old is not None and storage.is_whole(old, check=options.check),
        (*selection.warnings, *([damage] if damage else [])),
    )


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
    )
