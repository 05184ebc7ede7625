"""The commands ``segment``, ``plan``, ``simulate`` and ``collect``."""

from __future__ import annotations

import json
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
    check_choice,
    validate_options,
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
from seamline.pipeline.common.errors import InputError

if TYPE_CHECKING:
    from seamline.flows.runs.observer import RunResult
    from seamline.flows.settings.options import SegmentOptions

app = typer.Typer()
# Each command imports what it runs when it is called, so that `--help` and refused usage answer at once.

_PLACES = {"glob": "pattern", "manifest": "path", "inbox": "folder", "stac-catalog": "href", "stac-api": "url"}
"""Kind of a source → its field that says where it is."""
_PANEL = "Which scenes"


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
    if quiet:
        progress.print_warnings(found)
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


@app.command()
@take_options([name for name in RUN_OPTIONS if name not in ("check", "overwrite", "datetime")])
def collect(
    place: Annotated[
        str,
        typer.Argument(help="A pattern in quotes, a list of scenes, a folder, or an address of STAC, as --kind says"),
    ],
    model: ModelOption,
    out: OutOption,
    options: SegmentOptions,
    kind: Annotated[str, typer.Option(help="glob, manifest, inbox, stac-catalog or stac-api")] = "glob",
    renew: Annotated[
        bool, typer.Option("--renew", help="Segment again what another model or other options left")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="inbox: also try what was set aside")] = False,
    config: ConfigOption = None,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
    collection: Annotated[
        list[str] | None, typer.Option(rich_help_panel=_PANEL, help="stac-api: id of a collection; repeat it")
    ] = None,
    bbox: Annotated[
        str, typer.Option(metavar="W,S,E,N", rich_help_panel=_PANEL, help="stac-api, stac-catalog: degrees")
    ] = "",
    interval: Annotated[
        str,
        typer.Option(
            "--datetime",
            metavar="FROM/TO",
            rich_help_panel=_PANEL,
            help="stac-api, stac-catalog: of which time; others: when all scenes were taken, as of segment",
        ),
    ] = "",
    days: Annotated[
        float | None,
        typer.Option(rich_help_panel=_PANEL, help="stac-api, stac-catalog: taken in the last so many days"),
    ] = None,
    query: Annotated[
        str, typer.Option(metavar="JSON", rich_help_panel=_PANEL, help='stac-api: {"eo:cloud_cover": {"lt": 20}}')
    ] = "",
    limit: Annotated[int | None, typer.Option(rich_help_panel=_PANEL, help="stac-api: at most so many items")] = None,
    settle: Annotated[
        float | None,
        typer.Option(rich_help_panel=_PANEL, help="inbox: seconds without a change after which a file is whole"),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(rich_help_panel=_PANEL, help="inbox: folder, host or bucket that its files may name; repeat it"),
    ] = None,
) -> None:
    """Segment what is new of a collection since the last time; one scene that fails stops no other.

    What was done is kept, and the same command goes on with the rest. The exit code is 1 if a scene failed.

    Examples:
    seamline collect "/data/scenes/*.tif" --model my-model --out results

    seamline collect https://earth-search.aws.element84.com/v1 --kind stac-api --collection sentinel-2-c1-l2a
    --bbox=13.2,45.6,13.6,45.9 --days 3 --query '{"eo:cloud_cover": {"lt": 20}}' --model my-model --out results
    """
    from seamline.flows.api.collecting import parse_source, run_collection
    from seamline.flows.runs.cluster_session import ClusterSession
    from seamline.flows.settings.model_folder import open_model

    check_choice("--kind", kind, tuple(_PLACES))
    if interval and not kind.startswith("stac-"):
        options, interval = validate_options(**{**options.model_dump(), "datetime": interval}), ""
    asked = {
        "collections": collection,
        "bbox": _parse_json("--bbox", f"[{bbox}]") if bbox else None,
        "datetime": interval or None,
        "days": days,
        "query": _parse_json("--query", query) if query else None,
        "limit": limit,
        "settle": settle,
        "allow": allow,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    source = parse_source({"kind": kind, _PLACES[kind]: place, **given})
    with (
        progress.show_live_progress(quiet=quiet, verbose=verbose) as observer,
        ClusterSession(options) as session,
    ):
        loaded, get_client = open_model(model), session.get_client
        counts = run_collection(source, loaded, out, options, get_client, observer, renew=renew, retry=retry)
    if not quiet:
        waiting = counts.pop("waiting")
        said = [f"{number} {state}" for state, number in counts.items()]
        progress.print_line(", ".join([*said, *([f"still arriving: {', '.join(waiting)}"] if waiting else [])]))
        progress.print_next_step(out)


def _parse_json(option: str, text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        raise InputError(option, got=text, expected="numbers, or JSON", fix="correct it") from None
