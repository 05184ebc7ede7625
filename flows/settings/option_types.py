"""Types of the options of a run: what each accepts, and how a wrong value is reported."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from seamline.pipeline.common.time_span import FORMS, TimeSpan


def option_error(expected: str) -> PydanticCustomError:
    """Return the error of a wrong option; the command line reads ``expected`` from its context."""
    return PydanticCustomError("option", "Input should be {expected}", {"expected": expected})


def expect(what: str) -> WrapValidator:
    """Return a validator that reports one sentence in place of pydantic's errors of each nested type.

    Args:
        what: What the option accepts, as a user reads it.
    """

    def check(value: object, validate: ValidatorFunctionWrapHandler) -> object:
        try:
            return validate(value)
        except ValidationError:
            raise option_error(what) from None

    return WrapValidator(check)


def _replace_auto(value: object) -> object:
    return None if value == "auto" else value


def _parse_nodata(value: object) -> object:
    """Convert the text that the command line gives to a number; files and forms give numbers."""
    return float(value) if isinstance(value, str) and value != "none" else value


def _check_not_zero(value: float) -> float:
    if value == 0:
        raise ValueError("every value would be the same")
    return value


def _check_has_labels(outputs: tuple[str, ...]) -> tuple[str, ...]:
    if not {"cog", "zarr"} & set(outputs):
        raise ValueError("no labels")
    return outputs


def _to_path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)


def _write_time(value: object) -> object:
    """Convert a date or time, which Python gives, to the text that the command line gives."""
    return value.isoformat() if isinstance(value, date) else value


def _check_time(text: str) -> str:
    TimeSpan.from_text(text)
    return text


_AUTO = BeforeValidator(_replace_auto)
_Count = Annotated[int, Field(ge=1)]
_Length = Annotated[int, Field(ge=0)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_UpTo256 = Annotated[int, Field(ge=1, le=256)]
_UpTo1000 = Annotated[int, Field(ge=1, le=1000)]
_UpTo1024 = Annotated[int, Field(ge=1, le=1024)]

WindowEdge = Annotated[_Count | None, _AUTO, expect("a whole number from 1, or auto")]
MarginWidth = Annotated[_Length | None, _AUTO, expect("a whole number from 0, or auto")]
ChunkTiles = Annotated[_UpTo1000 | None, expect("a whole number from 1 to 1000")]
Workers = Annotated[_UpTo256 | None, expect("a whole number from 1 to 256")]
Batch = Annotated[_UpTo1024 | None, expect("a whole number from 1 to 1024")]
Threads = Annotated[_UpTo1024 | None, expect("a whole number from 1 to 1024")]
Outputs = Annotated[
    tuple[Literal["cog", "zarr", "polygons", "probabilities", "confidence", "disagreement"], ...],
    AfterValidator(_check_has_labels),
    expect("cog, zarr or both, and if wanted polygons, probabilities, confidence, disagreement, with commas"),
]
PolygonFormats = Annotated[
    tuple[Literal["fgb", "gpkg", "parquet", "pmtiles"], ...],
    Field(min_length=1),
    expect("fgb, gpkg, parquet, pmtiles, separated by commas"),
]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), expect("a number from 0")]
Scale = Annotated[Annotated[_Finite, AfterValidator(_check_not_zero)] | None, expect("a number other than 0")]
Offset = Annotated[_Finite | None, expect("a number")]
Acquired = Annotated[
    Annotated[str, AfterValidator(_check_time)] | None,
    BeforeValidator(_write_time),
    expect(f"{FORMS}, such as 2024-06-01"),
]
Area = Annotated[str | Path | None, AfterValidator(_to_path)]
Nodata = Annotated[float | Literal["none"] | None, BeforeValidator(_parse_nodata), expect("a number, or none")]
