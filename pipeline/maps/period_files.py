"""What of the files of a map is there, and is what it was when it was published.

As of the results of scenes (``publishing/completeness.py``) sizes are compared; contents only if that is asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import ITEM, ITEMS, MAP_STORE, POLYGON_FILES, ZARR
from seamline.pipeline.geometry.map_grid import CHUNK, MapGrid
from seamline.pipeline.geometry.tiling import Index
from seamline.pipeline.maps.map_folder import is_whole
from seamline.pipeline.mosaic.map_record import MapRecord
from seamline.pipeline.products.kept_result import KeptResult
from seamline.pipeline.products.overviews import read_layout
from seamline.pipeline.products.run_record import read_record
from seamline.pipeline.products.seal import has_sealed_content, is_sealed
from seamline.pipeline.products.zarr_store import LABELS_ARRAY, list_store_rasters
from seamline.pipeline.publishing.completeness import PublishedFiles
from seamline.pipeline.publishing.result_files import COG_ARRAYS, get_cog_path
from seamline.pipeline.stac.assets import compute_file_info
from seamline.pipeline.stac.catalog import is_catalog_whole
from seamline.pipeline.stac.items import read_item, read_item_table, round_trip_items
from seamline.pipeline.vectors.polygon_options import PolygonOptions


def find_store_problem(folder: Path, layers: Sequence[str], zarr_format: int, *, check: bool) -> str | None:
    """Return why no chunk can be taken over from the store of a period; None if chunks can.

    Args:
        folder: the period's folder.
        layers: names of the layers that the new store has.
        zarr_format: version of the Zarr format of the new store.
        check: compare the content of the store with its seal, too; otherwise only the size.
    """
    if not PublishedFiles.in_folder(folder).has(ZARR, check=check):
        return "files of the map were lost or changed"
    if read_layout(folder / ZARR).zarr_format != zarr_format:
        return "another Zarr format"
    missing = [name for name in layers if name not in list_store_rasters(folder / ZARR)]
    return f"new output {missing[0]}" if missing else None


def find_kept_result(folder: Path, kept: Collection[Index], grid: MapGrid) -> KeptResult:
    """Return a period as it was for a run that takes chunks over from its store, which is undamaged.

    Args:
        folder: the period's folder.
        kept: chunks that stay as they are.
        grid: grid of the map, as it was and as it is to be.
    """
    files = PublishedFiles.in_folder(folder)
    names = {get_cog_path(folder, output).name for output in COG_ARRAYS}
    cogs = frozenset(name for name in names & files.assets.keys() if files.has(name, check=True))
    return KeptResult(folder, cogs, frozenset(chunk for chunk in grid.chunks if chunk not in kept), CHUNK)


def is_period_current(
    folder: Path, outputs: Sequence[str], layers: Sequence[str], polygons: PolygonOptions | None, *, check: bool
) -> bool:
    """Return whether the files of a period are there, as they were published, and are those that are wanted.

    Args:
        folder: the period's folder.
        outputs: names of the outputs that are wanted, layers of the map among them.
        layers: names of the layers of its store.
        polygons: rules and formats of the polygons that are wanted; None for none.
        check: compare contents, too; otherwise only sizes.
    """
    if not is_whole(folder):
        return False
    with suppress(OSError, ValueError, LookupError, TypeError, InputError):
        files = PublishedFiles.in_folder(folder)
        there = {name for name in POLYGON_FILES.values() if name in files.assets}
        is_same = set(read_record(folder).outputs) == set(outputs) and files.has_polygons(polygons, check=False)
        is_same = is_same and there == set(polygons.files if polygons else ())
        is_there = is_same and bool(files.assets) and all(files.has(name, check=check) for name in files.assets)
        return is_there and set(list_store_rasters(folder / ZARR)) == {LABELS_ARRAY, *layers}
    return False


def is_map_whole(folder: Path, record: MapRecord, *, check: bool) -> bool:
    """Return whether what a map has beside its periods is as it was published: ``map.zarr``, catalogue and table.

    Args:
        folder: the map's folder.
        record: its record.
        check: compare contents, too; otherwise only sizes.
    """
    store = folder / MAP_STORE
    has_store = record.store_size is None or (
        is_sealed(store)
        and compute_file_info(store)["file:size"] == record.store_size
        and (not check or has_sealed_content(store))
    )
    return has_store and is_catalog_whole(folder) and _is_table_whole(folder)


def _is_table_whole(folder: Path) -> bool:
    """Return whether the table of the periods' items has these as they are."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        items = {path.parent.name: read_item(path) for path in folder.glob(f"*/{ITEM}")}
        return read_item_table(folder / ITEMS) == round_trip_items(items)
    return False
