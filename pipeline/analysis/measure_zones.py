"""From results and zones to a table: the area of each class in each zone, in each period of a map or in each scene."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from seamline.pipeline.analysis.layer_reader import LayerReader
from seamline.pipeline.analysis.listing import NamedResult, is_map, list_results
from seamline.pipeline.analysis.zone_areas import sum_zone_areas
from seamline.pipeline.analysis.zone_file import Zones
from seamline.pipeline.analysis.zone_place import ZonePlacer, measure_zone
from seamline.pipeline.analysis.zone_table import ZoneTable
from seamline.pipeline.common.classes import LabelClass, format_count
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.pixel_area import measure_pixel_areas
from seamline.pipeline.products.zarr_store import LABELS_ARRAY
from seamline.pipeline.results.stored_results import Results, refuse_replaced

log = logging.getLogger("seamline.zones")


def measure_zones(folder: Results, zones: Zones) -> ZoneTable:
    """Measure the area that each class covers in each zone.

    A map has rows of each zone and period. A catalogue of scenes has rows of each zone and each scene whose raster it
    meets; a zone that meets none has rows without a scene.

    Args:
        folder: A map, or a catalogue of scenes.
        zones: The zones.

    Returns:
        The table.

    Raises:
        InputError: There are no results, one is damaged, none has a place on Earth, or no zone meets any of them.
    """
    results = _drop_unlocated(folder, list_results(folder))
    order = {result.name: number for number, result in enumerate(results)}
    whole = np.array([measure_zone(zone, zones.crs) for zone in zones.geometries])
    rows, met = [], set[int]()
    for grid, group in _group_by_grid(results):
        found = _measure_grid(grid, group, zones)
        met |= found.keys()
        if is_map(folder):
            none = np.zeros((len(group), len(_list_values(group))))
            found = {zone: found.get(zone, none) for zone in range(len(zones.names))}
        for number, result in enumerate(group):
            areas = {zone: sums[number] for zone, sums in found.items()}
            rows.append(_make_rows(result, order[result.name], areas, _list_values(group), whole))
    for result in results:
        refuse_replaced(result.published)
    if not met:
        raise InputError(
            "zones",
            got=f"{format_count(len(zones.names), 'zone')} beside all results in {folder}",
            expected="zones that overlap with them",
            fix="check the CRS that the file states, and its order of axes: x before y",
        )
    if lost := [] if is_map(folder) else [zone for zone in range(len(zones.names)) if zone not in met]:
        classes = {(label.value, label.name): label for result in results for label in result.published.classes}
        areas = dict.fromkeys(lost, np.zeros(len(classes)))
        rows.append(_make_class_rows(list(classes.values()), areas, whole))
    table = pd.concat(rows, ignore_index=True).sort_values(["number", "order"], kind="stable", ignore_index=True)
    return ZoneTable(zones, table, "period" if is_map(folder) else "scene")


def _drop_unlocated(folder: Results, results: Sequence[NamedResult]) -> list[NamedResult]:
    located = [result for result in results if result.published.grid.crs is not None]
    if not located:
        raise InputError(
            f"results {folder}",
            got="none with a CRS",
            expected="results whose place on Earth is known",
            fix="give the scenes a CRS with `gdal_edit.py -a_srs EPSG:… FILE` and segment them again",
        )
    if lost := len(results) - len(located):
        log.warning("left out: %s without a CRS", format_count(lost, "scene"))
    return located


def _group_by_grid(results: Sequence[NamedResult]) -> Iterator[tuple[GeoBox, list[NamedResult]]]:
    """Yield results that lie on one grid together: where a zone lies on it needs to be found once."""
    groups: list[tuple[GeoBox, list[NamedResult]]] = []
    for result in results:
        grid = result.published.grid
        group = next((group for other, group in groups if other == grid), None)
        if group is None:
            groups.append((grid, [result]))
        else:
            group.append(result)
    yield from groups


def _list_values(group: Sequence[NamedResult]) -> list[int]:
    """Return the labels of the classes of all results of a group."""
    return sorted({label.value for result in group for label in result.published.classes})


def _measure_grid(grid: GeoBox, group: Sequence[NamedResult], zones: Zones) -> dict[int, NDArray[np.float64]]:
    """Return areas in m² (results, labels) of each zone that meets a grid."""
    areas = measure_pixel_areas(grid)
    if areas is None:
        raise InputError(
            f"results in {group[0].published.folder}",
            got=f"{grid.crs}, in which areas are unknown",
            expected="a projected or geographic CRS",
            fix="leave the scene out",
        )
    placer = ZonePlacer(grid, zones.crs)
    placed = {
        number: edges
        for number in placer.list_near(zones.geometries)
        if (edges := placer.place(zones.geometries[number], zones.names[number])) is not None
    }
    readers = [LayerReader(result.published, LABELS_ARRAY) for result in group]
    return sum_zone_areas(readers, areas, placed, _list_values(group))


def _make_rows(
    result: NamedResult,
    order: int,
    areas: Mapping[int, NDArray[np.float64]],
    values: Sequence[int],
    whole: NDArray[np.float64],
) -> pd.DataFrame:
    """Return the rows of a result: one for each zone and class.

    Args:
        result: The result.
        order: Its place among all results.
        areas: Areas in m² (values) of each zone.
        values: The labels that these are of.
        whole: Areas in m² of all zones.
    """
    classes, span = result.published.classes, result.published.item.properties.acquired
    own = [values.index(label.value) for label in classes]
    rows = _make_class_rows(classes, {zone: sums[own] for zone, sums in areas.items()}, whole)
    rows["result"], rows["order"] = result.name, order
    if span is not None:
        rows["start"], rows["end"] = (pd.Timestamp(at).tz_convert("UTC").as_unit("us") for at in (span.start, span.end))
    return rows


def _make_class_rows(
    classes: Sequence[LabelClass], areas: Mapping[int, NDArray[np.float64]], whole: NDArray[np.float64]
) -> pd.DataFrame:
    """Return a row for each zone and class, without a result."""
    number = np.repeat(np.array(list(areas), np.int64), len(classes))
    area = np.concatenate([*areas.values(), np.zeros(0)])
    seen = np.repeat([sums.sum() for sums in areas.values()], len(classes)).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(seen > 0, area / seen, np.nan)
        seen_share = np.where(whole[number] > 0, np.minimum(seen / whole[number], 1), 0.0)
    none = pd.Series(pd.NaT, range(len(number)), "datetime64[us, UTC]")
    columns = {
        "number": number,
        "order": -1,
        "result": pd.Series(None, range(len(number)), object),
        "start": none,
        "end": none,
        "class": [label.name for label in classes] * len(areas),
        "value": [label.value for label in classes] * len(areas),
        "area_m2": area,
        "share": share,
        "seen_m2": seen,
        "seen_share": seen_share,
        "zone_m2": whole[number],
    }
    return pd.DataFrame(columns)
