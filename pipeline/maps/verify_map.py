"""Check that a map is undamaged: record, store of all periods, periods, and the copies of items beside the scenes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from seamline.pipeline.common.layout import CATALOG, ITEM, MAP_RECORD, MAP_STORE, RECORD, ZARR
from seamline.pipeline.maps.map_folder import describe_stores, list_periods
from seamline.pipeline.maps.recovery import is_on_grid
from seamline.pipeline.maps.time_store import find_time_store_problems
from seamline.pipeline.mosaic.map_record import MapRecord, read_map_record
from seamline.pipeline.mosaic.periods import ALL
from seamline.pipeline.products.run_record import read_record
from seamline.pipeline.results.map_copies import copy_item, find_original, list_scene_catalogues
from seamline.pipeline.results.verify import DAMAGE_ERRORS, Finding, shorten_finding, summarize_error, verify
from seamline.pipeline.stac.assets import compute_file_info
from seamline.pipeline.stac.catalog import is_in_catalog
from seamline.pipeline.stac.items import ItemDict, read_item


def verify_folder(out: Path) -> Iterator[Finding]:
    """Yield what is wrong with a folder of results or of a map; nothing where all is well.

    Of a map these are compared: ``map.json`` with its digest and with what each period says that it was made of; all
    files of ``map.zarr`` with its seal, and those of its chunks with those of the periods; and the copies of the items
    in the catalogue of the scenes, if that is where the items say. Of a folder of scenes it is looked whether maps that
    lie in it have their copies.

    Raises:
        InputError: there is no catalogue.
    """
    yield from verify(out)
    folder = out.absolute()
    periods = list_periods(folder)
    if periods or (folder / MAP_RECORD).exists():
        yield from map(shorten_finding, _find_in_map(folder, periods))
    else:
        yield from map(shorten_finding, _find_lost_copies(folder))


def _find_in_map(folder: Path, periods: Mapping[str, Path]) -> Iterator[Finding]:
    try:
        record = read_map_record(folder)
    except DAMAGE_ERRORS as error:
        yield Finding("", MAP_RECORD, summarize_error(error))
        record = None
    else:
        if record is None:
            yield Finding("", MAP_RECORD, "is not there")
    if record is not None:
        yield from _compare_periods(record, periods)
        yield from _check_map_store(folder, record, periods)
    for path in periods.values():
        yield from _check_copies(path)


def _compare_periods(record: MapRecord, periods: Mapping[str, Path]) -> Iterator[Finding]:
    """Compare the record of a map with what its periods say of themselves."""
    for period in record.periods.keys() - periods.keys():
        yield Finding("", MAP_RECORD, f"lists the period {period}, which is not there")
    for period, path in periods.items():
        if period not in record.periods:
            yield Finding(path.name, MAP_RECORD, "does not list the period")
            continue
        try:
            if read_record(path).scene_digest != record.compute_period_digest(period):
                yield Finding(path.name, RECORD, f"is of another definition or other scenes than {MAP_RECORD} says")
            if not is_on_grid(read_item(path / ITEM), record.map_grid):
                yield Finding(path.name, ITEM, f"is on another grid than {MAP_RECORD} says")
        except DAMAGE_ERRORS as error:
            yield Finding(path.name, MAP_RECORD, f"cannot be compared with the period: {summarize_error(error)}")


def _check_map_store(folder: Path, record: MapRecord, periods: Mapping[str, Path]) -> Iterator[Finding]:
    """Check the store of all periods, if the map has one, beside the stores of the periods that are there."""
    if record.definition.period == ALL.name or periods.keys() != record.periods.keys():
        return
    store = folder / MAP_STORE
    try:
        size = compute_file_info(store)["file:size"] if store.is_dir() else 0
        if size != record.store_size:
            yield Finding("", MAP_STORE, f"has {size} bytes, {record.store_size} when it was published")
        stores = describe_stores(record, {name: path / ZARR for name, path in periods.items()})
        for problem in find_time_store_problems(store, stores):
            yield Finding("", MAP_STORE, problem)
    except FileNotFoundError as error:
        yield Finding("", MAP_STORE, f"is not whole: {Path(str(error.filename)).name} is not there")
    except DAMAGE_ERRORS as error:
        yield Finding("", MAP_STORE, summarize_error(error))


def _check_copies(period: Path) -> Iterator[Finding]:
    """Compare the item of a period with its copies beside the scenes that it was made of, where these lie.

    Where the copy in a catalogue leads to another folder, this map is a copy of that one, and the catalogue has none of
    it.
    """
    try:
        item = read_item(period / ITEM)
    except DAMAGE_ERRORS:
        return  # ``verify`` says it
    for catalogue in list_scene_catalogues(item, period):
        path = catalogue / period.name / ITEM
        if not path.is_file():
            yield Finding(period.name, str(path), "is not there")
            continue
        try:
            copy = json.loads(path.read_bytes())
            is_own = find_original(copy, path.parent) == period
        except DAMAGE_ERRORS as error:
            yield Finding(period.name, str(path), summarize_error(error))
            continue
        if is_own and copy != _normalize(copy_item(item, period, catalogue)):
            yield Finding(period.name, str(path), f"is not what {ITEM} in the folder of the map says")


def _normalize(item: ItemDict) -> ItemDict:
    """Return an item as it is read from a file."""
    copied: ItemDict = json.loads(json.dumps(item))
    return copied


def _find_lost_copies(catalogue: Path) -> Iterator[Finding]:
    """Find items of maps in this folder that their scenes' catalogue, which it is, neither has nor lists."""
    if not (catalogue / CATALOG).is_file():
        return
    for record in sorted(catalogue.glob(f"*/{MAP_RECORD}")):
        for path in list_periods(record.parent).values():
            try:
                is_here = catalogue in list_scene_catalogues(read_item(path / ITEM), path)
            except DAMAGE_ERRORS:
                continue
            if is_here and not (catalogue / path.name / ITEM).exists() and not is_in_catalog(catalogue, path.name):
                yield Finding(path.name, ITEM, f"is not there, and the map in {record.parent} has it")
