"""Publish a map to object storage, by one final pointer: ``map.json``, which names the version of each period.

::

    <map>/map.json                          the pointer: the record of the map, and the version of each period
          <map>-<period>/<version>/…        the files of a period, never changed, with checksums.json: their digests
          <map>-<period>/item.json          the item of the version that counts, as of a scene
          map.zarr.json                     all periods as one Zarr store: references to the chunks of the periods
          catalog.json, …                   the catalogue of the periods, as of scenes

The files of the periods that have changed are put first, below names that nobody knows yet; those of the others stay
where they are. ``map.json`` is put then, in place of the one that the run began with: a reader of it reads all of one
map. If another run has replaced it meanwhile, nothing is published, and the run looks again at what is to be done.
Items, references and catalogue follow from ``map.json`` alone. A kill between leaves them for the next run.

What travels: of a period that has changed, the files whose digest another one of the version before has not under the
same name. Those that have it the server copies, which takes a request for each. So a new scene costs the chunks that it
touches, the overviews above them, and the COGs of its period, each of which is one file. Chunks of ``map.zarr`` would
have to be copied for all periods, whichever changes, so that in object storage the store consists of references.

The version before stays for those who still read it; the next upload removes it. As of a scene, the name of a version
is a digest of its content and of the pointer that it is to replace, so that nothing is removed which is yet to be
published (``publishing/upload.py``).
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from seamline.pipeline.common.errors import InputError, RunError
from seamline.pipeline.common.layout import CHECKSUMS, ITEM, MAP_RECORD, MAP_REFERENCES, ZARR
from seamline.pipeline.geometry.tiling import MapChunks
from seamline.pipeline.maps.map_folder import describe_stores, is_own, name_period
from seamline.pipeline.maps.map_storage import MapInBucket, MapPointer
from seamline.pipeline.maps.time_store import write_time_references
from seamline.pipeline.mosaic.map_record import MapRecord
from seamline.pipeline.mosaic.periods import ALL
from seamline.pipeline.publishing.file_upload import list_file_sizes, put_files
from seamline.pipeline.publishing.upload import renew_catalog, wait_randomly
from seamline.pipeline.publishing.uploaded import download_files, find_uploaded, read_listing
from seamline.pipeline.stac.catalog import encode_json
from seamline.pipeline.stac.items import parse_item, rebase_hrefs
from seamline.pipeline.storage.digests import combine_digests, compute_digests
from seamline.pipeline.storage.object_store import ObjectFolder, StoredObject, map_concurrently

_TRIES = 20
"""Attempts to bring items and references up to date while others replace the map."""
_VERSION_LENGTH = 16
"""Hexadecimal digits of the digest that names a version."""
_LARGEST_COPY = 5 * 10**9
"""Bytes of an object that S3 copies with one request, at most."""
_METADATA = {"zarr.json", ".zgroup", ".zattrs", ".zarray"}
"""Names of the files of a Zarr store that hold no pixels."""
_STATE = "seamline:state"
"""First field of the references: a digest of the versions of which they are."""


def upload_map(
    folder: Path,
    storage: MapInBucket,
    record: MapRecord,
    changed: Collection[str],
    map_groups: MapChunks | None = None,
    *,
    check: bool = False,
) -> bool:
    """Publish a map of which some periods have changed. A killed upload goes on where it stopped.

    Args:
        folder: the folder with those periods that have changed.
        storage: the map as it was when the run began.
        record: the record of the map as it is to be.
        changed: ids of the items of the periods that have changed. The others keep their versions.
        map_groups: applies a function to groups of files on workers that see the folder; None: all of it is done here.
        check: take nothing over of the content of the version before, which may be damaged: all files travel.

    Returns:
        False, and the map as it was, if another run has replaced it since ``storage`` was opened.

    Raises:
        InputError: access is denied, or there is no such bucket.
        RunError: the server does not answer, or others replace the map again and again.
    """
    objects, old = storage.objects, {} if storage.pointer is None else storage.pointer.versions
    versions = {}
    for period_id in (name_period(_get_name(objects), period) for period in record.periods):
        if period_id in changed:
            place, base = objects.subfolder(period_id), storage.etag or ""
            before = None if check else old.get(period_id)
            versions[period_id] = _put_period(folder / period_id, place, base, before, map_groups)
        else:
            versions[period_id] = old[period_id]
    stale = _list_stale(
        objects, {period_id: {versions.get(period_id), old.get(period_id)} for period_id in {*versions, *old}}
    )
    content = MapPointer.encode(record, versions)
    if not objects.compare_and_swap(MAP_RECORD, content, storage.etag):
        return False
    settle_map(objects)
    objects.delete(stale)
    return True


def _get_name(objects: ObjectFolder) -> str:
    return objects.prefix.rpartition("/")[2]


def _put_period(folder: Path, place: ObjectFolder, base: str, old: str | None, map_groups: MapChunks | None) -> str:
    """Put the files of a period; return the name of their version.

    Args:
        folder: the folder of the period.
        place: its folder in object storage.
        base: the version of ``map.json`` that is to be replaced; empty if there is none.
        old: name of the version of the period that this names, whose objects may be copied; None for none.
        map_groups: as ``upload_map`` takes it.
    """
    version = hashlib.sha256((folder / ITEM).read_bytes() + base.encode()).hexdigest()[:_VERSION_LENGTH]
    sizes = list_file_sizes(folder)
    digests = compute_digests(folder, sizes)
    there, known = ({}, {}) if old is None else (_read_checksums(place, old), place.list_sizes(old))
    copies = {
        key: f"{old}/{key}"
        for key, size in sizes.items()
        if key != ITEM
        and there.get(key) == digests[key]
        and known.get(f"{old}/{key}") == size <= _LARGEST_COPY  # one that was cut is none
    }
    put_files(folder, place, version, lambda share: None, map_groups, copies)
    place.put(f"{version}/{CHECKSUMS}", encode_json(digests))
    return version


def _read_checksums(place: ObjectFolder, version: str) -> Mapping[str, str]:
    """Return the digests of the files of a version; none if they are lost or damaged: then all files travel."""
    found = place.get(f"{version}/{CHECKSUMS}")
    try:
        digests = {} if found is None else json.loads(found.data)
    except ValueError:
        return {}
    return digests if isinstance(digests, dict) else {}


def _list_stale(objects: ObjectFolder, kept: Mapping[str, Collection[str | None]]) -> list[str]:
    """Return the keys of all versions of periods but those that are kept. Call this before the pointer is put."""
    stale: list[str] = []
    for period_id in objects.list_folders():
        if is_own(_get_name(objects), period_id):
            versions = objects.subfolder(period_id).list_folders()
            for version in (name for name in versions if name not in kept.get(period_id, ())):
                stale += objects.list_sizes(f"{period_id}/{version}")
    return stale


def settle_map(objects: ObjectFolder) -> None:
    """Bring items, references and catalogue to what ``map.json`` says.

    Each object is looked at before ``map.json`` is read, and replaced only if it is still the same. So the last writer
    has read the ``map.json`` of all writers before it.

    Args:
        objects: folder of the map in object storage.

    Raises:
        RunError: others replace the map again and again.
    """
    for _ in range(_TRIES):
        periods = [name for name in objects.list_folders() if is_own(_get_name(objects), name)]
        items = dict(map_concurrently(lambda name: (name, objects.get(f"{name}/{ITEM}")), periods))
        references = objects.get_version(MAP_REFERENCES)
        pointer = MapPointer.read(objects)
        if pointer is None:
            return
        is_settled = True
        for period_id, item in {**dict.fromkeys(pointer.versions), **items}.items():
            is_settled &= _renew_item(objects, period_id, pointer.versions.get(period_id), item)
        is_settled &= _renew_references(objects, pointer, references)
        if is_settled and _has_other_listing(objects, pointer.versions):
            renew_catalog(objects)
        if is_settled and objects.get_version(MAP_RECORD) == pointer.etag:
            return
        wait_randomly()
    raise RunError(f"{objects}: others replace the map again and again; run the same command again")


def _renew_item(objects: ObjectFolder, period_id: str, version: str | None, known: StoredObject | None) -> bool:
    """Write the item of a period, or remove it; return False if others have replaced it.

    Args:
        objects: folder of the map in object storage.
        period_id: id of the item.
        version: the version that counts; None if the map no longer has the period.
        known: the item that is there; None without any.
    """
    key = f"{period_id}/{ITEM}"
    if version is None:
        objects.delete([key] if known else [])
        return True
    wanted = _lead_to(objects, period_id, version)
    if known is not None and known.data == wanted:
        return True
    return objects.compare_and_swap(key, wanted, None if known is None else known.version)


def _lead_to(objects: ObjectFolder, period_id: str, version: str) -> bytes:
    """Return the item of a period that leads to the files of a version, made of the item beside these files."""
    found = objects.get(f"{period_id}/{version}/{ITEM}")
    if found is None:
        raise InputError(
            f"map {objects}",
            got=f"no {ITEM} in {period_id}/{version}",
            expected=f"the files that {MAP_RECORD} names",
            fix="make the map anew with --overwrite",
        )
    item = rebase_hrefs(parse_item(found.data, period_id), version)
    links = [
        link | {"href": link["href"].removeprefix("./") if "/../" in link["href"] else link["href"]}
        for link in item["links"]
    ]
    return encode_json({**item, "links": links})


def _has_other_listing(objects: ObjectFolder, periods: Collection[str]) -> bool:
    """Return whether catalogue and table have other items than those of these periods."""
    listing = read_listing(objects)
    found = [find_uploaded(objects, period_id) for period_id in periods]
    return set(listing.checksums) != set(periods) or not all(item and listing.lists(item) for item in found)


def _renew_references(objects: ObjectFolder, pointer: MapPointer, known: str | None) -> bool:
    """Write the references to the chunks of all periods; return False if others have replaced them.

    Args:
        objects: folder of the map in object storage.
        pointer: its ``map.json``.
        known: the version of the references that are there; None without any.
    """
    record = pointer.record
    if record.definition.period == ALL.name:
        objects.delete([MAP_REFERENCES] if known else [])
        return True
    state = combine_digests({"versions": dict(pointer.versions), "url": objects.to_url()})
    start = f'{{"{_STATE}": "{state}"'.encode()
    if known is not None and objects.get_start(MAP_REFERENCES, len(start)) == start:
        return True
    name = _get_name(objects)
    places = {
        period: f"{period_id}/{pointer.versions[period_id]}/{ZARR}"
        for period, period_id in ((period, name_period(name, period)) for period in record.periods)
    }
    chunks = {
        period: {key.removeprefix(f"{place}/"): f"{{{{map}}}}/{key}" for key in objects.list_sizes(place)}
        for period, place in places.items()
    }
    first = next(iter(record.periods))
    with tempfile.TemporaryDirectory() as scratch:
        store, path = Path(scratch) / ZARR, Path(scratch) / MAP_REFERENCES
        metadata = [key for key in chunks[first] if Path(key).name in _METADATA]
        download_files(objects.subfolder(places[first]), store, metadata)
        stores = describe_stores(record, dict.fromkeys(record.periods, store))
        classes, grid = record.definition.label_classes, record.map_grid.geobox
        references = write_time_references(path, stores, grid, classes, chunks, title=f"map {name}")
    document = {_STATE: state, "version": 1, "templates": {"map": objects.to_url()}, "refs": references}
    return objects.compare_and_swap(MAP_REFERENCES, json.dumps(document).encode(), known)
