"""What a user may say about a run; the same model checks the command line and the form of a flow run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pipeline.planning import PlanOptions
from pipeline.sources import SceneOptions


def _auto_is_none(value: object) -> object:
    return None if value == "auto" else value


def _nodata(value: object) -> object:
    """The command line gives text, a file gives a number."""
    return float(value) if isinstance(value, str) and value != "none" else value


Pixels = Annotated[int | None, BeforeValidator(_auto_is_none)]


class SegmentOptions(BaseModel):
    """How to read a scene, plan it, run it and what to write; everything has a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window: Pixels = Field(
        None, description="Edge of the windows the network sees, in pixels; auto: the fastest that fits"
    )
    halo: Pixels = Field(None, description="Context on every side that is read and thrown away, in pixels; auto: exact")
    overlap: Pixels = Field(
        None, description="Band in which neighbouring tiles are feathered; auto: 0 where the halo is exact"
    )
    chunk_tiles: int | None = Field(None, description="Tiles along the edge of a chunk, the unit of work and of resume")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the network runs")
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp64"] = Field(
        "auto", description="auto: reduced only where the labels agree with fp32 and it is faster"
    )
    cluster: str = Field("local", description="local, or the address of a Dask scheduler")
    workers: int | None = Field(
        None, ge=1, le=256, description="Worker processes of a local cluster; default: one a device"
    )
    outputs: tuple[Literal["cog", "zarr"], ...] = Field(("cog", "zarr"), min_length=1, description="What to write")
    aoi: Path | None = Field(None, description="GeoJSON polygons; nothing outside of them is inferred")
    bands: tuple[str, ...] = Field(
        (), description="The scene's bands in the model's order: numbers, descriptions or file names"
    )
    scale: float | None = Field(
        None, description="Value = digital number × scale + offset, where the files do not say it"
    )
    offset: float | None = Field(None, description="See scale")
    nodata: Annotated[float | Literal["none"] | None, BeforeValidator(_nodata)] = Field(
        None, description="Digital number that means no data; none: every pixel is data"
    )
    on_bad_block: Literal["fail", "nodata"] = Field("fail", description="What an unreadable block of a file does")
    overwrite: bool = Field(False, description="Start over where another scene, model or plan left a run or a result")

    @property
    def plan(self) -> PlanOptions:
        """The part that fixes the plan."""
        return PlanOptions(self.window, self.halo, self.overlap, self.chunk_tiles)

    @property
    def scene(self) -> SceneOptions:
        """The part that says how to read the scene."""
        return SceneOptions(self.bands, self.scale, self.offset, self.nodata, self.aoi)
