"""The record of a map, ``map.json``: what the map is, and of which scenes it was made.

Only this module validates and writes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import odc.geo.crs
import shapely.errors
import shapely.geometry
from affine import Affine
from odc.geo.geobox import GeoBox
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.common.errors import DamagedFileError, InputError, OtherRunError
from seamline.pipeline.common.layout import MAP_RECORD
from seamline.pipeline.common.time_span import TimeSpan
from seamline.pipeline.geometry.map_grid import MapGrid
from seamline.pipeline.mosaic.periods import Period, PeriodRule
from seamline.pipeline.products.run_record import describe_validation_error
from seamline.pipeline.storage.atomic import atomic_write
from seamline.pipeline.storage.digests import combine_digests
from seamline.pipeline.storage.object_store import ObjectFolder

_VERSION: Literal[1] = 1
"""Version of the layout. Increase it when a field is added that has no default, or changes its meaning."""
_FIRST_DAY, _UNKNOWN_DAY = datetime(1970, 1, 1, tzinfo=UTC), 2**16 - 1
_DIGEST = "digest"
"""Field of the file that holds the digest of all others."""
_LONGEST_VALUE = 60
"""Characters of a value in a message."""


def _check_period_rule(text: str) -> str:
    try:
        PeriodRule.parse(text)
    except InputError as error:
        raise ValueError(str(error)) from error
    return text


def _check_period_name(name: str) -> str:
    Period.from_name(name)
    return name


def _check_area(geometry: dict[str, Any]) -> dict[str, Any]:
    """Return an area as JSON has it, with lists where shapely has tuples: areas are compared with those of files."""
    try:
        shape = shapely.geometry.shape(geometry)
    except (shapely.errors.ShapelyError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"no geometry of GeoJSON ({error})") from error
    if shape.is_empty or shape.area == 0:
        raise ValueError("no polygon with an area")
    return dict(json.loads(json.dumps(geometry)))


class _Part(BaseModel):
    """A part of the record: unchangeable. Fields that later versions add are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")


class MapClass(_Part):
    """A class of a map: its label, its name, and its colour as ``RRGGBB``."""

    value: int = Field(ge=0, le=254)
    name: str
    color: str = Field(pattern="^[0-9A-F]{6}$")

    @classmethod
    def from_label_class(cls, label: LabelClass) -> MapClass:
        """Return the same class as the record has it; its description is left out."""
        return cls(value=label.value, name=label.name, color=label.hex[1:].upper())

    def to_label_class(self) -> LabelClass:
        """Return the same class as the rasters have it."""
        red, green, blue = bytes.fromhex(self.color)
        return LabelClass(self.value, self.name, (red, green, blue))


class MapDefinition(_Part):
    """What somebody asked for: two maps of one definition differ only by their scenes.

    Attributes:
        crs: code or WKT of the map's CRS.
        resolution: edge of a pixel in units of the CRS.
        bounds: left, bottom, right, top in the CRS; None where the scenes decide.
        aoi: area of interest as GeoJSON in the CRS; None without one.
        period: rule by which scenes are put into periods.
        where: SQL expression that scenes fulfil, or an empty text.
        model: name of the model of all scenes.
        model_digest: SHA-256 of the model.
        classes: classes of the labels, in their order.
        unseen: names of the classes that say that the ground was not seen, in the order of the classes.
        labels_allowed: whether scenes without probabilities vote with their labels.
    """

    crs: str
    resolution: float = Field(gt=0, allow_inf_nan=False)
    bounds: tuple[float, float, float, float] | None = None
    aoi: Annotated[dict[str, Any], AfterValidator(_check_area)] | None = None
    period: Annotated[str, AfterValidator(_check_period_rule)] = "all"
    where: str = ""
    model: str
    model_digest: str
    classes: tuple[MapClass, ...] = Field(min_length=1)
    unseen: tuple[str, ...] = ()
    labels_allowed: bool = False

    @model_validator(mode="after")
    def _check_unseen(self) -> MapDefinition:
        if unknown := set(self.unseen) - {entry.name for entry in self.classes}:
            raise ValueError(f"no class is called {min(unknown)!r}")
        return self

    @property
    def label_classes(self) -> tuple[LabelClass, ...]:
        """The classes as the rasters have them."""
        return tuple(entry.to_label_class() for entry in self.classes)

    @property
    def unseen_positions(self) -> frozenset[int]:
        """Positions of the unseen classes among the classes."""
        return frozenset(position for position, entry in enumerate(self.classes) if entry.name in self.unseen)

    @cached_property
    def area(self) -> str | None:
        """The area of interest as WKT in the CRS; None without one."""
        return None if self.aoi is None else str(shapely.geometry.shape(self.aoi).wkt)

    def find_differences(self, other: MapDefinition) -> list[str]:
        """Return the names of the fields in which another definition differs, as JSON has them."""
        own, others = self.model_dump(mode="json"), other.model_dump(mode="json")
        return [name for name in MapDefinition.model_fields if own[name] != others[name]]

    @property
    def digest(self) -> str:
        """Digest of all fields."""
        return combine_digests(self.model_dump(mode="json"))


class SceneGrid(_Part):
    """The grid of a scene: code or WKT of its CRS, six numbers of its transform, and (height, width)."""

    crs: str
    transform: tuple[float, float, float, float, float, float]
    shape: tuple[int, int]

    @classmethod
    def from_geobox(cls, grid: GeoBox) -> SceneGrid:
        """Return a grid as the record has it; it must have a CRS."""
        height, width = grid.shape
        return cls(crs=name_crs(grid.crs), transform=tuple(grid.transform)[:6], shape=(height, width))

    @cached_property
    def geobox(self) -> GeoBox:
        """The grid."""
        return GeoBox(self.shape, Affine(*self.transform), self.crs)


class MapScene(_Part):
    """A scene that a map was made of.

    Attributes:
        id: its id.
        version: checksum of its ``run.json``: another one whenever the scene was segmented or published again.
        acquired: first and last moment at which it was taken; None if unknown.
        grid: its grid.
        votes: what it votes with.
        storage: the files that the votes are read from: the Zarr store, or COGs.
        folder: path or ``s3://`` address of the folder of these files.
        href: path or address of its item.
    """

    id: str
    version: str
    acquired: tuple[AwareDatetime, AwareDatetime] | None
    grid: SceneGrid
    votes: Literal["probabilities", "labels"]
    storage: Literal["zarr", "cog"]
    folder: str
    href: str

    @property
    def time_span(self) -> TimeSpan | None:
        """When it was taken; None if unknown."""
        return self.acquired and TimeSpan(*self.acquired)

    @property
    def day(self) -> int | None:
        """The day in UTC of the middle of its time, in days since 1970-01-01; None if unknown, or beyond 16 bits."""
        if self.acquired is None:
            return None
        start, end = self.acquired
        days = (start + (end - start) / 2 - _FIRST_DAY).days
        return days if 0 <= days < _UNKNOWN_DAY else None


class SkippedScene(_Part):
    """A scene that should be in a map and could not be read, and why."""

    id: str
    reason: str


class MapExtent(_Part):
    """The extent of a map in pixels of the lattice of its resolution, as ``MapGrid`` has it."""

    left: int
    top: int
    width: int = Field(gt=0)
    height: int = Field(gt=0)


class MapRecord(_Part):
    """The record of a map.

    Attributes:
        record_version: version of this layout.
        definition: what the map is.
        outputs: names of the outputs of each period, in order; what a pixel gets does not depend on them.
        grid: its extent.
        periods: the scenes of each period in order of their ids, by the names of the periods.
        skipped: scenes that could not be read.
        store_size: bytes of the files of ``map.zarr``; None if there is none.
        updated: when it was published, ISO 8601 with a time zone.
    """

    record_version: Literal[1] = _VERSION
    definition: MapDefinition
    outputs: tuple[str, ...]
    grid: MapExtent
    periods: dict[Annotated[str, AfterValidator(_check_period_name)], tuple[MapScene, ...]] = Field(min_length=1)
    skipped: tuple[SkippedScene, ...] = ()
    store_size: int | None = None
    updated: str = ""

    @property
    def map_grid(self) -> MapGrid:
        """The grid of the map."""
        crs, extent = odc.geo.crs.CRS(self.definition.crs), self.grid
        return MapGrid(crs, self.definition.resolution, extent.left, extent.top, extent.width, extent.height)

    def compute_period_digest(self, period: str) -> str:
        """Return a digest of what decides the labels of a period: the definition of the map and its scenes."""
        scenes = {scene.id: scene.version for scene in self.periods[period]}
        return combine_digests({"definition": self.definition.digest, **scenes})

    def is_same_map(self, other: MapRecord) -> bool:
        """Return whether two records are of the same map: definition, extent and scenes, by their ids and versions."""
        is_same_definition = not self.definition.find_differences(other.definition)
        return is_same_definition and (self.grid, self._versions) == (other.grid, other._versions)

    @property
    def _versions(self) -> dict[str, set[tuple[str, str]]]:
        return {name: {(scene.id, scene.version) for scene in scenes} for name, scenes in self.periods.items()}


def name_crs(crs: odc.geo.crs.CRS) -> str:
    """Return an authority's code of exactly this CRS, such as ``EPSG:32620``, or else its WKT."""
    authority = crs.proj.to_authority(min_confidence=100)
    return str(crs.proj.to_wkt("WKT2_2019")) if authority is None else ":".join(authority)


def read_map_record(folder: Path) -> MapRecord | None:
    """Read the record in the folder of a map; None if there is none.

    Raises:
        DamagedFileError: it cannot be read, or is not as it was written.
        InputError: it is of a version that is not known here.
    """
    try:
        return parse_map_record((folder / MAP_RECORD).read_bytes(), folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _record_error(folder, f"no readable JSON object ({error})") from error


def parse_map_record(data: bytes, folder: Path | ObjectFolder) -> MapRecord:
    """Return a record from the bytes of ``map.json``.

    Args:
        data: the bytes.
        folder: where they were read, for messages.

    Raises:
        DamagedFileError: they are not what was written.
        InputError: they are of a version that is not known here.
    """
    try:
        values = from_json(data)  # unlike json, a ValueError for documents that are nested too deep
        if not isinstance(values, dict):
            raise ValueError("a list or a number")
    except ValueError as error:
        raise _record_error(folder, f"no readable JSON object ({error})") from error
    version = values.get("record_version")
    if type(version) is not int or version != _VERSION:
        raise InputError(
            f"{MAP_RECORD} of map {folder}",
            got=f"record_version {version!r}",
            expected=f"{_VERSION}",
            fix="use the version of Seamline that wrote it, or give another --out",
        )
    digest = values.pop(_DIGEST, None)
    try:
        record = MapRecord.model_validate(values)
    except ValidationError as error:
        raise _record_error(folder, describe_validation_error(error)) from error
    if digest != combine_digests(values):
        raise _record_error(folder, f"another content than that of its {_DIGEST}")
    return record


def write_map_record(folder: Path, record: MapRecord) -> None:
    """Write the record to the folder of a map in one step."""
    with atomic_write(folder / MAP_RECORD, shared=True) as part:
        part.write_bytes(encode_map_record(record))


def encode_map_record(record: MapRecord) -> bytes:
    """Return the content of ``map.json``."""
    values = record.model_dump(mode="json")
    text = json.dumps({**values, _DIGEST: combine_digests(values)}, indent=2, ensure_ascii=False)
    return f"{text}\n".encode()


def refuse_other_definition(folder: Path | ObjectFolder, there: MapDefinition, wanted: MapDefinition) -> None:
    """Refuse to renew a map by another definition than it was made by.

    Args:
        folder: the folder of the map.
        there: definition of the map in it.
        wanted: definition of the map that is asked for.

    Raises:
        OtherRunError: they differ; the message names each field that does.
    """
    before, after = there.model_dump(mode="json"), wanted.model_dump(mode="json")
    if names := there.find_differences(wanted):
        raise OtherRunError(
            f"map {folder}",
            got=f"a map of another definition: {_format_fields(names, before)}",
            expected=_format_fields(names, after),
            fix="give another --out, or --overwrite to make this map anew",
        )


def _format_fields(names: list[str], values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_format_value(name, values[name])}" for name in names)


def _format_value(name: str, value: Any) -> str:
    if name == "model_digest":
        return f"{value[:12]}…"
    if name == "classes":
        value = [f"{entry['value']} {entry['name']} #{entry['color']}" for entry in value]
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
    return (text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…") or "none"


def _record_error(folder: Path | ObjectFolder, got: str) -> DamagedFileError:
    return DamagedFileError(
        f"{MAP_RECORD} of map {folder}",
        got=got,
        expected="what Seamline wrote",
        fix="bring it back, or give the command again that made the map, which restores it"
        if isinstance(folder, Path)
        else "bring it back, or make the map anew with --overwrite",
    )
