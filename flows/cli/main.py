"""The command line: ``seamline``. Exit code 0 done, 2 the user's mistake in one line, 1 failure."""

from __future__ import annotations

import atexit
import logging
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from seamline.flows.cli import models as cli_models
from seamline.flows.cli import results as cli_results
from seamline.flows.cli import up as cli_up
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
    parse_label_mapping,
    split_names,
    validate_options,
)
from seamline.flows.cli.usage import usage_error
from seamline.flows.terminal import tables as display
from seamline.model.spec.errors import ModelError
from seamline.pipeline.common.errors import InputError, SeamlineError

app = typer.Typer(
    name="seamline",
    help="Seamless segmentation of satellite and aerial scenes of any size.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_models.app, name="model")

EXIT_INTERRUPTED = 130


@app.callback()
def _show_help(
    context: typer.Context,
    show_version: Annotated[
        bool,
        typer.Option("--version", help="Say which Seamline this is", callback=lambda wanted: _show_version(wanted)),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start over where something else is")] = False,
) -> None:
    """Segment scenes: COG, Zarr, STAC item, preview and report in OUT/<scene>/.

    A killed run goes on where it stopped when the same command is given again.
    """
    from seamline.flows.runs.segment import segment_scenes

    options = validate_options(
        window=window, halo=halo, overlap=overlap, chunk_tiles=chunk_tiles,
        device=device, precision=precision, engine=engine, batch=batch, threads=threads,
        cluster=cluster, workers=workers,
        outputs=split_names(outputs), zarr_format=zarr_format, zarr_shards=zarr_shards,
        polygon_formats=split_names(polygon_formats), polygon_min_area=polygon_min_area, polygon_simplify=polygon_simplify,
        aoi=aoi, bands=split_names(bands), scale=scale, offset=offset, nodata=nodata,
        on_bad_block=on_bad_block, work=work, credentials=credentials, overwrite=overwrite,
    )  # fmt: skip
    with display.show_live_progress() as watcher:
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
        window=window, halo=halo, overlap=overlap, chunk_tiles=chunk_tiles,
        device=device, precision=precision, engine=engine, batch=batch, threads=threads,
        cluster=cluster, workers=workers, aoi=aoi, bands=split_names(bands), scale=scale, offset=offset, nodata=nodata,
        credentials=credentials,
    )  # fmt: skip
    display.show_plan(plan_scene(scene, model, options, picture, display.print_line))
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

    with display.show_percentage("simulating") as progress:
        truth = write_simulation(Simulation(size[0], size[1], seed=seed), out, progress)
    Console().print(f"scene: {out}\ntruth: {truth}")


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="The model folder to write")],
    recipe: Annotated[
        Path | None, typer.Argument(help="YAML file: network, bands, classes, sources, schedule; or none and --images")
    ] = None,
    data: Annotated[Path, typer.Option(help="Folder that the recipe's paths start from")] = Path(),
    holdout: Annotated[str, typer.Option(help="Sources to validate on and not to train on, separated by commas")] = "",
    images: Annotated[Path | None, typer.Option(help="Without a recipe: an image, or a folder of GeoTIFFs")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="A raster or polygons; for a folder one of the same names")
    ] = None,
    bands: Annotated[str, typer.Option(help="Names of the bands to learn from: red,green,blue,nir")] = "",
    classes: Annotated[str, typer.Option(help="Names of the classes, in the order of their labels")] = "",
    values: Annotated[str, typer.Option(help="What stands for which label: 0=0,255=1")] = "",
    attribute: Annotated[str, typer.Option(help="Attribute of polygons with their values; default: all are 1")] = "",
    scale: ScaleOption = None,
    share: Annotated[float, typer.Option(help="Of the area: what is validated on and not trained on")] = 0.2,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A field of the recipe: schedule.epochs=5")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the model that is in the folder")] = False,
) -> None:
    """Train a U-Net by a recipe, or on images and their labels; a killed training goes on from its last checkpoint."""
    from seamline.flows.training.recipe_documents import choose_recipe
    from seamline.flows.training.train_from_recipe import train_from_recipe

    pairs = None
    if images is not None:
        options = {"values": parse_label_mapping(values), "attribute": attribute, "holdout": share, "scale": scale}
        pairs = images, labels, split_names(bands), split_names(classes), options
    read = choose_recipe(recipe, pairs, out, [*(changes or []), *([f"holdout=[{holdout}]"] if holdout else [])])
    names = [entry.name for entry in read.classes]
    spec = train_from_recipe(read, data, out, lambda done: display.print_epoch(done, names), overwrite)
    Console().print(f"model: {out}, receptive radius {spec.receptive_radius}")


app.add_typer(cli_results.app)
app.add_typer(cli_up.app)


def _handle_interrupt(signum: int, frame: object) -> None:
    """Ctrl-C: what Dask, and tornado under it, say while they are closed is of no use to anybody."""
    logging.disable()
    raise KeyboardInterrupt


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"seamline {version('seamline')}")
        raise typer.Exit


def main() -> None:
    """Run the command line; errors that Seamline itself reports are one line, anything else is a defect."""
    signal.signal(signal.SIGINT, _handle_interrupt)
    try:
        code = app(prog_name="seamline", standalone_mode=False)
    except typer.TyperException as error:
        code = _print_error(usage_error(error, app, sys.argv[1:]), 2)
    except (InputError, ModelError) as error:
        code = _print_error(error, 2)
    except SeamlineError as error:
        code = _print_error(error, 1)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    if code == EXIT_INTERRUPTED:  # Typer returns it for Ctrl-C
        _print_error("interrupted; give the same command again", code)
    atexit.register(_stop_zarr_thread)  # the last to be registered is the first to be called: before zarr's own
    sys.exit(code)


def _stop_zarr_thread() -> None:
    """zarr gives its thread 0.2 s at exit and then ends in a traceback; on a busy machine that is too little."""
    zarr = sys.modules.get("zarr.core.sync")
    thread, loop = (getattr(zarr, name, [None])[0] for name in ("iothread", "loop"))
    if thread is not None and loop is not None:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def _print_error(message: object, code: int) -> int:
    print("seamline: " + " ".join(str(message).split()), file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
