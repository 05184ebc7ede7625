"""What the server may show: scenes whose results are whole, files that lie below one folder, nothing else."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from pipeline.catalog import CATALOG
from pipeline.errors import InputError, SeamlineError
from pipeline.items import ITEM, ITEMS
from pipeline.publish import COG, OVERVIEW, PREVIEW, RECORD
from pipeline.query import Box, Interval, query

POLYGONS, PROBABILITIES = "polygons.fgb", "probabilities.tif"
DRAWN = {
    "segmentation": COG,
    "overview": OVERVIEW,
    "confidence": "confidence.tif",
    "disagreement": "disagreement.tif",
}
"""Names of what may be drawn as tiles, and their files."""

_COSTLY = re.compile(r"(?i)\b(?!in\b|and\b|or\b|not\b)\w+\"?\s*\(|\b(?:select|from|with|values)\b|\[")
"""What may take any amount of time and memory; whoever follows a link would have asked for it."""

_LONGEST = 255
"""Bytes of a file's name."""


class NotThere(SeamlineError):
    """Nothing of that name may be shown. HTTP 404."""


class Damaged(SeamlineError):
    """A result is not finished, or not what its item says. HTTP 409."""


class _Class(BaseModel):
    name: str
    value: int
    color: str = Field("", alias="color_hint")


class _Asset(BaseModel):
    href: str
    size: int | None = Field(None, alias="file:size")
    checksum: str | None = Field(None, alias="file:checksum")
    classes: list[_Class] = Field([], alias="classification:classes")


class _Share(BaseModel):
    name: str
    value: int
    share: float
    area_m2: float | None


class _Properties(BaseModel):
    datetime: datetime
    unknown: bool = Field(False, alias="seamline:datetime_unknown")
    shape: tuple[int, int] = Field(alias="proj:shape")
    code: str | None = Field(None, alias="proj:code")
    classes: list[_Share] = Field(alias="seamline:classes")


class Item(BaseModel):
    """What the server reads of a scene's STAC item; other fields are not looked at."""

    id: str
    geometry: dict[str, Any] | None
    bbox: tuple[float, float, float, float] | None = None
    properties: _Properties
    assets: dict[str, _Asset]

    @property
    def placed(self) -> bool:
        """Whether it is known where on Earth the scene lies."""
        return self.geometry is not None and self.bbox is not None

    def asset(self, name: str) -> _Asset | None:
        """What the item says of the file ``name`` beside it."""
        return next((asset for asset in self.assets.values() if asset.href.removeprefix("./") == name), None)


@dataclass(frozen=True)
class Results:
    """The folder ``root`` that runs published to: read, never written."""

    root: Path

    @classmethod
    def at(cls, folder: Path) -> Results:
        """The results in ``folder``. Raises ``InputError`` where there is no catalogue."""
        if not (folder / CATALOG).is_file():
            raise InputError(f"results {folder}", got=f"no {CATALOG}",
                             expected="a folder that `seamline segment` wrote to", fix="check the path")  # fmt: skip
        return cls(folder.resolve())

    def found(self, box: str, interval: str, where: str) -> set[str]:
        """The scenes that `seamline query` finds. Raises ``InputError`` for a syntax error, ``NotThere``."""
        if not self._inside(ITEMS):
            raise NotThere(f"there is no {ITEMS}")
        if found := _COSTLY.search(where):
            raise InputError("where", got=found[0], expected="comparisons, without functions and subqueries",
                             fix="ask `seamline query`, which takes them")  # fmt: skip
        parsed = Box.parsed(box) if box else None
        items = query(self.root, parsed, where, Interval.parsed(interval) if interval else None)
        return {str(item["id"]) for item in items}

    def scenes(self) -> Iterator[dict[str, Any]]:
        """A summary of each scene, by name; of one that cannot be shown, why."""
        for path in sorted(self.root.glob(f"*/{ITEM}")):
            name = path.parent.name
            try:
                yield self.summary(name)
            except NotThere:  # a link to elsewhere
                continue
            except Damaged as error:
                yield {"id": name, "problem": str(error)}

    def summary(self, scene: str) -> dict[str, Any]:
        """What the page shows of a scene. Raises ``NotThere`` or ``Damaged``."""
        item = self.item(scene)
        about, labels = item.properties, item.asset(COG)
        colors = {entry.value: f"#{entry.color}" for entry in (labels.classes if labels else []) if entry.color}
        return {
            "id": scene,
            "date": None if about.unknown else about.datetime.isoformat(),
            "geometry": item.geometry if item.placed else None,
            "bbox": item.bbox if item.placed else None,
            "shape": about.shape,
            "crs": about.code,
            "classes": [{**entry.model_dump(), "color": colors.get(entry.value, "#999999")} for entry in about.classes],
            "layers": [layer for layer, name in DRAWN.items() if item.placed and self.has(scene, name)],
            "polygons": item.placed and self.has(scene, POLYGONS),
            "preview": self.has(scene, PREVIEW),
            "version": ((labels and labels.checksum) or "")[-12:],
        }

    def item(self, scene: str) -> Item:
        """The item of a finished scene. Raises ``NotThere`` or ``Damaged``."""
        if not (self._inside(scene, ITEM) and (self.root / scene).is_dir()):
            raise NotThere(f"there is no scene {scene!r}")
        try:
            item = Item.model_validate_json((self.root / scene / ITEM).read_bytes())
        except FileNotFoundError:
            raise Damaged(f"scene {scene} is not finished: it has no {ITEM}") from None
        except (OSError, ValidationError) as error:
            first = str(error).splitlines()[0]
            raise Damaged(f"scene {scene} has a damaged {ITEM} ({first}); see `seamline verify`") from error
        if item.id != scene:
            raise Damaged(f"folder {scene} has the {ITEM} of another scene, {item.id}")
        self._check_record(scene, item)
        return item

    def has(self, scene: str, name: str) -> bool:
        """Whether such a file may be shown."""
        return self._inside(scene, name) and (self.root / scene / name).is_file()

    def file(self, scene: str, name: str) -> Path:
        """A file of a finished scene, of the size that the item says. Raises ``NotThere`` or ``Damaged``."""
        item = self.item(scene)
        if not self.has(scene, name):
            raise NotThere(f"scene {scene} has no {name}")
        path = self.root / scene / name
        asset, size = item.asset(name), path.stat().st_size
        if asset is not None and asset.size not in (None, size):
            raise Damaged(f"scene {scene}: {name} has {size} bytes, its item says {asset.size}; see `seamline verify`")
        return path

    def _inside(self, *names: str) -> bool:
        """Whether the names lead to something below the root, and no link leads out of it."""
        if any(name.startswith(".") or set(name) & set("/\\\0") or len(name.encode()) > _LONGEST for name in names):
            return False
        try:
            return self.root.joinpath(*names).resolve().is_relative_to(self.root)
        except (OSError, RuntimeError):  # links in a circle
            return False

    def _check_record(self, scene: str, item: Item) -> None:
        """The item seals a result: it is written last, and vouches for the record of the run."""
        asset = item.asset(RECORD)
        if asset is None or asset.checksum is None or not self._inside(scene, RECORD):
            raise Damaged(f"scene {scene} is not sealed: its item vouches for no {RECORD}")
        try:
            digest = hashlib.sha256((self.root / scene / RECORD).read_bytes()).hexdigest()
        except OSError:
            digest = "nothing"
        if not asset.checksum.endswith(digest):
            raise Damaged(f"scene {scene}: its item does not speak of the {RECORD} beside it; see `seamline verify`")
