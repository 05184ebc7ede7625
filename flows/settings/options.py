"""What a user may say about a run; the same model checks the command line and the form of a flow run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from seamline.model.spec.config import GRAPH_PRECISIONS, EngineRequest
from seamline.pipeline.execution.planning import PlanOptions
from seamline.pipeline.products.layers import CONFIDENCE, LAYERS
from seamline.pipeline.scenes.open_scene import SceneOptions
from seamline.pipeline.vectors.vectors import PolygonOptions, PolygonRules


def _expect(what: str) -> WrapValidator:
    """Says plainly what is expected, in place of what pydantic says of each step on the way there."""

    def check(value: object, validate: ValidatorFunctionWrapHandler) -> object:
        try:
            return validate(value)
        except ValidationError:
            raise PydanticCustomError("option", "Input should be {expected}", {"expected": what}) from None

    return WrapValidator(check)


def _replace_auto(value: object) -> object:
    return None if value == "auto" else value


def _parse_nodata(value: object) -> object:
    """The command line gives text, a file gives a number."""
    return float(value) if isinstance(value, str) and value != "none" else value


def _check_not_zero(value: float) -> float:
    if value == 0:
        raise ValueError("every value would be the same")
    return value


_Count = Annotated[int, Field(ge=1)]
_Length = Annotated[int, Field(ge=0)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_AUTO = BeforeValidator(_replace_auto)

WindowEdge = Annotated[_Count | None, _AUTO, _expect("a whole number from 1, or auto")]
MarginWidth = Annotated[_Length | None, _AUTO, _expect("a whole number from 0, or auto")]
ChunkTiles = Annotated[Annotated[int, Field(ge=1, le=1000)] | None, _expect("a whole number from 1 to 1000")]
Workers = Annotated[Annotated[int, Field(ge=1, le=256)] | None, _expect("a whole number from 1 to 256")]
Batch = Annotated[Annotated[int, Field(ge=1, le=1024)] | None, _expect("a whole number from 1 to 1024")]
Threads = Annotated[Annotated[int, Field(ge=1, le=1024)] | None, _expect("a whole number from 1 to 1024")]


def _check_has_labels(outputs: tuple[str, ...]) -> tuple[str, ...]:
    if not {"cog", "zarr"} & set(outputs):
        raise ValueError("no labels")
    return outputs


Outputs = Annotated[
    tuple[Literal["cog", "zarr", "polygons", "probabilities", "confidence", "disagreement"], ...],
    AfterValidator(_check_has_labels),
    _expect("cog, zarr or both, and if wanted polygons, probabilities, confidence, disagreement, with commas"),
]
PolygonFormats = Annotated[
    tuple[Literal["fgb", "gpkg", "parquet"], ...],
    Field(min_length=1),
    _expect("fgb, gpkg, parquet, separated by commas"),
]
_NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), _expect("a number from 0")]
Scale = Annotated[Annotated[_Finite, AfterValidator(_check_not_zero)] | None, _expect("a number other than 0")]
Offset = Annotated[_Finite | None, _expect("a number")]
Nodata = Annotated[float | Literal["none"] | None, BeforeValidator(_parse_nodata), _expect("a number, or none")]


class SegmentOptions(BaseModel):
    """How to read a scene, plan it, run it and what to write; everything has a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window: WindowEdge = Field(
        None, description="Edge of the windows the network sees, in pixels; auto: the fastest that fits"
    )
    halo: MarginWidth = Field(
        None,
        description="Context on every side that is read and thrown away, in pixels; auto: exact, or as the labels need",
    )
    overlap: MarginWidth = Field(
        None, description="Band in which neighbouring tiles are feathered; auto: 0 where the halo is exact"
    )
    chunk_tiles: ChunkTiles = Field(None, description="Tiles along the edge of a chunk, the unit of work and of resume")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the network runs")
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp64"] = Field(
        "auto", description="auto: reduced only where the labels agree with fp32 and it is faster"
    )
    engine: Literal["auto", "torch", "compiled", "onnxruntime", "openvino"] = Field(
        "auto",
        description="What runs the network; auto: the fastest of those installed whose labels agree with torch's",
    )
    batch: Batch = Field(None, description="Windows that go through the network at once; default: measured")
    threads: Threads = Field(None, description="Threads of the network in each worker; default: measured")
    cluster: str = Field("local", description="local, or the address of a Dask scheduler")
    workers: Workers = Field(
        None, description="Worker processes of a local cluster; default: one a CUDA device, or one a core"
    )
    outputs: Outputs = Field(("cog", "zarr"), description="What to write")
    zarr_format: Literal[3, 2] = Field(3, description="Version of the Zarr format; 2 for QGIS and GDAL before 3.11")
    zarr_shards: bool = Field(False, description="One object for a chunk of the run, for object stores")
    polygon_formats: PolygonFormats = Field(("fgb", "gpkg", "parquet"), description="Files of the output polygons")
    polygon_min_area: _NonNegative = Field(
        0, description="Smaller polygons, in m², become part of the neighbour with the longest common border"
    )
    polygon_simplify: _NonNegative = Field(
        0, description="Corners of polygons go whose triangle is smaller than the square of this, in pixels; 0: none"
    )
    aoi: Path | None = Field(None, description="GeoJSON polygons; nothing outside of them is inferred")
    bands: tuple[str, ...] = Field(
        (), description="The scene's bands in the model's order: numbers, descriptions or file names"
    )
    scale: Scale = Field(None, description="Value = digital number × scale + offset, where the files do not say it")
    offset: Offset = Field(None, description="See scale")
    nodata: Nodata = Field(None, description="Digital number that means no data; none: every pixel is data")
    on_bad_block: Literal["fail", "nodata"] = Field("fail", description="What an unreadable block of a file does")
    work: Path | None = Field(
        None,
        description="Folder to work in where results go to s3://, seen by all workers; default: $SEAMLINE_WORK,"
        " or one in the user's cache",
    )
    credentials: str | None = Field(
        None, description="Prefect Secret block with the keys of object storage; default: the environment's"
    )
    overwrite: bool = Field(False, description="Start over where another scene, model or plan left a run or a result")

    @model_validator(mode="after")
    def _check_precision(self) -> SegmentOptions:
        able = GRAPH_PRECISIONS.get(self.engine)
        if able and self.precision not in ("auto", *able):
            raise PydanticCustomError(
                "option",
                "Input should be {expected}",
                {"expected": f"{' or '.join(able)}, in which {self.engine} runs"},
            )
        return self

    @field_validator("zarr_shards")
    @classmethod
    def _check_shards(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("zarr_format") == 2:
            raise PydanticCustomError(
                "option", "Input should be {expected}", {"expected": "--zarr-format 3: version 2 has no shards"}
            )
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
        """Refuse what says something of an output that is not wanted."""
        default = cls.model_fields[info.field_name or ""].default
        if value != default and output not in info.data.get("outputs", (output,)):
            raise PydanticCustomError(
                "option", "Input should be {expected}", {"expected": f"left out, or {output} among --outputs"}
            )
        return value

    @property
    def layers(self) -> tuple[str, ...]:
        """What the run keeps beside the labels: the layers among the outputs, and what polygons say of their pixels."""
        wanted = {*self.outputs, *([CONFIDENCE] if "polygons" in self.outputs else [])}
        return tuple(name for name in LAYERS if name in wanted)

    @property
    def polygon_options(self) -> PolygonOptions | None:
        """What is wanted of the output of that name, if it is wanted."""
        if "polygons" not in self.outputs:
            return None
        return PolygonOptions(self.polygon_formats, PolygonRules(self.polygon_min_area, self.polygon_simplify))

    @property
    def plan_options(self) -> PlanOptions:
        """The part that fixes the plan."""
        return PlanOptions(self.window, self.halo, self.overlap, self.chunk_tiles)

    @property
    def engine_request(self) -> EngineRequest:
        """The part that fixes how the network runs."""
        return EngineRequest(self.device, self.precision, self.engine, self.batch, self.threads)

    @property
    def scene_options(self) -> SceneOptions:
        """The part that says how to read the scene."""
        return SceneOptions(self.bands, self.scale, self.offset, self.nodata, self.aoi)
