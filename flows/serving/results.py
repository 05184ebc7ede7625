"""What the server may show: files of finished scenes below one folder, and nothing else."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePath
from secrets import token_hex
from threading import Lock
from typing import Any
from zlib import crc32

import pystac
import shapely
import shapely.geometry

from seamline.flows.collection.ledger import read_reasons
from seamline.flows.serving.catalogue_watch import CatalogueWatch
from seamline.flows.serving.checksums import ChecksumMonitor
from seamline.pipeline.common.errors import InputError, SeamlineError
from seamline.pipeline.common.layout import COG, ITEM, MAP_RECORD, OVERVIEW, PREVIEW, RECORD, ZARR
from seamline.pipeline.common.time_span import TimeSpan
from seamline.pipeline.products.layers import LAYERS
from seamline.pipeline.results.open import follow_copy, read_item_and_record, require_catalog
from seamline.pipeline.results.result_item import ResultItem
from seamline.pipeline.stac.assets import ASSETS, KnownFile
from seamline.pipeline.stac.extent import Box, Interval

POLYGONS_FILE = "polygons.fgb"
PROBABILITIES_FILE = "probabilities.tif"
LAYER_FILES = {
    "segmentation": COG,
    "overview": OVERVIEW,
    **{layer.name: f"{layer.name}.tif" for layer in LAYERS.values() if not layer.per_class},
}
"""File of each layer that may be drawn as tiles."""

SCENE_FILES = {ITEM: KnownFile("item", ITEM, "STAC item", pystac.MediaType.GEOJSON, ("metadata",))} | {
    file.name: file for file in ASSETS
}
"""Every file that may be downloaded, by its name."""

_STORE_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}|\.z[a-z]{1,20}")
"""Part of a path in a Zarr store, of version 3 or 2."""

_MOST_REJECTED = 200
"""Sources that the list of those that failed names."""
_MAX_NAME_BYTES = 255
"""Longest name of a file on Linux."""


class NotFound(SeamlineError):
    """There is nothing of that name that may be shown. HTTP 404."""


class DamagedResult(SeamlineError):
    """A result is unfinished, or differs from what its item says. HTTP 409."""


@dataclass(frozen=True)
class SceneList:
    """Summaries of scenes.

    Attributes:
        tag: Another one whenever a scene was published, replaced, withdrawn or found to be damaged. Other servers, and
            this one after a restart, have other tags.
        scenes: The summaries by name.
    """

    tag: str
    scenes: list[dict[str, Any]]


@dataclass
class _Listing:
    """The entries of the list of scenes, by name, and what tells which of them to make anew."""

    watch: CatalogueWatch
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    wrong_files: int = 0
    server: str = field(default_factory=lambda: token_hex(6))
    changes: int = 0
    lock: Lock = field(default_factory=Lock)


@dataclass(frozen=True)
class ServedResults:
    """The catalogue of results that a server shows; it is only read.

    Names come from requests, so every method checks that they lead to files below ``root``.
    """

    root: Path
    checksums: ChecksumMonitor = field(default_factory=ChecksumMonitor)
    _summaries: dict[str, tuple[object, dict[str, Any]]] = field(default_factory=dict)
    """Summary of each scene and the state that it was read in: to read hundreds of items takes seconds."""
    _listing: _Listing = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_listing", _Listing(CatalogueWatch(self.root)))

    @classmethod
    def from_folder(cls, folder: Path, allow_empty: bool = False) -> ServedResults:
        """Return the results in ``folder``.

        Args:
            folder: Folder of the catalogue.
            allow_empty: Take a folder without a catalogue, or one that does not exist yet, for an empty catalogue.

        Raises:
            InputError: There is no catalogue, or ``folder`` is a file.
        """
        if not allow_empty or (folder.exists() and not folder.is_dir()):
            require_catalog(folder)
        return cls(folder.resolve())

    def find_scenes(self, box: Box | None, interval: Interval | None) -> SceneList:
        """Summarize the scenes in a box and a time, those that `seamline query` finds; all without box and time.

        Args:
            box: The outline of the scene must meet it.
            interval: The time of the scene must lie in it.

        Returns:
            The summaries by name. A damaged scene has no place and no time.
        """
        found = self.summarize_scenes()
        scenes = found.scenes
        if box is not None:
            scenes = [scene for scene in scenes if _meets(scene.get("geometry"), box)]
        if interval is not None:
            scenes = [scene for scene in scenes if _was_taken_in(scene, interval)]
        return SceneList(found.tag, scenes)

    def summarize_scenes(self) -> SceneList:
        """Summarize each scene; of a damaged one there are its ``id`` and the ``problem``.

        At the first time each scene is looked at, later those that may have changed (see ``CatalogueWatch``).
        """
        listing = self._listing
        with listing.lock:
            due, wrong_files = listing.watch.list_due(), self.checksums.wrong_files
            if wrong_files != listing.wrong_files:
                due, listing.wrong_files = set(listing.watch.scenes), wrong_files
            for scene in {*due, *(listing.entries.keys() - listing.watch.scenes)}:
                before = listing.entries.pop(scene, None)
                with suppress(NotFound):  # a link that leads out of the root
                    if (self.root / scene / ITEM).exists():
                        listing.entries[scene] = self._summarize_or_blame(scene)
                listing.changes += listing.entries.get(scene) != before
            tag = f"{listing.server}-{listing.changes}"
            return SceneList(tag, [listing.entries[scene] for scene in sorted(listing.entries)])

    def list_rejected(self) -> list[dict[str, str]]:
        """Return name and reason of what collections could not segment at the last try, by name; at most some."""
        named = sorted((PurePath(source).name or source, reason) for source, reason in read_reasons(self.root).items())
        return [{"name": name, "reason": reason} for name, reason in named[:_MOST_REJECTED]]

    def _summarize_or_blame(self, scene: str) -> dict[str, Any]:
        try:
            return self.summarize_scene(scene)
        except DamagedResult as error:
            return {"id": scene, "problem": str(error)}

    def summarize_scene(self, scene: str) -> dict[str, Any]:
        """Return what the page shows of a scene.

        Raises:
            NotFound: There is no such scene.
            DamagedResult: The scene is unfinished, or a file is known to be damaged.
        """
        state = self._read_state(scene)
        known_state, summary = self._summaries.get(scene, (None, {}))
        if state is None or known_state != state:
            summary = self._read_summary(scene)
            self._summaries[scene] = (state, summary)
        return summary

    def _read_summary(self, scene: str) -> dict[str, Any]:
        item = self.open_item(scene)
        for name in (*LAYER_FILES.values(), PROBABILITIES_FILE, POLYGONS_FILE):
            if self.has_file(scene, name):
                self._check_file(scene, item, name, start_check=False)
        properties, acquired = item.properties, item.properties.acquired
        colors = {label.value: label.hex for label in item.label_classes}
        layers = [layer for layer, name in LAYER_FILES.items() if item.has_location and self.has_file(scene, name)]
        return {
            "id": scene,
            "map": properties.map_name if properties.period is not None else None,
            "period": properties.period if properties.map_name is not None else None,
            "date": acquired and acquired.start.isoformat(),
            "last_date": None if acquired is None or acquired.is_moment else acquired.end.isoformat(),
            "geometry": item.geometry if item.has_location else None,
            "bbox": item.bbox if item.has_location else None,
            "shape": properties.shape,
            "crs": properties.code,
            "classes": [
                {**entry.model_dump(), "color": colors.get(entry.value, "#999999")} for entry in properties.classes
            ],
            "layers": layers,
            "ranges": {
                name: [LAYERS[name].decode(value / LAYERS[name].scale) for value in item.find_range(LAYERS[name])]
                for name in layers
                if name in LAYERS
            },
            "polygons": item.has_location and self.has_file(scene, POLYGONS_FILE),
            "preview": self.has_file(scene, PREVIEW),
            "version": _digest_checksums(item),
        }

    def open_item(self, scene: str) -> ResultItem:
        """Return the item of a finished scene.

        Raises:
            NotFound: There is no such scene.
            DamagedResult: The scene is unfinished, or item and record do not belong together.
        """
        if not (self._is_inside(scene, ITEM) and (self.root / scene).is_dir()):
            raise NotFound(f"there is no scene {scene!r}")
        try:
            folder = self._find_folder(scene)
            if not self._is_below_root(folder / RECORD):
                raise DamagedResult(f"scene {scene}: its {RECORD} lies elsewhere")
            item, _ = read_item_and_record(folder)
        except InputError as error:
            raise DamagedResult(f"scene {scene}: {error.got}; {error.fix}") from error
        return item

    def has_file(self, scene: str, name: str) -> bool:
        """Return whether a scene has a file of this name that may be shown."""
        if not self._is_inside(scene, name):
            return False
        path = self._find_folder(scene) / name
        return path.is_file() and self._is_below_root(path)

    def find_file(self, scene: str, name: str) -> Path:
        """Return a file of a finished scene, and have its checksum compared in the background.

        Args:
            scene: Id of the scene.
            name: Name of the file in the scene's folder.

        Returns:
            The path of the file.

        Raises:
            NotFound: There is no such scene or file.
            DamagedResult: The scene is unfinished, the file's size is not the item's, or its checksum was found to be
                another before.
        """
        _, files = self.find_files(scene, [name])
        if not files:
            raise NotFound(f"scene {scene} has no {name}")
        return files[name]

    def find_files(self, scene: str, names: Iterable[str]) -> tuple[ResultItem, dict[str, Path]]:
        """Return the item of a finished scene and those of some files that it has, as ``find_file`` returns them.

        Raises:
            NotFound: There is no such scene.
            DamagedResult: The scene is unfinished, or one of the files is known to be damaged.
        """
        item, folder = self.open_item(scene), self._find_folder(scene)
        found = [name for name in names if self.has_file(scene, name)]
        for name in found:
            self._check_file(scene, item, name, start_check=True)
        return item, {name: folder / name for name in found}

    def find_map_record(self, period: str) -> Path:
        """Return the record of the map that a period belongs to; ``period`` is the id of its item.

        Raises:
            NotFound: There is no such period, or it is of no map whose record may be read.
            DamagedResult: The map does not lie below the root.
        """
        self.open_item(period)
        path = self._find_folder(period).parent / MAP_RECORD
        if not (path.is_file() and self._is_below_root(path)):
            raise NotFound(f"{period} lies in no map: there is no {MAP_RECORD}")
        return path

    def find_catalog_file(self, name: str) -> Path:
        """Return a file of the catalogue itself: its collection, or the table of items.

        Raises:
            NotFound: There is none, or it is a link that leads elsewhere.
        """
        if not (self._is_inside(name) and (self.root / name).is_file()):
            raise NotFound(f"the catalogue has no {name}")
        return self.root / name

    def find_store_file(self, scene: str, key: str) -> Path:
        """Return a file of a finished scene's Zarr store, such as ``segmentation/c/0/0``.

        Raises:
            NotFound: There is no such scene or file.
            DamagedResult: The scene is unfinished, or item and record do not belong together.
        """
        self.open_item(scene)
        store, parts = self._find_folder(scene) / ZARR, key.split("/")
        if self._is_below_root(store) and all(_STORE_KEY.fullmatch(part) for part in parts):
            path = store.joinpath(*parts)
            if path.is_file() and self._is_below_root(path):
                return path
        raise NotFound(f"scene {scene} has no {ZARR}/{key[:80]}")

    def list_files(self, scene: str) -> list[dict[str, Any]]:
        """Return name, title and size in bytes of each file of a finished scene that ``find_file`` returns.

        Raises:
            NotFound: There is no such scene.
            DamagedResult: The scene is unfinished, or item and record do not belong together.
        """
        self.open_item(scene)
        folder = self._find_folder(scene)
        return [
            {"name": name, "title": file.title, "size": (folder / name).stat().st_size}
            for name, file in SCENE_FILES.items()
            if self.has_file(scene, name)
        ]

    def _check_file(self, scene: str, item: ResultItem, name: str, start_check: bool) -> None:
        path, asset = self._find_folder(scene) / name, item.find_asset(name)
        if asset is None:
            return
        if asset.size not in (None, size := path.stat().st_size):
            raise DamagedResult(
                f"scene {scene}: {name} has {size} bytes, its item says {asset.size}; see `seamline verify`"
            )
        if asset.checksum is not None and self.checksums.is_known_wrong(path, asset.checksum, start_check):
            raise DamagedResult(f"scene {scene}: {name} is damaged, its checksum is another; see `seamline verify`")

    def _read_state(self, scene: str) -> object:
        """Return what changes when a file of the scene does; None where links hide that, or nothing is there."""
        if not self._is_inside(scene):
            return None
        folder = self._find_folder(scene)
        if folder.is_symlink() or not folder.is_dir():
            return None
        with os.scandir(folder) as entries:
            files = [(entry.name, entry.is_symlink(), entry.stat(follow_symlinks=False)) for entry in entries]
        if any(is_link for _, is_link, _ in files):
            return None
        states = sorted((name, status.st_ino, status.st_size, status.st_mtime_ns) for name, _, status in files)
        return self.checksums.wrong_files, states

    def _find_folder(self, scene: str) -> Path:
        """Return the folder with the files of a scene; of a map that the catalogue lists it is another one.

        Raises:
            DamagedResult: The map does not lie below the root.
        """
        folder = self.root / scene
        if (folder / RECORD).exists():
            return folder
        try:
            return follow_copy(self.root, folder)
        except InputError as error:
            raise DamagedResult(f"scene {scene}: {error.got}; {error.fix}") from error

    def _is_below_root(self, path: Path) -> bool:
        """Return whether no link leads to a path out of the root."""
        try:
            return path.resolve().is_relative_to(self.root)
        except (OSError, RuntimeError):  # links in a circle
            return False

    def _is_inside(self, *names: str) -> bool:
        """Return whether ``names`` form a path below the root that no link leads out of."""
        if any(
            name.startswith(".") or set(name) & set("/\\\0") or len(name.encode()) > _MAX_NAME_BYTES for name in names
        ):
            return False
        return self._is_below_root(self.root.joinpath(*names))


def _digest_checksums(item: ResultItem) -> str:
    """Return what changes when the rasters that are drawn do."""
    assets = (item.find_asset(name) for name in LAYER_FILES.values())
    return f"{crc32(repr([asset and asset.checksum for asset in assets]).encode()):08x}"


def _was_taken_in(scene: Mapping[str, Any], interval: Interval) -> bool:
    first, last = scene.get("date"), scene.get("last_date")
    if not first:
        return False
    return interval.includes(TimeSpan(datetime.fromisoformat(first), datetime.fromisoformat(last or first)))


def _meets(geometry: dict[str, Any] | None, box: Box) -> bool:
    return geometry is not None and bool(shapely.intersects(shapely.geometry.shape(geometry), box.outline))
