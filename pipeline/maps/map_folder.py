"""The folder of a map: its periods, all of them in one store, and their items in the catalogue of the scenes.

::

    <map>/map.json                the record: what the map is, and of which scenes
          map.zarr                all periods, (time, y, x); not where there is only the period ``all``
          catalog.json, …         the catalogue of the periods, as of scenes
          <map>-<period>/…        the files of a period, as of a scene
          .run/                   the run that is under way
    <scenes>/<map>-<period>/item.json   the item of the period once more

All files of a new version are written to the result folder of the run directory. It takes the place of the map's folder
in one step (``publishing/replacement.py``); until then the version of before is there. Then the items follow.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import (
    CATALOG,
    COLLECTION,
    ITEM,
    ITEMS,
    MAP_RECORD,
    MAP_STORE,
    MODEL,
    RECORD,
    RUN_DIRECTORY,
    STAMPS,
    WAITING,
    ZARR,
)
from seamline.pipeline.maps.time_store import PeriodStore, write_time_store
from seamline.pipeline.mosaic.map_record import MapRecord, MapScene, write_map_record
from seamline.pipeline.mosaic.periods import ALL, Period
from seamline.pipeline.results.map_copies import PERIOD_PROPERTY, copy_item, find_original
from seamline.pipeline.results.open import SCENE_ID
from seamline.pipeline.stac.catalog import encode_json, is_in_catalog, update_catalog
from seamline.pipeline.stac.items import read_item, read_run_checksums
from seamline.pipeline.stac.scene_item import ModelReference
from seamline.pipeline.stac.waiting import is_waiting
from seamline.pipeline.storage.atomic import atomic_write, link_or_copy
from seamline.pipeline.storage.object_store import ObjectFolder, is_object_url
from seamline.pipeline.storage.output_place import refuse_inside_results

_OWN_FILES = {CATALOG, COLLECTION, ITEMS, MAP_RECORD, MAP_STORE, STAMPS, WAITING}


def name_period(map_name: str, period: str) -> str:
    """Return the id of the item of a period, which is the name of its folder."""
    return f"{map_name}-{period}"


def is_whole(folder: Path) -> bool:
    """Return whether the files of a period are all written: its record comes last."""
    return all((folder / name).is_file() for name in (ITEM, RECORD, MODEL))


def is_own(map_name: str, name: str) -> bool:
    """Return whether a file or folder of this name in the folder of a map is one that a run writes."""
    period = name.removeprefix(f"{map_name}-")
    with suppress(ValueError):
        return name in _OWN_FILES or (period != name and bool(Period.from_name(period)))
    return False


def take_over_period(old: Path, new: Path) -> None:
    """Give a map the files of a period that has not changed, as hard links, or copies where there are no links."""
    part = new.with_name(f".{new.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(old, part, copy_function=link_or_copy)
    part.rename(new)


def write_map_files(folder: Path, map_name: str, record: MapRecord) -> None:
    """Write what a map on disk has beside its periods, which are all there: the store of all, catalogue and record.

    Args:
        folder: where the files of the map are written.
        map_name: name of the map.
        record: its record.
    """
    size = None
    if record.definition.period != ALL.name:
        shutil.rmtree(folder / MAP_STORE, ignore_errors=True)
        paths = {name: folder / name_period(map_name, name) / ZARR for name in record.periods}
        size = write_time_store(
            folder / MAP_STORE,
            describe_stores(record, paths),
            record.map_grid.geobox,
            record.definition.label_classes,
            title=f"map {map_name}",
            attributes={"definition_digest": record.definition.digest, "model_digest": record.definition.model_digest},
        )
    update_catalog(folder)
    write_map_record(folder, record.model_copy(update={"store_size": size}))


def describe_stores(record: MapRecord, paths: Mapping[str, Path]) -> list[PeriodStore]:
    """Return the stores of all periods of a map, the earliest first, from their paths by the names of the periods."""
    return [_describe_store(Period.from_name(name), paths[name]) for name in record.periods]


def _describe_store(period: Period, path: Path) -> PeriodStore:
    if period.start is None or period.end is None:
        raise ValueError(f"period {period.name} has no start and no end, expected one of several")
    return PeriodStore(period.name, period.start.date(), period.end.date(), path)


def list_in_catalogue(catalogue: Path, folder: Path, periods: Iterable[str]) -> None:
    """Write the items of a map's periods to the catalogue of the scenes, and remove those of periods that are gone.

    Args:
        catalogue: absolute path of the catalogue.
        folder: absolute path of the map, which is published.
        periods: names of the periods.
    """
    names, listed = {name_period(folder.name, period) for period in periods}, _read_listed(catalogue)
    for name in sorted(names):
        item = copy_item(read_item(folder / name / ITEM), folder / name, catalogue)
        path, content = catalogue / name / ITEM, encode_json(item)
        is_same = path.is_file() and path.read_bytes() == content
        is_listed = is_in_catalog(catalogue, name) and listed.get(name) == item["assets"]["run"]["file:checksum"]
        if is_same and (is_listed or is_waiting(catalogue, name)):
            continue  # otherwise a kill came between the two
        path.parent.mkdir(exist_ok=True)
        with atomic_write(path) as part:  # nobody else writes here, and the next run replaces what a kill leaves
            part.write_bytes(content)
        update_catalog(catalogue, name)
    gone = _list_own_items(catalogue, folder) - names
    for name in gone:
        (catalogue / name / ITEM).unlink()
        with suppress(OSError):  # not empty: it has files of others
            (catalogue / name).rmdir()
    lost = {name for name in listed if is_own(folder.name, name) and not (catalogue / name / ITEM).exists()}
    for name in gone | lost:
        update_catalog(catalogue, name)


def _read_listed(catalogue: Path) -> Mapping[str, str | None]:
    """Return the checksums of the records that the table of a catalogue lists; none of a damaged one."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        return read_run_checksums(catalogue / ITEMS)
    return {}


def refuse_other_folder(folder: Path) -> None:
    """Refuse a folder that cannot become that of a map: by its name, its place, or something else than a map in it.

    Raises:
        InputError: it is so.
    """
    refuse_map_name(str(folder), folder.name)
    refuse_inside_results(folder.parent, f"--out {folder}")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
    is_other = MAP_RECORD not in names and bool(names - {RUN_DIRECTORY}) and not _has_lost_record(folder, names)
    if is_other or (folder.exists() and not folder.is_dir()):
        raise InputError(
            f"--out {folder}",
            got="a folder with other files, which is no map" if is_other else "a file, which is no map",
            expected="a map, an empty folder, or one that does not exist yet",
            fix=f"give a folder of its own, such as {folder / 'map'}",
        )


def _has_lost_record(folder: Path, names: Collection[str]) -> bool:
    """Return whether a folder is that of a map whose record is lost: all of it is of a map, and a period is there."""
    return all(name == RUN_DIRECTORY or is_own(folder.name, name) for name in names) and bool(list_periods(folder))


def list_periods(folder: Path) -> dict[str, Path]:
    """Return the folders of the periods of a map by the names of the periods, as far as their items can be read.

    Copies of items, as the catalogue of the scenes has them, are none.
    """
    found = {}
    for path in sorted(folder.glob(f"*/{ITEM}")):
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
            item = json.loads(path.read_bytes())
            if PERIOD_PROPERTY in item["properties"] and find_original(item, path.parent) is None:
                found[str(item["properties"][PERIOD_PROPERTY])] = path.parent
    return found


def refuse_map_name(out: str, name: str) -> None:
    """Refuse a name of a map that a result cannot have.

    Args:
        out: the folder or address of the map, for messages.
        name: the last part of it, which is the name.

    Raises:
        InputError: the name is none.
    """
    if not SCENE_ID.fullmatch(name):
        raise InputError(
            f"--out {out}",
            got=f"{name!r} as the name of the map",
            expected="ASCII letters, digits, -, _ and ., a letter or digit first",
            fix="give the folder another name",
        )


def refuse_taken_names(catalogue: Path, folder: Path, periods: Iterable[str]) -> None:
    """Refuse a map whose items would take the places of others in the catalogue of the scenes.

    Args:
        catalogue: absolute path of the catalogue.
        folder: absolute path of the map.
        periods: names of its periods.

    Raises:
        InputError: a scene, or a period of another map, has the id of an item.
    """
    own = _list_own_items(catalogue, folder)
    for name in (name_period(folder.name, period) for period in periods):
        if (catalogue / name / ITEM).exists() and name not in own and not _is_damaged_copy(catalogue / name):
            raise InputError(
                f"map {folder.name}",
                got=f"a result {name} in {catalogue}, which is not of this map",
                expected="a name that no scene and no other map has",
                fix="give another --out",
            )


def _is_damaged_copy(folder: Path) -> bool:
    """Return whether a folder has an item that cannot be read, and no results: then it was a copy of a map's item."""
    try:
        read_item(folder / ITEM)
    except (OSError, ValueError, LookupError, TypeError):
        return not (folder / RECORD).exists()
    return False


def _list_own_items(catalogue: Path, folder: Path) -> set[str]:
    """Return the ids of the items of a map in the catalogue of the scenes."""
    found = set()
    for path in catalogue.glob(f"{folder.name}-*/{ITEM}"):
        with suppress(OSError, ValueError, LookupError, TypeError):
            original = find_original(json.loads(path.read_bytes()), path.parent)
            if original is not None and original.parent.resolve() == folder.resolve():
                found.add(path.parent.name)
    return found


def fetch_model(scenes: Iterable[MapScene], name: str, digest: str, target: Path) -> ModelReference:
    """Copy the document of the model that segmented scenes to a file.

    Args:
        scenes: scenes of the model; beside the files of most of them lies a copy of its document.
        name: name of the model.
        digest: SHA-256 of the document.
        target: where the copy goes.

    Returns:
        The model, with the copy as its document.

    Raises:
        InputError: no scene has an undamaged copy.
    """
    for scene in scenes:
        content = _read_document(scene.folder)
        if content is not None and hashlib.sha256(content).hexdigest() == digest:
            with atomic_write(target) as part:
                part.write_bytes(content)
            limits = json.loads(content)["properties"].get("seamline:limits", "")
            return ModelReference(name, digest, target, str(limits))
    raise InputError(
        "scenes of the map",
        got=f"none with a {MODEL} of model {name}, as earlier versions left them",
        expected="a copy of the model's document beside the results",
        fix="give the commands again that segmented them: they add it without inference",
    )


def _read_document(folder: str) -> bytes | None:
    if is_object_url(folder):
        found = ObjectFolder.from_url(folder).get(MODEL)
        return None if found is None else found.data
    with suppress(OSError):
        return (Path(folder) / MODEL).read_bytes()
    return None
