"""The fields of a scene's STAC item that Seamline reads."""

from __future__ import annotations

from typing import Annotated, Any

import shapely.errors
import shapely.geometry
from pydantic import AfterValidator, AwareDatetime, BaseModel, Field, model_validator

from seamline.pipeline.common.band_statistics import BandStatistics
from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.time_span import TimeSpan
from seamline.pipeline.products.layers import Layer
from seamline.pipeline.results.map_copies import MAP_PROPERTY, PERIOD_PROPERTY
from seamline.pipeline.stac.extent import Box
from seamline.pipeline.stac.items import UNKNOWN_TIME

Bounds = tuple[float, float, float, float]
"""West, south, east, north in degrees (WGS 84); west > east across the antimeridian."""


class _ClassEntry(BaseModel):
    name: str
    value: int
    title: str = ""
    description: str = ""
    color_hint: str = ""
    nodata: bool = False


class _Band(BaseModel):
    statistics: BandStatistics | None = None


class _Asset(BaseModel):
    href: str
    size: int | None = Field(None, alias="file:size")
    checksum: str | None = Field(None, alias="file:checksum")
    classes: list[_ClassEntry] = Field([], alias="classification:classes")
    bands: list[_Band] = []


class _ClassShare(BaseModel):
    name: str
    value: int
    share: float
    area_m2: float | None


class _Properties(BaseModel):
    datetime: AwareDatetime | None
    start_datetime: AwareDatetime | None = None
    end_datetime: AwareDatetime | None = None
    is_time_unknown: bool = Field(False, alias=UNKNOWN_TIME)
    shape: tuple[int, int] = Field(alias="proj:shape")
    code: str | None = Field(None, alias="proj:code")
    classes: list[_ClassShare] = Field(alias="seamline:classes")
    map_name: str | None = Field(None, alias=MAP_PROPERTY)
    period: str | None = Field(None, alias=PERIOD_PROPERTY)

    @model_validator(mode="after")
    def _check_times(self) -> _Properties:
        _ = self.acquired
        return self

    @property
    def acquired(self) -> TimeSpan | None:
        """When the scene was taken; None if unknown."""
        start, end = self.datetime or self.start_datetime, self.datetime or self.end_datetime
        if start is None or end is None:
            raise ValueError("no datetime, and no start_datetime and end_datetime")
        return None if self.is_time_unknown else TimeSpan(start, end)


def _validate_bounds(sides: Bounds) -> Bounds:
    try:
        Box(*sides)
    except InputError as error:
        raise ValueError(str(error)) from error
    return sides


def _validate_geometry(geometry: dict[str, Any]) -> dict[str, Any]:
    try:
        shapely.geometry.shape(geometry)
    except (shapely.errors.ShapelyError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"no geometry of GeoJSON ({error})") from error
    return geometry


class ResultItem(BaseModel):
    """The fields of a scene's STAC item that Seamline reads; other fields are ignored.

    Attributes:
        id: The scene's id.
        geometry: Footprint as GeoJSON in WGS 84, or None where the scene's location is unknown.
        bbox: Bounds of ``geometry``.
        properties: Time, shape, CRS and the shares of the classes.
        assets: The files of the scene by asset key.
    """

    id: str
    geometry: Annotated[dict[str, Any], AfterValidator(_validate_geometry)] | None
    bbox: Annotated[Bounds, AfterValidator(_validate_bounds)] | None = None
    properties: _Properties
    assets: dict[str, _Asset]

    @property
    def has_location(self) -> bool:
        """Whether it is known where on Earth the scene lies."""
        return self.geometry is not None and self.bbox is not None

    @property
    def label_classes(self) -> tuple[LabelClass, ...]:
        """The classes of the labels, as the asset of the labels describes them.

        Raises:
            ValueError: No asset describes classes.
        """
        assets = [self.assets[key] for key in ("segmentation", "zarr") if key in self.assets]
        entries = next((asset.classes for asset in assets if asset.classes), [])
        if not entries:
            raise ValueError("no classes")
        # STAC restricts names; a class whose own name is not allowed has it in the title.
        return tuple(
            LabelClass(entry.value, entry.title or entry.name, _parse_color(entry.color_hint), entry.description)
            for entry in entries
            if not entry.nodata
        )

    def find_asset(self, name: str) -> _Asset | None:
        """Return the asset of the file ``name`` in the item's folder, or None."""
        return next((asset for asset in self.assets.values() if asset.href.removeprefix("./") == name), None)

    def find_range(self, layer: Layer) -> tuple[float, float]:
        """Return the values of a layer that get the first and the last colour."""
        asset = self.assets.get(layer.name)
        return layer.find_range(asset.bands[0].statistics if asset and asset.bands else None)


def _parse_color(text: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(text)
    return red, green, blue
