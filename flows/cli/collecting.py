"""The command ``collect``: segment what is new of many scenes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from seamline.flows.cli.arguments import ModelOption, OutOption, QuietFlag, VerboseFlag, check_choice, validate_options
from seamline.flows.cli.config_file import ConfigOption
from seamline.flows.cli.run_options import RUN_OPTIONS, take_options
from seamline.flows.terminal import progress
from seamline.pipeline.common.errors import InputError

if TYPE_CHECKING:
    from seamline.flows.settings.options import SegmentOptions

app = typer.Typer()
# The command imports what it runs when it is called, so that `--help` and refused usage answer at once.

_PLACES = {"glob": "pattern", "manifest": "path", "inbox": "folder", "stac-catalog": "href", "stac-api": "url"}
"""Kind of a source → its field that says where it is."""
_PANEL = "Which scenes"


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
