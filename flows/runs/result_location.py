"""Where results go: a folder, or object storage with a working folder beside it."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from seamline.flows.settings.folders import get_cache_folder
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import ITEM, MAP_RECORD, RECORD, RUN_DIRECTORY
from seamline.pipeline.execution.run_directory import RunDirectory
from seamline.pipeline.publishing.upload import list_waiting_objects
from seamline.pipeline.results.map_copies import MAP_PROPERTY
from seamline.pipeline.stac.catalog import list_waiting_scenes
from seamline.pipeline.storage.atomic import make_absolute
from seamline.pipeline.storage.object_store import ObjectFolder, is_object_url


@dataclass(frozen=True)
class CatalogLocation:
    """The folder of a catalogue, and the object storage that it is published to, if it is only a working folder.

    Attributes:
        folder: absolute path of the catalogue, or of the working folder.
        objects: where the catalogue is published; None if ``folder`` is the catalogue.
    """

    folder: Path
    objects: ObjectFolder | None = None

    @classmethod
    def from_out(cls, out: str | Path, work: Path | None, *, is_written: bool = True) -> CatalogLocation:
        """Return the location that a user named.

        Chunks have one writer each, wait for each other's votes and are renamed, which object storage cannot do.
        So a run that publishes there works in a folder of its own below ``work``.

        Args:
            out: a folder, or ``s3://bucket/prefix``.
            work: where working folders lie; None takes ``$SEAMLINE_WORK`` or the user's cache.
            is_written: look whether object storage can be written to.

        Raises:
            InputError: the address is none, or nothing can be written there.
        """
        if not is_object_url(str(out)):
            return cls(make_absolute(out))  # workers may have another working directory
        objects = ObjectFolder.from_url(str(out))
        if is_written:
            objects.check_writable(f"--out {objects}")
        folder = make_absolute(work or _default_work_folder())
        return cls(folder / "s3" / objects.bucket / objects.prefix, objects)

    def list_waiting(self) -> None:
        """Renew catalogue and table if published scenes wait for that.

        Raises:
            RunError: others replace them again and again.
        """
        if self.objects is None:
            list_waiting_scenes(self.folder)
        else:
            list_waiting_objects(self.objects)

    def refuse_id_of_map(self, scene_id: str) -> None:
        """Refuse the id of a scene that a map has, or a period of a map: their items would be replaced.

        Raises:
            InputError: it is one.
        """
        if self.objects is not None:
            place = self.objects.subfolder(scene_id)
            is_map, found = place.get_version(MAP_RECORD) is not None, place.get(ITEM)
            item = None if found is None else found.data
        else:
            folder = self.folder / scene_id
            is_map, item = os.path.isfile(folder / MAP_RECORD), None  # noqa: PTH113  names may be too long
            with suppress(OSError):
                item = (folder / ITEM).read_bytes()
        with suppress(ValueError, LookupError, TypeError):
            is_map = is_map or MAP_PROPERTY in json.loads(item or b"")["properties"]
        if is_map:
            raise InputError(
                f"scene {scene_id}",
                got=f"a map of this name, or a period of one, in {self.objects or self.folder}",
                expected="a name that no map and no period of a map has",
                fix="give the scene's file another name, or give another --out",
            )

    def has_result(self, scene_id: str) -> bool:
        """Return whether a scene is published here.

        In object storage that means that its item is there, on disk that all files that the item names are there.
        """
        if self.objects is not None:
            return self.objects.subfolder(scene_id).get_version(ITEM) is not None
        folder = self.folder / scene_id
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
            assets = json.loads((folder / ITEM).read_text(encoding="utf-8"))["assets"].values()
            return (folder / RECORD).is_file() and all((folder / asset["href"]).exists() for asset in assets)
        return False


@dataclass(frozen=True)
class ResultLocation:
    """Where the results of one scene go: the folder ``scene_id`` of a catalogue."""

    catalog: CatalogLocation
    scene_id: str

    @property
    def folder(self) -> Path:
        """The scene's folder on disk."""
        return self.catalog.folder / self.scene_id

    @property
    def run_directory(self) -> RunDirectory:
        """Run directory that holds the state of an unfinished run."""
        return RunDirectory(self.folder / RUN_DIRECTORY)

    @property
    def objects(self) -> ObjectFolder | None:
        """Object storage of the catalogue that the results are uploaded to; None if they stay on disk."""
        return self.catalog.objects

    @property
    def url(self) -> str:
        """Address of the scene in object storage; empty if the results stay on disk."""
        return "" if self.objects is None else self.objects.subfolder(self.scene_id).to_url()


def _default_work_folder() -> Path:
    if folder := os.environ.get("SEAMLINE_WORK"):
        return Path(folder)
    return get_cache_folder() / "work"
