"""Maps from Python: fuse segmented scenes, compare periods, measure zones."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from seamline.flows.maps.make_map import make_map
from seamline.flows.maps.observer import MapObserver, MapResult
from seamline.flows.maps.options import MosaicOptions
from seamline.flows.settings.credentials import give_credentials, use_credentials
from seamline.pipeline.analysis.listing import find_named_result
from seamline.pipeline.analysis.measure_zones import measure_zones
from seamline.pipeline.analysis.transitions import ResultPair
from seamline.pipeline.analysis.write_change import Change, write_change
from seamline.pipeline.analysis.zone_file import read_zones
from seamline.pipeline.analysis.zone_table import check_table_path
from seamline.pipeline.results.stored_results import open_results
from seamline.pipeline.storage.atomic import make_absolute
from seamline.pipeline.storage.output_place import name_disk_errors

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client


def mosaic(
    results: str | Path,
    out: str | Path,
    options: MosaicOptions,
    *,
    client: Client | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> MapResult:
    """Fuse the published scenes of a catalogue to one map, or bring it up to date, as ``seamline mosaic`` does.

    Args:
        results: folder that scenes were segmented to with ``probabilities`` among the outputs, or ``s3://bucket/prefix``.
        out: the map's folder, or ``s3://bucket/prefix``; its last part is the name of the map.
        options: what the map is: ``MosaicOptions(crs="EPSG:32632", resolution=10)``.
        client: client of a Dask cluster that is there. Default: this process; ``options.workers`` starts processes.
        progress: is called with the number of chunks that are done, and of all that are to be computed.

    Returns:
        The map's folder and record, and whether anything was computed. ``open_result(result.folder, "<map>-<period>")``
        opens the rasters of a period.

    Raises:
        InputError: there is no such map to be made; nothing was computed.
        SeamlineError: the run failed; what was done is kept and the same call goes on.
    """
    use_credentials(options.credentials)
    observer = MapObserver(progress=progress or MapObserver().progress)
    if client is not None:
        give_credentials(client, options.credentials)
        return make_map(results, out, options, observer, lambda *_: nullcontext(client))
    if options.cluster == "local" and options.workers is None:
        options = options.model_copy(update={"workers": 0})
    return make_map(results, out, options, observer)


def zones(
    results: str | Path, polygons: str | Path, out: str | Path | None = None, *, by: str = "", layer: str = ""
) -> pd.DataFrame:
    """Measure the area of each class in each zone, as ``seamline zones`` does.

    Args:
        results: folder or ``s3://`` address of a map, or of segmented scenes.
        polygons: vector file with the zones, in any CRS.
        out: ``….parquet`` (GeoParquet) or ``….csv`` to write the table to. Default: it is only returned.
        by: attribute with the names of the zones; features of one name are one zone. Default: each feature is one.
        layer: layer of the vector file. Default: its only one.

    Returns:
        A row for each zone, period of the map or scene, and class: ``zone``, ``period`` or ``scene``, ``start``,
        ``end``, ``class``, ``value``, ``area_m2`` (on the ellipsoid), ``share`` (of what was seen of the zone),
        ``seen_m2``, ``seen_share`` (of the zone) and ``zone_m2``.

    Raises:
        InputError: there are no such results or zones, or they do not overlap.
    """
    path = None if out is None else make_absolute(out)
    if path is not None:
        check_table_path(path)
    table = measure_zones(open_results(results), read_zones(make_absolute(polygons), by, layer))
    if path is not None:
        with name_disk_errors(str(path)):
            table.write(path)
    return table.to_frame()


def change(
    before: str | Path,
    after: str | Path | None = None,
    *,
    out: str | Path,
    from_period: str = "",
    to_period: str = "",
    min_agreement: float = 0.0,
) -> Change:
    """Compare two periods of a map, or of two maps, pixel by pixel, as ``seamline change`` does.

    Args:
        before: folder or ``s3://`` address of the map, or of segmented scenes, with the first period.
        after: folder or address with the second one. Default: the same.
        out: folder for ``transitions.tif``, its legends, ``transitions.csv`` and ``transitions.json``.
        from_period: name of the first period, or id of a scene. Default: the only one.
        to_period: name of the second period, or id of a scene. Default: the only one.
        min_agreement: pixels are left out of whose observations fewer than this share, in either period, had the label
            of the map.

    Returns:
        The transitions that occur, with pixels, area and share of each.

    Raises:
        InputError: the two cannot be compared; nothing was written.
    """
    first = open_results(before)
    second = first if after is None else open_results(after)
    pair = ResultPair.of(find_named_result(first, from_period), find_named_result(second, to_period), min_agreement)
    with name_disk_errors(str(out)):
        return write_change(pair, make_absolute(out))
