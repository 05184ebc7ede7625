"""What the server may show: scenes whose results are whole, files that lie below one folder, nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seamline.flows.serving.checksums import ChecksumMonitor
from seamline.pipeline.common.errors import InputError, SeamlineError
from seamline.pipeline.common.layout import CATALOG, COG, ITEM, ITEMS, OVERVIEW, PREVIEW, RECORD
from seamline.pipeline.results.open import ResultItem, read_item_and_record
from seamline.pipeline.stac.query import Box, Interval, query_items

POLYGONS_FILE, PROBABILITIES_FILE = "polygons.fgb", "probabilities.tif"
LAYER_FILES = {
    "segmentation": COG,
    "overview": OVERVIEW,
    "confidence": "confidence.tif",
    "disagreement": "disagreement.tif",
}
"""Names of what may be drawn as tiles, and their files."""

_COSTLY = re.compile(r"(?i)\b(?!in\b|and\b|or\b|not\b)\w+\"?\s*\(|\b(?:select|from|with|values)\b|\[|/\*|--")
"""What may take any amount of time and memory, and comments, which would hide it.

Whoever follows a link would have asked for it.
"""

_MAX_NAME_BYTES = 255
"""Bytes of a file's name."""


class NotFound(SeamlineError):
    """Nothing of that name may be shown. HTTP 404."""


class DamagedResult(SeamlineError):
    """A result is not finished, or not what its item says. HTTP 409."""


@dataclass(frozen=True)
class ServedResults:
    """The folder ``root`` that runs published to: read, never written."""

    root: Path
    checksums: ChecksumMonitor = field(default_factory=ChecksumMonitor)

    @classmethod
    def from_folder(cls, folder: Path) -> ServedResults:
        """The results in ``folder``. Raises ``InputError`` where there is no catalogue."""
        if not (folder / CATALOG).is_file():
            raise InputError(f"results {folder}", got=f"no {CATALOG}",
                             expected="a folder that `seamline segment` wrote to", fix="check the path")  # fmt: skip
        return cls(folder.resolve())

    def found(self, box: str, interval: str, where: str) -> set[str]:
        """The scenes that `seamline query` finds. Raises ``InputError`` for a syntax error, ``NotFound``."""
        if not self._inside(ITEMS):
            raise NotFound(f"there is no {ITEMS}")
        if found := _COSTLY.search(where):
            raise InputError("where", got=found[0], expected="comparisons, without functions, subqueries and comments",
                             fix="ask `seamline query`, which takes them")  # fmt: skip
        parsed = Box.from_text(box) if box else None
        items = query_items(self.root, parsed, where, Interval.from_text(interval) if interval else None)
        return {str(item["id"]) for item in items}

    def scenes(self) -> Iterator[dict[str, Any]]:
        """A summary of each scene, by name; of one that cannot be shown, why."""
        for path in sorted(self.root.glob(f"*/{ITEM}")):
            name = path.parent.name
            try:
                yield self.summary(name)
            except NotFound:  # a link to elsewhere
                continue
            except DamagedResult as error:
                yield {"id": name, "problem": str(error)}

    def summary(self, scene: str) -> dict[str, Any]:
        """What the page shows of a scene. Raises ``NotFound`` or ``DamagedResult``."""
        item = self.item(scene)
        for name in (*LAYER_FILES.values(), PROBABILITIES_FILE, POLYGONS_FILE):
            if self.has(scene, name):
                self._check(scene, item, name, look=False)
        about, labels = item.properties, item.find_asset(COG)
        colors = {label.value: label.hex for label in item.label_classes}
        return {
            "id": scene,
            "date": None if about.is_time_unknown else about.datetime.isoformat(),
            "geometry": item.geometry if item.has_location else None,
            "bbox": item.bbox if item.has_location else None,
            "shape": about.shape,
            "crs": about.code,
            "classes": [{**entry.model_dump(), "color": colors.get(entry.value, "#999999")} for entry in about.classes],
            "layers": [layer for layer, name in LAYER_FILES.items() if item.has_location and self.has(scene, name)],
            "polygons": item.has_location and self.has(scene, POLYGONS_FILE),
            "preview": self.has(scene, PREVIEW),
            "version": ((labels and labels.checksum) or "")[-12:],
        }

    def item(self, scene: str) -> ResultItem:
        """The item of a finished scene. Raises ``NotFound`` or ``DamagedResult``."""
        if not (self._inside(scene, ITEM) and (self.root / scene).is_dir()):
            raise NotFound(f"there is no scene {scene!r}")
        if not self._inside(scene, RECORD):
            raise DamagedResult(f"scene {scene}: its {RECORD} lies elsewhere")
        try:
            item, _ = read_item_and_record(self.root / scene)
        except InputError as error:
            raise DamagedResult(f"scene {scene}: {error.got}; {error.fix}") from error
        return item

    def has(self, scene: str, name: str) -> bool:
        """Whether such a file may be shown."""
        return self._inside(scene, name) and (self.root / scene / name).is_file()

    def file(self, scene: str, name: str) -> Path:
        """A file of a finished scene, of the size that the item says. Raises ``NotFound`` or ``DamagedResult``.

        Its checksum is looked at meanwhile: what is another file is refused from then on.
        """
        item = self.item(scene)
        if not self.has(scene, name):
            raise NotFound(f"scene {scene} has no {name}")
        self._check(scene, item, name, look=True)
        return self.root / scene / name

    def _check(self, scene: str, item: ResultItem, name: str, look: bool) -> None:
        path, asset = self.root / scene / name, item.find_asset(name)
        if asset is None:
            return
        if asset.size not in (None, size := path.stat().st_size):
            raise DamagedResult(
                f"scene {scene}: {name} has {size} bytes, its item says {asset.size}; see `seamline verify`"
            )
        if asset.checksum is not None and self.checksums.is_known_wrong(path, asset.checksum, look):
            raise DamagedResult(f"scene {scene}: {name} is damaged, its checksum is another; see `seamline verify`")

    def _inside(self, *names: str) -> bool:
        """Whether the names lead to something below the root, and no link leads out of it."""
        if any(
            name.startswith(".") or set(name) & set("/\\\0") or len(name.encode()) > _MAX_NAME_BYTES for name in names
        ):
            return False
        try:
            return self.root.joinpath(*names).resolve().is_relative_to(self.root)
        except (OSError, RuntimeError):  # links in a circle
            return False
