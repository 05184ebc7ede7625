"""Parameters that say where the scenes of a collection come from.

Prefect builds the form of a flow run from these models, and shows their docstrings, titles and descriptions in it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import core_schema

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.stac.extent import Box, Interval


def _check_box(value: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    try:
        Box(*value)
    except InputError as error:
        raise ValueError(str(error)) from None
    return value


def _check_interval(value: str) -> str:
    try:
        Interval.from_text(value)
    except InputError as error:
        raise ValueError(str(error)) from None
    return value


# The bounds are part of the form's schema as well, so that Prefect's server refuses values outside of them.
_Lon = Annotated[float, Field(ge=-180, le=180)]
_Lat = Annotated[float, Field(ge=-90, le=90)]
_Box = Annotated[tuple[_Lon, _Lat, _Lon, _Lat], AfterValidator(_check_box)]
_Time = Annotated[str, AfterValidator(_check_interval)]
_Days = Annotated[float, Field(gt=0, le=100_000)]


class _Source(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def get_location(self) -> str:
        """Return the URL, path or pattern of the source, by which people know it."""
        (location,) = self.model_dump(include={"url", "href", "pattern", "path", "folder"}).values()
        return str(location)


class _StacSource(_Source):
    """Box and time to search for, in a STAC API or in a static catalogue."""

    bbox: _Box | None = Field(
        None, description="West, south, east, north in degrees; west > east across the antimeridian"
    )
    datetime: _Time | None = Field(
        None, description="FROM/TO, each a year, month, day or RFC 3339 time; .. leaves an end open"
    )
    days: _Days | None = Field(None, description="In place of datetime: taken in the last so many days")

    @model_validator(mode="after")
    def _check_time(self) -> _StacSource:
        if self.datetime is not None and self.days is not None:
            raise ValueError("datetime and days are two ways to say the same; give one of them")
        return self

    def resolve_interval(self) -> str | None:
        """Return the interval as STAC text: ``datetime``, or from ``days`` before now on; None for any time."""
        if self.days is None:
            return self.datetime
        return f"{datetime.now(UTC) - timedelta(days=self.days):%Y-%m-%dT%H:%M:%SZ}/.."


class StacSearch(_StacSource):
    """Items that a STAC API finds."""

    model_config = ConfigDict(title="STAC API")

    kind: Literal["stac-api"] = "stac-api"
    url: str = Field(pattern=r"^https?://", description="The API's landing page")
    collections: tuple[str, ...] = Field(min_length=1, description="Ids of the collections to search")
    query: dict[str, Any] | None = Field(
        None, description='Query extension, such as {"eo:cloud_cover": {"lt": 20}}, where the API knows it'
    )
    filter: dict[str, Any] | None = Field(None, description="CQL2 as JSON, where the API knows the filter extension")
    limit: int | None = Field(None, ge=1, description="At most so many items; empty: all that are found")


class StacCatalog(_StacSource):
    """Items of a static STAC catalogue or collection, and of all below it."""

    model_config = ConfigDict(title="Static STAC catalogue")

    kind: Literal["stac-catalog"] = "stac-catalog"
    href: str = Field(min_length=1, description="Path or http(s) address of its catalog.json or collection.json")


class Glob(_Source):
    """Files and folders of band files whose paths match a pattern."""

    model_config = ConfigDict(title="Files by pattern")

    kind: Literal["glob"] = "glob"
    pattern: str = Field(min_length=1, description="Such as /data/scenes/**/*.tif; ** stands for folders")


class Manifest(_Source):
    """Scenes that a file lists."""

    model_config = ConfigDict(title="List of scenes")

    kind: Literal["manifest"] = "manifest"
    path: Path = Field(
        description="Lines of text (# comments), CSV or TSV with a column source, or JSON. What it names may be all "
        "that segment takes; relative paths count from its folder"
    )


class Inbox(_Source):
    """A folder that scenes are dropped into. What cannot be used fails once, and is set aside until it changes."""

    model_config = ConfigDict(title="Inbox folder")

    kind: Literal["inbox"] = "inbox"
    folder: Path = Field(description="Rasters, ZIP archives, STAC items and folders of band files that lie in it")
    settle: float = Field(10.0, ge=0, le=86_400, description="Seconds without a change after which a file is whole")
    allow: tuple[str, ...] = Field(
        (),
        description="What STAC items and links in it may name besides its own files: absolute folders, hosts, "
        "and buckets as s3://bucket",
    )
    notes: bool = Field(False, description="Leave FILE.rejected.txt, which says why, beside what is set aside")


class _AnyOfSchema:
    """Write the union as ``anyOf`` in the JSON schema; for ``oneOf`` Prefect's form would offer only a JSON field."""

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        json_schema = handler(schema)
        other_keys = json_schema.keys() - {"oneOf", "discriminator"}
        return {"anyOf": json_schema["oneOf"]} | {key: json_schema[key] for key in other_keys}


SceneSource = Annotated[StacSearch | StacCatalog | Glob | Manifest | Inbox, Field(discriminator="kind"), _AnyOfSchema()]
