"""The options of a run; one model validates the command line and the form of a Prefect flow run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from seamline.flows.settings.option_types import (
    Acquired,
    Area,
    Batch,
    ChunkTiles,
    MarginWidth,
    Nodata,
    NonNegative,
    Offset,
    Outputs,
    PolygonFormats,
    Scale,
    Threads,
    WindowEdge,
    Workers,
    option_error,
)
from seamline.model.spec.config import GRAPH_PRECISIONS, EngineRequest
from seamline.pipeline.planning.tilings import PlanOptions
from seamline.pipeline.products.layers import CONFIDENCE, SCENE_LAYERS
from seamline.pipeline.scenes.open_scene import SceneOptions
from seamline.pipeline.vectors.polygon_options import PolygonOptions, PolygonRules

_EXECUTION_OPTIONS = {"cluster", "workers", "device", "batch", "threads", "overwrite", "work", "credentials"}
"""Options that decide how a scene is run and not what the results are."""


# The fields are flat because they are the parameters of flow runs and the options of the command line. The properties
# below group them for the rooms that use them. Prefect shows the docstring and the descriptions in its form.
class SegmentOptions(BaseModel):
    """How to read a scene, plan it, run it and what to write; everything has a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window: WindowEdge = Field(
        default=None, description="Edge of the windows the network sees, in pixels; auto: the fastest that fits"
    )
    halo: MarginWidth = Field(
        default=None,
        description="Context on every side that is read and thrown away, in pixels; auto: exact, or as the labels need",
    )
    overlap: MarginWidth = Field(
        default=None, description="Band in which neighbouring tiles are feathered; auto: 0 where the halo is exact"
    )
    chunk_tiles: ChunkTiles = Field(
        default=None, description="Tiles along the edge of a chunk, the unit of work and of resume"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where the network runs")
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp64"] = Field(
        default="auto", description="auto: reduced only where the labels agree with fp32 and it is faster"
    )
    engine: Literal["auto", "torch", "compiled", "onnxruntime", "openvino"] = Field(
        default="auto",
        description="What runs the network; auto: the fastest of those installed whose labels agree with torch's",
    )
    batch: Batch = Field(
        default=None, description="Windows that go through the network at once; default: by the machine"
    )
    threads: Threads = Field(default=None, description="Threads of the network in each worker; default: by the machine")
    cluster: str = Field(default="local", description="local, or the address of a Dask scheduler")
    workers: Workers = Field(
        default=None,
        description="Worker processes of a local cluster; default: one a device or core, none for a small scene",
    )
    outputs: Outputs = Field(default=("cog", "zarr"), description="What to write")
    zarr_format: Literal[3, 2] = Field(
        default=3, description="Version of the Zarr format; 2 for QGIS and GDAL before 3.11"
    )
    zarr_shards: bool = Field(default=False, description="One object for a chunk of the run, for object stores")
    polygon_formats: PolygonFormats = Field(
        default=("fgb", "gpkg", "parquet"), description="Files of the output polygons"
    )
    polygon_min_area: NonNegative = Field(
        default=0, description="Smaller polygons, in m², become part of the neighbour with the longest common border"
    )
    polygon_simplify: NonNegative = Field(
        default=0,
        description="Corners of polygons go whose triangle is smaller than the square of this, in pixels; 0: none",
    )
    aoi: Area = Field(
        default=None, description="Polygons in GeoJSON, GeoPackage, …; nothing outside of them is inferred"
    )
    bands: tuple[str, ...] = Field(
        default=(), description="The scene's bands in the model's order: numbers, descriptions or file names"
    )
    scale: Scale = Field(
        default=None, description="Value = digital number × scale + offset, where the files do not say it"
    )
    offset: Offset = Field(default=None, description="See scale")
    nodata: Nodata = Field(default=None, description="Digital number that means no data; none: every pixel is data")
    datetime: Acquired = Field(
        default=None, description="When the scene was taken: a date, an RFC 3339 time, or START/END; else by its files"
    )
    on_bad_block: Literal["fail", "nodata"] = Field(
        default="fail", description="What an unreadable block of a file does"
    )
    work: Path | None = Field(
        default=None,
        description="Folder to work in where results go to s3://, seen by all workers; default: $SEAMLINE_WORK,"
        " or one in the user's cache",
    )
    credentials: str | None = Field(
        default=None, description="Prefect Secret block with the keys of object storage; default: the environment's"
    )
    check: bool = Field(
        default=False, description="Compare every file of a finished result with its checksum; otherwise only the sizes"
    )
    overwrite: bool = Field(
        default=False, description="Start over where another scene, model or plan left a run or a result"
    )

    @model_validator(mode="after")
    def _check_precision(self) -> SegmentOptions:
        precisions = GRAPH_PRECISIONS.get(self.engine)
        if precisions and self.precision not in ("auto", *precisions):
            raise option_error(f"{' or '.join(precisions)}, in which {self.engine} runs")
        return self

    @field_validator("zarr_shards")
    @classmethod
    def _check_shards(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("zarr_format") == 2:
            raise option_error("--zarr-format 3: version 2 has no shards")
        return value

    @field_validator("zarr_format", "zarr_shards")
    @classmethod
    def _check_zarr_options(cls, value: object, info: ValidationInfo) -> object:
        return cls._refuse_without_output("zarr", value, info)

    @field_validator("polygon_formats", "polygon_min_area", "polygon_simplify")
    @classmethod
    def _check_polygon_options(cls, value: object, info: ValidationInfo) -> object:
        return cls._refuse_without_output("polygons", value, info)

    @classmethod
    def _refuse_without_output(cls, output: str, value: object, info: ValidationInfo) -> object:
        """Refuse a value other than the default for an option of an output that is not written."""
        default = cls.model_fields[info.field_name or ""].default
        if value != default and output not in info.data.get("outputs", (output,)):
            raise option_error(f"left out, or {output} among --outputs")
        return value

    @property
    def result_digest(self) -> str:
        """SHA-256 digest, 16 hexadecimal digits, of the options that decide what the results are."""
        left_out = _EXECUTION_OPTIONS | ({"datetime"} if self.datetime is None else set())  # younger than the digest
        return hashlib.sha256(self.model_dump_json(exclude=left_out).encode()).hexdigest()[:16]

    @property
    def aoi_file(self) -> Path | None:
        """The file of the area of interest; ``aoi`` is this path, too, and its type says what may be given."""
        return None if self.aoi is None else Path(self.aoi)

    @property
    def scene_options(self) -> SceneOptions:
        """Options for reading the scene."""
        return SceneOptions(self.bands, self.scale, self.offset, self.nodata, self.aoi_file)

    @property
    def plan_options(self) -> PlanOptions:
        """Options that fix the tiling."""
        return PlanOptions(self.window, self.halo, self.overlap, self.chunk_tiles)

    @property
    def engine_request(self) -> EngineRequest:
        """Options that fix how the network runs."""
        return EngineRequest(self.device, self.precision, self.engine, self.batch, self.threads)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers to compute beside the labels; polygons need the confidence, too."""
        needed = {*self.outputs, *([CONFIDENCE] if "polygons" in self.outputs else [])}
        return tuple(name for name in SCENE_LAYERS if name in needed)

    @property
    def polygon_options(self) -> PolygonOptions | None:
        """Options of the polygons; None if polygons are not among the outputs."""
        if "polygons" not in self.outputs:
            return None
        return PolygonOptions(self.polygon_formats, PolygonRules(self.polygon_min_area, self.polygon_simplify))
