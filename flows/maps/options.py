"""The options of a map; one model validates the command line and the form of a Prefect flow run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from seamline.flows.settings.option_types import NonNegative, PolygonFormats, Workers, expect, option_error
from seamline.pipeline.vectors.polygon_options import PolygonOptions, PolygonRules

Resolution = Annotated[
    Annotated[float, Field(gt=0, allow_inf_nan=False)], expect("a number above 0, in units of the map's CRS")
]
Bounds = Annotated[
    tuple[float, float, float, float] | None, expect("left, bottom, right, top in the map's CRS, with commas")
]
MapOutputs = Annotated[
    tuple[Literal["cog", "zarr", "polygons", "probabilities"], ...],
    expect("zarr, and if wanted cog, polygons, probabilities, with commas"),
]


# The fields are flat because they are the parameters of flow runs and the options of the command line.
class MosaicOptions(BaseModel):
    """What the map is, of which scenes it is made, what to write, and who works."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    crs: str = Field(description="CRS of the map, such as EPSG:32632")
    resolution: Resolution = Field(description="Edge of a pixel in units of the CRS; the grid lies on multiples of it")
    bounds: Bounds = Field(default=None, description="Left, bottom, right, top in the map's CRS; default: the scenes'")
    aoi: Path | None = Field(default=None, description="Polygons in GeoJSON, GeoPackage, …; outside is no data")
    period: str = Field(default="all", description="all, year, season, month, or FROM/TO")
    where: str = Field(default="", description="SQL expression over the columns of items.parquet: cloud_share < 0.5")
    model: str = Field(default="", description="Name of the model of the scenes; needed where there are several")
    unseen: tuple[str, ...] | None = Field(
        default=None, description="Classes that hide the ground and do not vote; default: as the model's document says"
    )
    labels: bool = Field(default=False, description="Let scenes without probabilities vote with their labels")
    on_bad_scene: Literal["fail", "skip"] = Field(
        default="fail", description="What a scene does whose files are gone or damaged"
    )
    outputs: MapOutputs = Field(default=("cog", "zarr"), description="What to write; a map goes on from its Zarr store")
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
    zarr_format: Literal[3, 2] = Field(
        default=3, description="Version of the Zarr format; 2 for QGIS and GDAL before 3.11"
    )
    cluster: str = Field(default="local", description="local, or the address of a Dask scheduler")
    workers: Workers = Field(default=None, description="Worker processes of a local cluster; default: by the map")
    work: Path | None = Field(
        default=None,
        description="Folder to work in where the map goes to s3://, seen by all workers; default: $SEAMLINE_WORK,"
        " or one in the user's cache",
    )
    credentials: str | None = Field(
        default=None, description="Prefect Secret block with the keys of object storage; default: the environment's"
    )
    check: bool = Field(
        default=False, description="Compare the content of all files of the map with what was written, not only sizes"
    )
    overwrite: bool = Field(default=False, description="Make the map anew where one of another definition is")

    @field_validator("outputs")
    @classmethod
    def _check_outputs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "zarr" not in value:
            raise option_error("zarr among them: the next scene is fused into the Zarr store")
        return tuple(dict.fromkeys(value))

    @field_validator("polygon_formats", "polygon_min_area", "polygon_simplify")
    @classmethod
    def _check_polygon_options(cls, value: object, info: ValidationInfo) -> object:
        default = cls.model_fields[info.field_name or ""].default
        if value != default and "polygons" not in info.data.get("outputs", ("polygons",)):
            raise option_error("left out, or polygons among --outputs")
        return value

    @model_validator(mode="after")
    def _check_extent(self) -> MosaicOptions:
        if self.bounds is not None and self.aoi is not None:
            raise option_error("either --bounds or --aoi")
        return self

    @property
    def polygon_options(self) -> PolygonOptions | None:
        """Options of the polygons; None if polygons are not among the outputs."""
        if "polygons" not in self.outputs:
            return None
        return PolygonOptions(self.polygon_formats, PolygonRules(self.polygon_min_area, self.polygon_simplify))
