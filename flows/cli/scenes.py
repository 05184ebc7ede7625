"""The commands ``segment``, ``plan`` and ``simulate``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from seamline.flows.cli.arguments import (
    OUTPUT_PANEL,
    AoiOption,
    BandsOption,
    BatchOption,
    ChunkTilesOption,
    ClusterOption,
    CredentialsOption,
    DeviceOption,
    EngineOption,
    HaloOption,
    JsonFlag,
    ModelOption,
    NodataOption,
    OffsetOption,
    OnBadBlockOption,
    OverlapOption,
    PrecisionOption,
    QuietFlag,
    ScaleOption,
    SceneArgument,
    ScenesArgument,
    ThreadsOption,
    VerboseFlag,
    WindowOption,
    WorkersOption,
    declare_option,
    split_names,
    validate_options,
)
from seamline.flows.cli.config_file import ConfigOption
from seamline.flows.cli.process import begin_soon
from seamline.flows.terminal import documents, progress, tables

if TYPE_CHECKING:
    from seamline.flows.runs.observer import RunResult

app = typer.Typer()
# Each command imports what it runs when it is called, so that `--help` and refused usage answer at once.


_ZarrFormatOption = Annotated[
    int,
    declare_option(
        help="Version of the Zarr format: 3, or 2 for old QGIS", panel=OUTPUT_PANEL, variable="SEAMLINE_ZARR_FORMAT"
    ),
]
_ZarrShardsOption = Annotated[
    bool,
    declare_option(
        "--zarr-shards",
        help="Few large objects, for object stores",
        panel=OUTPUT_PANEL,
        variable="SEAMLINE_ZARR_SHARDS",
    ),
]
_PolygonFormatsOption = Annotated[
    str,
    declare_option(
        help="Files of polygons: fgb, gpkg, parquet", panel=OUTPUT_PANEL, variable="SEAMLINE_POLYGON_FORMATS"
    ),
]
_PolygonMinAreaOption = Annotated[
    float,
    declare_option(
        help="Smaller ones, in m², become part of a neighbour",
        panel=OUTPUT_PANEL,
        variable="SEAMLINE_POLYGON_MIN_AREA",
    ),
]
_PolygonSimplifyOption = Annotated[
    float,
    declare_option(
        help="Fewer corners: tolerance in pixels; 0: exact",
        panel=OUTPUT_PANEL,
        variable="SEAMLINE_POLYGON_SIMPLIFY",
    ),
]
_WorkOption = Annotated[
    Path | None,
    declare_option(help="Folder to work in where --out is s3://…", panel=OUTPUT_PANEL),
]


@app.command()
def segment(
    scene: ScenesArgument,
    model: ModelOption,
    out: Annotated[
        str,
        declare_option(
            help="Folder of the catalogue, or s3://BUCKET/PREFIX; each scene gets a folder", variable="SEAMLINE_OUT"
        ),
    ],
    outputs: Annotated[
        str,
        declare_option(
            help="What to write: cog, zarr, polygons, probabilities, confidence, disagreement",
            variable="SEAMLINE_OUTPUTS",
        ),
    ] = "cog,zarr",
    bands: BandsOption = "",
    aoi: AoiOption = None,
    config: ConfigOption = None,
    overwrite: Annotated[bool, declare_option("--overwrite", help="Start over where something else is")] = False,
    check: Annotated[bool, declare_option("--check", help="Compare all checksums of what is finished")] = False,
    strict: Annotated[
        bool, declare_option("--strict", help="Begin nothing if one of several scenes cannot be opened")
    ] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
    scale: ScaleOption = None,
    offset: OffsetOption = None,
    nodata: NodataOption = None,
    on_bad_block: OnBadBlockOption = "fail",
    window: WindowOption = "auto",
    halo: HaloOption = "auto",
    overlap: OverlapOption = "auto",
    chunk_tiles: ChunkTilesOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    engine: EngineOption = "auto",
    batch: BatchOption = None,
    threads: ThreadsOption = None,
    cluster: ClusterOption = "local",
    workers: WorkersOption = None,
    work: _WorkOption = None,
    credentials: CredentialsOption = None,
    zarr_format: _ZarrFormatOption = 3,
    zarr_shards: _ZarrShardsOption = False,
    polygon_formats: _PolygonFormatsOption = "fgb,gpkg,parquet",
    polygon_min_area: _PolygonMinAreaOption = 0,
    polygon_simplify: _PolygonSimplifyOption = 0,
) -> None:
    """Segment scenes: COG, Zarr, STAC item, preview and report in OUT/<scene>/.

    A killed run goes on where it stopped when the same command is given again.

    Examples:
    seamline segment scene.tif --model land-water-cloud --out results

    seamline segment scenes/*.tif --model my-model --out s3://bucket/maps --outputs cog,polygons --aoi area.geojson
    """
    begin_soon()
    from seamline.flows.runs.segment import segment_scenes

    options = validate_options(
        window=window,
        halo=halo,
        overlap=overlap,
        chunk_tiles=chunk_tiles,
        device=device,
        precision=precision,
        engine=engine,
        batch=batch,
        threads=threads,
        cluster=cluster,
        workers=workers,
        outputs=split_names(outputs),
        zarr_format=zarr_format,
        zarr_shards=zarr_shards,
        polygon_formats=split_names(polygon_formats),
        polygon_min_area=polygon_min_area,
        polygon_simplify=polygon_simplify,
        aoi=aoi,
        bands=split_names(bands),
        scale=scale,
        offset=offset,
        nodata=nodata,
        on_bad_block=on_bad_block,
        work=work,
        credentials=credentials,
        check=check,
        overwrite=overwrite,
    )
    finished: list[RunResult] = []
    shows = finished.append if as_json or quiet else tables.show_result
    try:
        with progress.show_live_progress(shows, quiet=quiet, verbose=verbose) as observer:
            segment_scenes(scene, model, out, options, observer, is_strict=strict)
    finally:
        if as_json:
            print(documents.describe_results(finished))
    if not (as_json or quiet):
        following = "query" if "://" in out else "serve"
        progress.print_line(f"to look at the results: seamline {following} {shlex.quote(out)}")


@app.command()
def plan(
    scene: SceneArgument,
    model: ModelOption,
    bands: BandsOption = "",
    aoi: AoiOption = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the plan to this PNG")] = None,
    config: ConfigOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
    scale: ScaleOption = None,
    offset: OffsetOption = None,
    nodata: NodataOption = None,
    window: WindowOption = "auto",
    halo: HaloOption = "auto",
    overlap: OverlapOption = "auto",
    chunk_tiles: ChunkTilesOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    engine: EngineOption = "auto",
    batch: BatchOption = None,
    threads: ThreadsOption = None,
    cluster: ClusterOption = "local",
    workers: WorkersOption = None,
    credentials: CredentialsOption = None,
) -> None:
    """Show how a scene would be segmented: tiles, redundancy, memory, time. Segments nothing.

    Examples:
    seamline plan scene.tif --model land-water-cloud

    seamline plan scene.tif --model my-model --halo 32 --picture plan.png
    """
    from seamline.flows.runs.planning import plan_scene

    options = validate_options(
        window=window,
        halo=halo,
        overlap=overlap,
        chunk_tiles=chunk_tiles,
        device=device,
        precision=precision,
        engine=engine,
        batch=batch,
        threads=threads,
        cluster=cluster,
        workers=workers,
        aoi=aoi,
        bands=split_names(bands),
        scale=scale,
        offset=offset,
        nodata=nodata,
        credentials=credentials,
    )
    if verbose:
        progress.show_logs()
    found = plan_scene(scene, model, options, picture, progress.ignore_line if quiet else progress.print_line)
    if as_json:
        print(documents.describe_plan(found))
        return
    tables.show_plan(found)
    if picture is not None:
        Console().print(f"picture: {picture}")


@app.command()
def simulate(
    size: Annotated[tuple[int, int], typer.Option(help="Height and width in pixels")],
    out: Annotated[Path, typer.Option(help="The scene, a GeoTIFF; its truth lies beside it")],
    seed: Annotated[int, typer.Option(help="Another number, another land")] = 0,
) -> None:
    """Simulate a six-band scene of any size, and the raster of what is where in it.

    Examples:
    seamline simulate --size 4096 4096 --out scene.tif

    seamline simulate --size 512 512 --out other.tif --seed 7
    """
    from seamline.pipeline.synthetic.simulate import Simulation
    from seamline.pipeline.synthetic.simulation_files import write_simulation

    with progress.show_percentage("simulating") as report:
        truth = write_simulation(Simulation(size[0], size[1], seed=seed), out, report)
    Console().print(f"scene: {out}\ntruth: {truth}")
