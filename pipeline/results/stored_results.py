"""Results in object storage: the version of each that counts, opened and read as results on disk are."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import zarr
from zarr.storage import ObjectStore

from seamline.pipeline.common.errors import InputError, RunError
from seamline.pipeline.common.layout import COG, ITEM, MAP_RECORD, RECORD, ZARR
from seamline.pipeline.products.layers import LAYERS
from seamline.pipeline.products.zarr_store import LABELS_ARRAY, open_store_raster
from seamline.pipeline.raster_io.gdal import gdal_environment
from seamline.pipeline.results.open import (
    SCENE_ID,
    VERIFY_HINT,
    PublishedResult,
    catch_damage,
    check_cog,
    check_item_and_record,
    check_store,
    find_result,
    result_error,
)
from seamline.pipeline.stac.items import ItemDict, parse_item, read_items, rebase_hrefs
from seamline.pipeline.storage.atomic import make_absolute
from seamline.pipeline.storage.object_store import ObjectFolder, is_object_url, map_concurrently
from seamline.pipeline.storage.s3_access import S3Access, open_cached_store, translate_errors

_VERSIONS = "versions"
"""Field of ``map.json`` in object storage: the version of each period, by the ids of the items."""
_MOST_NAMES = 5
"""Results that a message names."""


@dataclass(frozen=True)
class StoredResults:
    """A map or a catalogue of scenes in object storage.

    Attributes:
        objects: Its folder.
        versions: Of a map the version of each period, by the ids of the items, as ``map.json`` said when it was opened:
            all that is read is of one state of the map. None for a catalogue of scenes.
    """

    objects: ObjectFolder
    versions: Mapping[str, str] | None

    @classmethod
    def open(cls, objects: ObjectFolder) -> StoredResults:
        """Look whether a folder is that of a map, and of which versions.

        Raises:
            InputError: Its ``map.json`` is damaged, or it cannot be reached.
        """
        record = objects.get(MAP_RECORD)
        return cls(objects, None if record is None else parse_versions(record.data, objects))

    def __str__(self) -> str:
        return str(self.objects)

    def read_items(self) -> dict[str, ItemDict]:
        """Return the items of all results, in order of their ids; a damaged one is empty."""
        if self.versions is None:
            return read_items(self.objects, self.objects.list_folders())

        def read(period: str) -> tuple[str, ItemDict]:
            found = self._find_folder(period).get(ITEM)
            try:
                return period, {} if found is None else parse_item(found.data, period)
            except ValueError:
                return period, {}

        return dict(sorted(map_concurrently(read, self.versions)))

    def find(self, scene: str) -> PublishedResult:
        """Find the results of a scene or a period, and check them as those on disk are checked.

        Raises:
            InputError: There are no such results, or they are damaged.
        """
        folder = self._find_folder(scene)
        with translate_errors(folder.bucket, folder.access):
            item, written = folder.get(ITEM), folder.get(RECORD)
            if item is None or written is None:
                raise result_error(folder, f"no {ITEM if item is None else RECORD}", "run the same command again")
            fields, record = check_item_and_record(folder, scene, item.data, written.data)
            if fields.find_asset(ZARR) is not None:
                with catch_damage(folder, ZARR):
                    group = _open_group(folder.access, folder.bucket, f"{folder.prefix}/{ZARR}")
                    grid, names = check_store(folder, group, record.digests, fields.label_classes)
                arrays = dict.fromkeys(names, folder.to_url(ZARR))
            else:
                path = f"/vsis3/{folder.bucket}/{folder.prefix}/{COG}"
                with catch_damage(folder, COG), gdal_environment(path):
                    grid = check_cog(folder, path, record.digests, fields.label_classes)
                layers = [name for name in LAYERS if fields.find_asset(f"{name}.tif") is not None]
                arrays = {LABELS_ARRAY: folder.to_url(COG)} | {name: folder.to_url(f"{name}.tif") for name in layers}
        if tuple(grid.shape) != (shape := fields.properties.shape):
            raise result_error(folder, f"{tuple(grid.shape)} labels, {shape} in {ITEM}", VERIFY_HINT)
        return PublishedResult(folder, record, fields, grid, fields.label_classes, arrays)

    def _find_folder(self, scene: str) -> ObjectFolder:
        """Return the folder with the files of the version that counts.

        Raises:
            InputError: There is no such result.
        """
        is_name = SCENE_ID.fullmatch(scene) is not None
        if self.versions is not None and scene in self.versions:
            return self.objects.subfolder(scene).subfolder(self.versions[scene])
        pointer = self.objects.get(f"{scene}/{ITEM}") if is_name and self.versions is None else None
        if pointer is not None:
            with catch_damage(self.objects.subfolder(scene), ITEM):
                item = rebase_hrefs(parse_item(pointer.data, scene), self.objects.to_url(scene))
                place = posixpath.dirname(str(item["assets"]["run"]["href"]))
                return ObjectFolder.from_url(place, self.objects.access)
        there = self.objects.list_folders() if self.versions is None else sorted(self.versions)
        rest = len(there) - _MOST_NAMES
        known = ", ".join(there[:_MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")
        raise InputError(
            f"scene in {self.objects}",
            got=f"{str(scene)[:80]!r}" + ("" if is_name else ", which is no name of a scene"),
            expected=f"one of {known}" if there else "what `seamline segment` published, and there is nothing",
            fix="check the name and the address",
        )


Results = Path | StoredResults
"""A map or a catalogue of scenes: its folder, or what it is in object storage."""


def parse_versions(record: bytes, objects: ObjectFolder) -> dict[str, str]:
    """Return the version of each period of a map from the bytes of its ``map.json``.

    Args:
        record: The bytes.
        objects: Where they were read, for messages.

    Raises:
        InputError: They are damaged.
    """
    try:
        versions = json.loads(record)[_VERSIONS]
        if all(SCENE_ID.fullmatch(part) for names in versions.items() for part in names):
            return dict(versions)
        problem = f"{_VERSIONS} that are none"
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        problem = f"no {_VERSIONS} in it ({type(error).__name__})"
    raise InputError(
        f"{MAP_RECORD} of map {objects}",
        got=problem,
        expected="what Seamline wrote",
        fix="make the map anew with --overwrite",
    )


def open_results(place: str | Path) -> Results:
    """Return the results that a user named, by a folder or an ``s3://`` address.

    Raises:
        InputError: The address is none, or cannot be reached.
    """
    if is_object_url(str(place)):
        return StoredResults.open(ObjectFolder.from_url(str(place)))
    return make_absolute(place)


def find_any_result(results: Results, scene: str) -> PublishedResult:
    """Find the results of a scene or a period on disk or in object storage; no pixel is read.

    Raises:
        InputError: There are none, or they are damaged.
    """
    return results.find(scene) if isinstance(results, StoredResults) else find_result(results, scene)


def refuse_replaced(result: PublishedResult) -> None:
    """Refuse what was read of a result in object storage if its version was removed meanwhile.

    A chunk that is gone reads as nodata. Call this when all is read.

    Raises:
        RunError: It was.
    """
    if isinstance(result.folder, ObjectFolder) and result.folder.get_version(ITEM) is None:
        raise RunError(f"{result.folder} was replaced while it was read; run the same command again")


def open_raster_array(address: str, name: str) -> zarr.Array[Any]:
    """Open an array of a Zarr store, on disk or in object storage.

    Args:
        address: Path or ``s3://`` address of the store.
        name: Name of the array: ``segmentation`` or that of a layer.

    Raises:
        InputError: There is no such array on disk.
    """
    if not is_object_url(address):
        return open_store_raster(Path(address), name)
    folder = ObjectFolder.from_url(address)
    return _open_remote_array(folder.access, folder.bucket, f"{folder.prefix}/{name}")


@lru_cache(maxsize=128)
def _open_remote_array(access: S3Access, bucket: str, key: str) -> zarr.Array[Any]:
    """Open an array in object storage, which this process keeps: the metadata of a version never change."""
    return zarr.open_array(ObjectStore(open_cached_store(access, bucket), read_only=True), path=key, mode="r")


def _open_group(access: S3Access, bucket: str, key: str) -> zarr.Group:
    return zarr.open_group(ObjectStore(open_cached_store(access, bucket), read_only=True), path=key, mode="r")
