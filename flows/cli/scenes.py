"""The commands ``segment``, ``plan`` and ``simulate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from seamline.flows.cli.arguments import (
    AoiOption,
    BandsOption,
    BatchOption,
    ChunkTilesOption,
    ClusterOption,
    CredentialsOption,
    DeviceOption,
    EngineOption,
    HaloOption,
    ModelOption,
    NodataOption,
    OffsetOption,
    OverlapOption,
    PrecisionOption,
    ScaleOption,
    SceneArgument,
    ScenesArgument,
    ThreadsOption,
    WindowOption,
    WorkersOption,
    split_names,
    validate_options,
)
from seamline.flows.cli.process import begin_soon
from seamline.flows.terminal import progress, tables

app = typer.Typer()
# Each command imports what it runs when it is called, so that `--help` and refused usage answer at once.


@app.command()
def segment(
    scene: ScenesArgument,
    model: ModelOption,
    out: Annotated[str, typer.Option(help="Folder of the catalogue, or s3://BUCKET/PREFIX; each scene gets a folder")],
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
    outputs: Annotated[
        str, typer.Option(help="What to write: cog, zarr, polygons, probabilities, confidence, disagreement")
    ] = "cog,zarr",
    zarr_format: Annotated[int, typer.Option(help="Version of the Zarr format: 3, or 2 for old QGIS")] = 3,
    zarr_shards: Annotated[bool, typer.Option("--zarr-shards", help="Few large objects, for object stores")] = False,
    polygon_formats: Annotated[str, typer.Option(help="Files of polygons: fgb, gpkg, parquet")] = "fgb,gpkg,parquet",
    polygon_min_area: Annotated[float, typer.Option(help="Smaller ones, in m², become part of a neighbour")] = 0,
    polygon_simplify: Annotated[float, typer.Option(help="Fewer corners: tolerance in pixels; 0: exact")] = 0,
    aoi: AoiOption = None,
    bands: BandsOption = "",
    scale: ScaleOption = None,
    offset: OffsetOption = None,
    nodata: NodataOption = None,
    on_bad_block: Annotated[str, typer.Option(help="fail, or nodata: go on without unreadable blocks")] = "fail",
    work: Annotated[Path | None, typer.Option(help="Folder to work in where --out is s3://…")] = None,
    credentials: CredentialsOption = None,
    check: Annotated[bool, typer.Option("--check", help="Compare all checksums of what is finished")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start over where something else is")] = False,
) -> None:
    """Segment scenes: COG, Zarr, STAC item, preview and report in OUT/<scene>/.

    A killed run goes on where it stopped when the same command is given again.
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
    with progress.show_live_progress() as watcher:
        segment_scenes(scene, model, out, options, watcher)


@app.command()
def plan(
    scene: SceneArgument,
    model: ModelOption,
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
    aoi: AoiOption = None,
    bands: BandsOption = "",
    scale: ScaleOption = None,
    offset: OffsetOption = None,
    nodata: NodataOption = None,
    credentials: CredentialsOption = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the plan to this PNG")] = None,
) -> None:
    """Show how a scene would be segmented: tiles, redundancy, memory, time. Segments nothing."""
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
    tables.show_plan(plan_scene(scene, model, options, picture, progress.print_line))
    if picture is not None:
        Console().print(f"picture: {picture}")


@app.command()
def simulate(
    size: Annotated[tuple[int, int], typer.Option(help="Height and width in pixels")],
    out: Annotated[Path, typer.Option(help="The scene, a GeoTIFF; its truth lies beside it")],
    seed: Annotated[int, typer.Option(help="Another number, another land")] = 0,
) -> None:
    """Simulate a six-band scene of any size, and the raster of what is where in it."""
    from seamline.pipeline.synthetic.simulate import Simulation
    from seamline.pipeline.synthetic.simulation_files import write_simulation

    with progress.show_percentage("simulating") as report:
        truth = write_simulation(Simulation(size[0], size[1], seed=seed), out, report)
    Console().print(f"scene: {out}\ntruth: {truth}")
