"""Look up one location in all periods of a map, and in the scenes that a period was made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from affine import Affine
from affine import TransformNotInvertibleError as SingularTransform
from fastapi import APIRouter, Query
from fastapi import Path as PathParameter
from pyproj.exceptions import ProjError
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from seamline.flows.serving.pixel import PIXEL_FILES, PixelLocator, compute_outline, read_label, read_layers
from seamline.flows.serving.results import PROBABILITIES_FILE, DamagedResult, NotFound, ServedResults
from seamline.flows.serving.tiles import open_geotiff
from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import COG, RECORD
from seamline.pipeline.mosaic.map_record import MapRecord, MapScene, read_map_record
from seamline.pipeline.results.result_item import ResultItem
from seamline.pipeline.stac.stamped_table import FileStamp, read_stamp

_MOST_PERIODS = 60
"""Periods in one answer: each takes some milliseconds."""
_MOST_SCENES = 60
"""Scenes in one answer, as many files as are opened for it."""
_DAMAGE = (DamagedResult, RasterioError, CPLE_BaseError)
"""What is raised where a result is damaged."""
_MOST_RECORDS = 16
"""Records of maps that are kept in memory."""


@dataclass(frozen=True)
class _Page:
    """The part of a list that is asked for: so many entries from the first one on."""

    limit: int
    first: int

    def find_next(self, count: int) -> int | None:
        """Return the first entry of the next part of a list of so many entries, or None at the end."""
        end = self.first + self.limit
        return end if end < count else None


@dataclass(frozen=True)
class _ServedMaps:
    """The maps in a catalogue: results whose items say of which map and period they are."""

    results: ServedResults
    _records: dict[Path, tuple[FileStamp, MapRecord]] = field(default_factory=dict)

    def list_periods(self, name: str) -> list[dict[str, Any]]:
        """Return the summaries of the periods of a map, the latest first.

        Raises:
            NotFound: There is no such map.
        """
        found = [scene for scene in self.results.summarize_scenes().scenes if scene.get("map") == name]
        if not found:
            raise NotFound(f"there is no map {name[:80]!r}")
        return sorted(found, key=lambda scene: (scene["date"] or "", scene["id"]), reverse=True)

    def describe_history(self, name: str, lon: float, lat: float, page: _Page) -> dict[str, Any]:
        """Describe the pixel of a map at a location in its periods, the latest first; see ``get_map_history``."""
        periods, locator = self.list_periods(name), PixelLocator()
        entries, outline, is_beside = [], None, True
        for summary in periods[page.first : page.first + page.limit]:
            entry = {"scene": summary["id"], "period": summary["period"]}
            entry |= {"start": summary["date"], "end": summary["last_date"]}
            try:
                pixel = self._read_period(summary["id"], locator, lon, lat)
            except (NotFound, *_DAMAGE) as error:
                entries.append(entry | {"problem": " ".join(str(error).split())})
                continue
            if pixel is not None:
                is_beside, outline = False, pixel.pop("outline")
                entries.append(entry | pixel)
        if is_beside and not any("problem" in entry for entry in entries) and page.first < len(periods):
            raise NotFound(f"{lon:.5f}, {lat:.5f} lies beside the map")
        return {
            "map": name,
            "outline": outline,
            "periods": entries,
            "count": len(periods),
            "next": page.find_next(len(periods)),
        }

    def describe_sources(self, name: str, period: str, lon: float, lat: float, page: _Page) -> dict[str, Any]:
        """Describe the scenes that show the pixel of a period at a location; see ``get_map_sources``."""
        summary = next((one for one in self.list_periods(name) if one["period"] == period), None)
        if summary is None:
            raise NotFound(f"map {name} has no period {period[:80]!r}")
        with _catch_damaged_record(summary["id"]):
            record = self._read_record(self.results.find_map_record(summary["id"]))
            covering = _find_covering(record, period, lon, lat)
        if covering is None:
            raise NotFound(f"{lon:.5f}, {lat:.5f} lies beside the map")
        (lon, lat), scenes = covering
        locator, unseen = PixelLocator(), set(record.definition.unseen)
        entries = [
            self._describe_source(scene, locator, lon, lat) for scene in scenes[page.first : page.first + page.limit]
        ]
        return {
            "map": name,
            "period": period,
            "scenes": [
                {**entry, "counts": entry["class"] is not None and entry["class"] not in unseen}
                for entry in entries
                if entry["value"] != NODATA
            ],
            "count": len(scenes),
            "next": page.find_next(len(scenes)),
        }

    def _read_period(self, scene: str, locator: PixelLocator, lon: float, lat: float) -> dict[str, Any] | None:
        """Return outline and layers of a period's pixel, or None beside it."""
        item, files = self.results.find_files(scene, [COG, *PIXEL_FILES])
        files.pop(PROBABILITIES_FILE, None)
        if COG not in files:
            raise NotFound(f"{scene} has no {COG}")
        with open_geotiff(files[COG]) as file:
            place = locator.locate_in_file(file, lon, lat)
            if place is None:
                return None
            outline = compute_outline(file, *place)
        return {"outline": outline, **read_layers(item, files, *place)}

    def _describe_source(self, scene: MapScene, locator: PixelLocator, lon: float, lat: float) -> dict[str, Any]:
        span = scene.acquired
        entry: dict[str, Any] = {
            "scene": scene.id,
            "start": span and span[0].isoformat(),
            "end": None if span is None or span[0] == span[1] else span[1].isoformat(),
            "state": "absent",
            "value": None,
            "class": None,
        }
        try:
            item, label = self._read_label(scene.id, locator, lon, lat)
        except NotFound:
            return entry
        except _DAMAGE:
            return entry | {"state": "damaged"}
        asset = item.find_asset(RECORD)
        is_current = asset is not None and asset.checksum == scene.version
        names = {row.value: row.name for row in item.properties.classes}
        state = "current" if is_current else "replaced"
        return entry | {"state": state, "value": label, "class": None if label is None else names.get(label)}

    def _read_label(self, scene: str, locator: PixelLocator, lon: float, lat: float) -> tuple[ResultItem, int | None]:
        """Return the item of a scene and its label at a location: None without a GeoTIFF, ``NODATA`` beside it."""
        item, files = self.results.find_files(scene, [COG])
        if COG not in files:
            return item, None
        with open_geotiff(files[COG]) as file:
            place = locator.locate_in_file(file, lon, lat)
        return item, NODATA if place is None else read_label(files[COG], *place)

    def _read_record(self, path: Path) -> MapRecord:
        """Return the record of a map, which is read again only after it has changed."""
        stamp = read_stamp(path)
        known_stamp, known = self._records.get(path, (None, None))
        if known is not None and known_stamp == stamp:
            return known
        record = read_map_record(path.parent)
        if record is None:
            raise NotFound(f"there is no {path.name} any more")
        if len(self._records) >= _MOST_RECORDS:
            self._records.clear()
        self._records[path] = (stamp, record)
        return record


def _find_covering(
    record: MapRecord, period: str, lon: float, lat: float
) -> tuple[tuple[float, float], list[MapScene]] | None:
    """Find the scenes of a period whose grids cover the centre of the map's pixel at a location.

    Returns:
        Longitude and latitude of that centre and the scenes, the latest first; None beside the map.
    """
    locator, crs, grid = PixelLocator(), record.definition.crs, record.map_grid.geobox
    place = locator.locate(crs, grid.transform, grid.shape, lon, lat)
    if place is None:
        return None
    if period not in record.periods:
        raise NotFound(f"the map has no period {period[:80]!r} any more")
    lon, lat = locator.find_centre(crs, grid.transform, *place)
    scenes = [
        scene
        for scene in record.periods[period]
        if locator.locate(scene.grid.crs, Affine(*scene.grid.transform), scene.grid.shape, lon, lat) is not None
    ]
    first = datetime.min.replace(tzinfo=UTC)
    scenes.sort(key=lambda scene: (scene.acquired[0] if scene.acquired else first, scene.id), reverse=True)
    return (lon, lat), scenes


@contextmanager
def _catch_damaged_record(period: str) -> Iterator[None]:
    """Turn what a damaged record of a map raises into a ``DamagedResult``."""
    try:
        yield
    except (InputError, ProjError, SingularTransform, OSError) as error:
        raise DamagedResult(f"{period}: the record of its map cannot be used ({error})") from error


_MapName = Annotated[str, PathParameter(description="Name of a map, as `/scenes` tells it.")]
_PeriodName = Annotated[str, Query(description="Name of a period of the map: `all`, `2024`, `2024-07`, `2024-JJA`.")]
_Lon = Annotated[float, Query(ge=-540, le=540, allow_inf_nan=False, description="Degrees east, WGS 84.")]
_Lat = Annotated[float, Query(ge=-90, le=90, allow_inf_nan=False, description="Degrees north, WGS 84.")]
_First = Annotated[int, Query(ge=0, le=1_000_000, description="How many entries to skip: `next` of the last answer.")]


def make_map_router(results: ServedResults) -> APIRouter:
    """Return the routes of maps of many scenes: what a pixel was in each period, and which scenes say so."""
    router, maps = APIRouter(prefix="/maps"), _ServedMaps(results)

    @router.get("/{name}/history")
    def get_map_history(
        name: _MapName,
        lon: _Lon,
        lat: _Lat,
        limit: Annotated[int, Query(ge=1, le=_MOST_PERIODS, description="Most periods to return.")] = _MOST_PERIODS,
        first: _First = 0,
    ) -> dict[str, Any]:
        """Return class, agreement, observations and last day of a map's pixel at a location in each period.

        The latest period comes first. `count` is the number of all periods, and `next` the `first` of the next
        request, or null. A period that cannot be read has a `problem`.
        """
        return maps.describe_history(name, lon, lat, _Page(limit, first))

    @router.get("/{name}/scenes")
    def get_map_sources(
        name: _MapName,
        period: _PeriodName,
        lon: _Lon,
        lat: _Lat,
        limit: Annotated[int, Query(ge=1, le=_MOST_SCENES, description="Most scenes to look at.")] = _MOST_SCENES,
        first: _First = 0,
    ) -> dict[str, Any]:
        """Return the scenes that a period of a map was made of and that have a valid pixel at a location.

        The latest scene comes first, with its own label there; `counts` is false where that hides the ground or is not
        known. `state` is `current`, `replaced` (published again since the map was made), `damaged` or `absent` (not in
        this catalogue); of the last two it is not known whether they have a valid pixel there. `count` is the number
        of scenes whose extent covers the location, and `next` the `first` of the next request, or null.
        """
        return maps.describe_sources(name, period, lon, lat, _Page(limit, first))

    return router
