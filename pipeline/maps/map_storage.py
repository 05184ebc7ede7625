"""Where a map lies, and what is there of it: a folder, or object storage with a working folder beside it."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from seamline.pipeline.common.errors import DamagedFileError, InputError
from seamline.pipeline.common.layout import ITEM, MAP_RECORD, POLYGON_FILES, RECORD, ZARR
from seamline.pipeline.maps.map_folder import list_periods
from seamline.pipeline.maps.period_files import find_store_problem, is_map_whole, is_period_current
from seamline.pipeline.maps.publish_map import list_store_layers
from seamline.pipeline.maps.recovery import recover_map_record
from seamline.pipeline.mosaic.map_record import (
    MapRecord,
    encode_map_record,
    parse_map_record,
    read_map_record,
    refuse_other_definition,
)
from seamline.pipeline.products.run_record import parse_record
from seamline.pipeline.products.seal import is_sealed
from seamline.pipeline.publishing.completeness import is_upload_intact
from seamline.pipeline.publishing.uploaded import UploadedScene, download_files, is_whole
from seamline.pipeline.results.stored_results import parse_versions
from seamline.pipeline.stac.items import parse_item, rebase_hrefs
from seamline.pipeline.storage.atomic import remove
from seamline.pipeline.storage.object_store import ObjectFolder
from seamline.pipeline.vectors.polygon_options import PolygonOptions


@dataclass(frozen=True)
class WantedFiles:
    """The files that each period of a map is to have.

    Attributes:
        outputs: names of the outputs, layers of the map among them.
        layers: names of the layers of the Zarr store.
        zarr_format: version of its format.
        polygons: rules and formats of the polygons; None for none.
        check: compare the content of the files that are there, too; otherwise only their sizes.
    """

    outputs: tuple[str, ...]
    layers: tuple[str, ...]
    zarr_format: int
    polygons: PolygonOptions | None
    check: bool


class MapStorage(Protocol):
    """What a run asks of the place of a map; the files of a run are written on disk in either case."""

    @property
    def folder(self) -> Path:
        """Absolute path of the map, or of the working folder of a map in object storage."""

    @property
    def place(self) -> Path | ObjectFolder:
        """Where the map lies."""

    def read_record(self, wanted: MapRecord) -> tuple[MapRecord | None, str | None]:
        """Return the record of the map as it is, if there is one, and a warning if it was damaged.

        Args:
            wanted: record of the map as it is to be.

        Raises:
            OtherRunError: the map is of another definition; the message names what differs.
            InputError: the record is of a version that is not known here.
        """

    def find_problem(self, period_id: str, wanted: WantedFiles) -> str | None:
        """Return why nothing can be taken over of a period; None if chunks can."""

    def is_current(self, period_id: str, wanted: WantedFiles) -> bool:
        """Return whether the files of a period are there, as they were published, and are those that are wanted.

        Asked only of periods with which ``find_problem`` has found none.
        """

    def is_whole(self, record: MapRecord, *, check: bool) -> bool:
        """Return whether what the map has beside its periods is as it was published."""

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

    def read_record(self, wanted: MapRecord) -> tuple[MapRecord | None, str | None]:
        """Return the record of the map; a damaged one as far as its periods tell of it, with a warning."""
        try:
            old, damage = read_map_record(self.folder), "is not there"
        except DamagedFileError as error:
            old, damage = None, f"is damaged ({error.got})"
        if old is not None:
            refuse_other_definition(self.folder, old.definition, wanted.definition)
        elif list_periods(self.folder):
            warning = f"{MAP_RECORD} of map {self.folder} {damage}; it is written anew"
            return recover_map_record(self.folder, wanted), warning
        return old, None

    def find_problem(self, period_id: str, wanted: WantedFiles) -> str | None:
        """Return why nothing can be taken over of a period; None if chunks can."""
        return find_store_problem(self.folder / period_id, wanted.layers, wanted.zarr_format, check=wanted.check)

    def is_current(self, period_id: str, wanted: WantedFiles) -> bool:
        """Return whether the files of a period are there, as they were published, and are those that are wanted."""
        return is_period_current(
            self.folder / period_id, wanted.outputs, wanted.layers, wanted.polygons, check=wanted.check
        )

    def is_whole(self, record: MapRecord, *, check: bool) -> bool:
        """Return whether ``map.zarr``, catalogue and table are as they were published."""
        return is_map_whole(self.folder, record, check=check)

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

    def read_record(self, wanted: MapRecord) -> tuple[MapRecord | None, str | None]:
        """Return the record of the map as it is; ``open`` has refused a damaged one."""
        if self.pointer is None:
            return None, None
        refuse_other_definition(self.objects, self.pointer.record.definition, wanted.definition)
        return self.pointer.record, None

    def find_problem(self, period_id: str, wanted: WantedFiles) -> str | None:
        """Return why nothing can be taken over of a period; None if chunks can."""
        period = self._find_uploaded(period_id, check=wanted.check)
        if period is None:
            return "files of the map were lost or changed"
        has_format_3 = self._get_version(period_id, period.version).get_version(f"{ZARR}/zarr.json") is not None
        if has_format_3 is not (wanted.zarr_format == 3):
            return "another Zarr format"
        missing = [name for name in wanted.layers if name not in list_store_layers(period.record.outputs)]
        return f"new output {missing[0]}" if missing else None

    def is_current(self, period_id: str, wanted: WantedFiles) -> bool:
        """Return whether the files of a period are there, as they were published, and are those that are wanted."""
        period = self._find_uploaded(period_id, check=False)  # ``find_problem`` has read all of it
        if period is None or set(period.record.outputs) != set(wanted.outputs):
            return False
        names = {posixpath.basename(asset["href"]) for asset in period.item["assets"].values()}
        polygons = {name for name in POLYGON_FILES.values() if name in names}
        if wanted.polygons is None:
            return not polygons
        return polygons == set(wanted.polygons.files) and wanted.polygons.follow(period.record.polygons)

    def is_whole(self, record: MapRecord, *, check: bool) -> bool:
        """Return that nothing is to be computed: each run looks after items, references and catalogue."""
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

    def _find_uploaded(self, period_id: str, *, check: bool) -> UploadedScene | None:
        """Return a period whose files are all there, with the sizes that its item says; with ``check`` by content."""
        folder = self._find_version(period_id)
        item, record = (None, None) if folder is None else (folder.get(ITEM), folder.get(RECORD))
        if folder is None or item is None or record is None:
            return None
        version = posixpath.basename(folder.prefix)
        with suppress(ValueError, LookupError, TypeError, InputError):
            found = rebase_hrefs(parse_item(item.data, period_id), version)
            period = UploadedScene(period_id, found, parse_record(record.data, period_id), version)
            is_there = is_whole(self.objects, period)
            return period if is_there and (not check or is_upload_intact(self.objects, period, self.folder)) else None
        return None

    def _find_version(self, period_id: str) -> ObjectFolder | None:
        version = None if self.pointer is None else self.pointer.versions.get(period_id)
        return None if version is None else self._get_version(period_id, version)

    def _get_version(self, period_id: str, version: str) -> ObjectFolder:
        return self.objects.subfolder(period_id).subfolder(version)
