"""What of a scene is published in object storage: its item, the record of its run, and the version its files lie in."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from seamline.pipeline.common.layout import CATALOG, ITEM, ITEMS, RECORD
from seamline.pipeline.products.run_record import RunRecord, parse_record
from seamline.pipeline.stac.items import ItemDict, parse_item, read_run_checksums
from seamline.pipeline.stac.waiting import list_notes, list_scenes
from seamline.pipeline.storage.object_store import ObjectFolder, map_concurrently


@dataclass(frozen=True)
class UploadedScene:
    """A scene that is published in object storage.

    Attributes:
        scene: id of the scene.
        item: its STAC item, whose assets lead to the files of one version.
        record: the record of its run.
        version: name of the folder that its files lie in.
    """

    scene: str
    item: ItemDict
    record: RunRecord
    version: str


def find_uploaded(catalogue: ObjectFolder, scene: str) -> UploadedScene | None:
    """Return what is published of a scene; None if nothing is, or nothing that Seamline wrote.

    Raises:
        InputError: its ``run.json`` is no record, or one of another version.
    """
    folder = catalogue.subfolder(scene)
    pointer = folder.get(ITEM)
    if pointer is None:
        return None
    try:
        item = parse_item(pointer.data, folder.to_url(ITEM))
        key = str(item["assets"]["run"]["href"]).removeprefix("./")
        if "://" in key:  # an item of a map, whose files lie there
            return None
        record = folder.get(key)
        if record is None:
            return None
        return UploadedScene(scene, item, parse_record(record.data, scene), key.rpartition("/")[0])
    except (ValueError, LookupError, TypeError):
        return None


@dataclass(frozen=True)
class Listing:
    """What catalogue and table list.

    Attributes:
        checksums: checksum of the record of each scene of the table; empty without a catalogue.
        waiting: scenes that are listed as they are at the next renewal.
    """

    checksums: Mapping[str, str | None]
    waiting: Collection[str]

    def lists(self, uploaded: UploadedScene) -> bool:
        """Return whether a scene is listed as it is published, or waits for that."""
        return self.lists_item(uploaded.scene, uploaded.item)

    def lists_item(self, scene: str, item: ItemDict) -> bool:
        """Return whether the item of a scene is listed, or waits for that."""
        with suppress(LookupError, TypeError):
            return scene in self.waiting or self.checksums.get(scene) == item["assets"]["run"]["file:checksum"]
        return False


def read_listing(catalogue: ObjectFolder) -> Listing:
    """Read what catalogue and table list; nothing of a table that is damaged."""
    waiting, table = list_scenes(list_notes(catalogue)), catalogue.get(ITEMS)
    if table is not None and catalogue.get_version(CATALOG) is not None:
        with suppress(ValueError, LookupError, TypeError):
            return Listing(read_run_checksums(BytesIO(table.data)), waiting)
    return Listing({}, waiting)


def is_whole(catalogue: ObjectFolder, uploaded: UploadedScene) -> bool:
    """Return whether all files of the version are there, with the sizes that the item says."""
    sizes = catalogue.subfolder(uploaded.scene).list_sizes(uploaded.version)
    for asset in uploaded.item["assets"].values():
        key, size = asset["href"].removeprefix("./"), asset["file:size"]
        in_folder = sum(part_size for name, part_size in sizes.items() if name.startswith(f"{key}/"))
        if sizes.get(key, in_folder) != size:
            return False
    return True


def download(catalogue: ObjectFolder, uploaded: UploadedScene, folder: Path) -> None:
    """Bring the files of a published scene back into a working folder; the record of the run comes last.

    Args:
        catalogue: object storage of the catalogue.
        uploaded: the scene.
        folder: where its files go.
    """
    source = catalogue.subfolder(uploaded.scene).subfolder(uploaded.version)
    download_files(source, folder, [key for key in source.list_sizes() if key != RECORD])
    source.download(RECORD, folder / RECORD)


def download_files(source: ObjectFolder, folder: Path, keys: Iterable[str]) -> None:
    """Write objects to files of the same names below a folder, several at a time.

    Args:
        source: where they lie.
        folder: where the files go.
        keys: their keys below ``source``.
    """
    for _ in map_concurrently(lambda key: source.download(key, folder / key), keys):
        pass
