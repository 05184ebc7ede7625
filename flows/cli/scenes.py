"""The commands ``segment``, ``plan`` and ``simulate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from seamline.flows.cli.arguments import (
    JsonFlag,
    ModelOption,
    OutOption,
    QuietFlag,
    SceneArgument,
    ScenesArgument,
    VerboseFlag,
)
from seamline.flows.cli.config_file import ConfigOption
from seamline.flows.cli.run_options import (
    CLUSTER_OPTIONS,
    NETWORK_OPTIONS,
    RUN_OPTIONS,
    SCENE_OPTIONS,
    TILING_OPTIONS,
    take_options,
)
from seamline.flows.terminal import documents, progress, tables
from seamline.flows.terminal.process import begin_soon

if TYPE_CHECKING:
    from seamline.flows.runs.observer import RunResult
    from seamline.flows.settings.options import SegmentOptions

app = typer.Typer()
# Each command imports what it runs when it is called, so that `--help` and refused usage answer at once.


@app.command()
@take_options(tuple(RUN_OPTIONS), prepare=begin_soon)
def segment(
    scene: ScenesArgument,
    model: ModelOption,
    out: OutOption,
    options: SegmentOptions,
    strict: Annotated[
        bool, typer.Option("--strict", help="Begin nothing if one of several scenes cannot be opened")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Segment scenes: COG, Zarr, STAC item, preview and report in OUT/<scene>/.

    A killed run goes on where it stopped when the same command is given again.

    Examples:
    seamline segment scene.tif --model land-water-cloud --out results

    seamline segment scenes/*.tif --model my-model --out s3://bucket/maps --outputs cog,polygons --aoi area.geojson
    """
    from seamline.flows.runs.segment import segment_scenes

    finished: list[RunResult] = []
    shows = finished.append if as_json or quiet else tables.show_result
    try:
        with progress.show_live_progress(shows, quiet=quiet, verbose=verbose) as observer:
            segment_scenes(scene, model, out, options, observer, is_strict=strict)
    finally:
        if as_json:
            print(documents.describe_results(finished))
    if not (as_json or quiet):
        progress.print_next_step(out)


@app.command()
@take_options((*SCENE_OPTIONS, *TILING_OPTIONS, *NETWORK_OPTIONS, *CLUSTER_OPTIONS))
def plan(
    scene: SceneArgument,
    model: ModelOption,
    options: SegmentOptions,
    picture: Annotated[Path | None, typer.Option(help="Draw the plan to this PNG")] = None,
    config: ConfigOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Show how a scene would be segmented: tiles, redundancy, memory, time. Segments nothing.

    Examples:
    seamline plan scene.tif --model land-water-cloud

    seamline plan scene.tif --model my-model --halo 32 --picture plan.png
    """
    from seamline.flows.runs.planning import plan_scene

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
    Console().print(f"scene: {out}\ntruth: {truth}", highlight=False, markup=False, soft_wrap=True)
