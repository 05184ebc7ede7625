"""Where a map lies, and what is there of it: a folder, or object storage with a working folder beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import ITEM, MAP_RECORD, MAP_STORE, RECORD, ZARR
from seamline.pipeline.fusion.map_folder import is_whole
from seamline.pipeline.mosaic.map_record import MapRecord, encode_map_record, parse_map_record, read_map_record
from seamline.pipeline.mosaic.periods import ALL
from seamline.pipeline.products.seal import is_sealed
from seamline.pipeline.publishing.uploaded import download_files
from seamline.pipeline.results.stored_results import parse_versions
from seamline.pipeline.storage.atomic import remove
from seamline.pipeline.storage.object_store import ObjectFolder


class MapStorage(Protocol):
    """What a run asks of the place of a map; the files of a run are written on disk in either case."""

    @property
    def folder(self) -> Path:
        """Absolute path of the map, or of the working folder of a map in object storage."""

    @property
    def place(self) -> Path | ObjectFolder:
        """Where the map lies."""

    def read_record(self) -> MapRecord | None:
        """Return the record of the map as it is; None if there is none."""

    def has_period(self, period_id: str) -> bool:
        """Return whether the files of a period are all there."""

    def has_time_store(self, record: MapRecord) -> bool:
        """Return whether the store of all periods is there, or the map needs none."""

    def find_store(self, period_id: str) -> Path | None:
        """Return the Zarr store of a period, on this machine; None if there is none."""


@dataclass(frozen=True)
class MapOnDisk:
    """A map in a folder."""

    folder: Path

    @property
    def place(self) -> Path:
        """Where the map lies."""
        return self.folder

    def read_record(self) -> MapRecord | None:
        """Return the record of the map as it is; None if there is none."""
        return read_map_record(self.folder)

    def has_period(self, period_id: str) -> bool:
        """Return whether the files of a period are all there."""
        folder = self.folder / period_id
        return is_whole(folder) and is_sealed(folder / ZARR)

    def has_time_store(self, record: MapRecord) -> bool:
        """Return whether the store of all periods is there, or the map needs none."""
        return record.definition.period == ALL.name or is_sealed(self.folder / MAP_STORE)

    def find_store(self, period_id: str) -> Path | None:
        """Return the Zarr store of a period; None if there is none."""
        store = self.folder / period_id / ZARR
        return store if is_sealed(store) else None


@dataclass(frozen=True)
class MapPointer:
    """What ``map.json`` says in object storage: the map, and where the files of its periods lie.

    Attributes:
        record: the record of the map.
        versions: the version of each period, by the ids of the items.
        etag: the version of ``map.json`` itself.
    """

    record: MapRecord
    versions: Mapping[str, str]
    etag: str

    @classmethod
    def read(cls, objects: ObjectFolder) -> MapPointer | None:
        """Read it; None if there is none.

        Raises:
            InputError: it is damaged, or of a version that is not known here.
        """
        found = objects.get(MAP_RECORD)
        if found is None:
            return None
        return cls(parse_map_record(found.data, objects), parse_versions(found.data, objects), found.version)

    @staticmethod
    def encode(record: MapRecord, versions: Mapping[str, str]) -> bytes:
        """Return the content of ``map.json`` in object storage."""
        return encode_map_record(record.model_copy(update={"versions": dict(versions)}))


@dataclass(frozen=True)
class MapInBucket:
    """A map in object storage.

    What is there decides; the working folder only spares what it has already. So each machine can bring the map up to
    date, with an empty working folder, too: it fetches the stores of those periods that change and keep some chunks.

    Attributes:
        objects: folder of the map in object storage.
        folder: the working folder, which has periods as this machine published them.
        pointer: ``map.json`` as it was when the run began; None if there was none, or a damaged one is replaced.
        etag: its version; None if there was none.
    """

    objects: ObjectFolder
    folder: Path
    pointer: MapPointer | None
    etag: str | None

    @classmethod
    def open(cls, objects: ObjectFolder, folder: Path, *, overwrite: bool) -> MapInBucket:
        """Look what is there.

        Args:
            objects: folder of the map in object storage.
            folder: the working folder.
            overwrite: pass over a ``map.json`` that is damaged.

        Raises:
            InputError: it is damaged, or of a version that is not known here.
        """
        etag = objects.get_version(MAP_RECORD)
        try:
            pointer = MapPointer.read(objects)
        except InputError:
            if not overwrite or etag is None:
                raise
            return cls(objects, folder, None, etag)
        return cls(objects, folder, pointer, None if pointer is None else pointer.etag)

    @property
    def place(self) -> ObjectFolder:
        """Where the map lies."""
        return self.objects

    def read_record(self) -> MapRecord | None:
        """Return the record of the map as it is; None if there is none."""
        return None if self.pointer is None else self.pointer.record

    def has_period(self, period_id: str) -> bool:
        """Return whether the files of a period are all there: they were put before ``map.json`` named them."""
        version = self._find_version(period_id)
        return version is not None and version.get_version(ITEM) is not None

    def has_time_store(self, record: MapRecord) -> bool:
        """Return that nothing is to be computed for the references to all periods, which each run looks after."""
        return True

    def find_store(self, period_id: str) -> Path | None:
        """Return the Zarr store of a period in the working folder, and fetch it first if another one is there.

        The record of the run comes last and tells of which version the store is.
        """
        version, folder = self._find_version(period_id), self.folder / period_id
        written = None if version is None else version.get(RECORD)
        if version is None or written is None:
            return None
        if not ((folder / RECORD).is_file() and (folder / RECORD).read_bytes() == written.data):
            remove(folder)
            download_files(version, folder, [*version.list_sizes(ZARR)])
            (folder / RECORD).write_bytes(written.data)
        store = folder / ZARR
        return store if is_sealed(store) else None

    def _find_version(self, period_id: str) -> ObjectFolder | None:
        version = None if self.pointer is None else self.pointer.versions.get(period_id)
        return None if version is None else self.objects.subfolder(period_id).subfolder(version)
