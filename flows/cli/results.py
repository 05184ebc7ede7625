"""The commands about what runs published: ``evaluate``, ``query``, ``verify``, ``serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from seamline.flows.cli.arguments import (
    parse_label_mapping,
    parse_merges,
    refuse_object_storage,
    split_names,
)
from seamline.flows.terminal import tables
from seamline.pipeline.common.classes import format_count
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import ITEM
from seamline.pipeline.storage.atomic import atomic_write, check_writable
from seamline.pipeline.storage.object_store import ObjectFolder, is_object_url

app = typer.Typer()
# Each command imports what it runs when it is called, so that `--help` and refused usage answer at once.


_ResultsArgument = Annotated[
    Path, typer.Argument(help="Folder of the catalogue, --out of segment", callback=refuse_object_storage)
]


@app.command()
def evaluate(
    prediction: Annotated[
        Path, typer.Argument(help="A raster of labels, or a scene's folder of results", callback=refuse_object_storage)
    ],
    truth: Annotated[Path, typer.Argument(help="A raster of labels, or polygons")],
    values: Annotated[str, typer.Option(help="What stands for which label in the truth: 0=0,255=1")] = "",
    attribute: Annotated[
        str, typer.Option(help="Attribute of polygons with their values; default: class of our own, 1 of all others")
    ] = "",
    tolerance: Annotated[int, typer.Option(help="Pixels that boundaries may be apart")] = 2,
    ignore: Annotated[
        str, typer.Option(help="Classes that are not compared, where either has them: names or labels, with commas")
    ] = "",
    merge: Annotated[str, typer.Option(help="Classes that count as others in both: thin cloud=cloud,4=0")] = "",
    report: Annotated[Path | None, typer.Option("--json", help="Write the scores to this file")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the confusion matrix to this PNG")] = None,
) -> None:
    """Compare a segmentation with the truth: IoU, F1, precision, recall, accuracy, kappa, boundaries.

    Examples:
    seamline evaluate results/scene truth.tif --ignore cloud --merge "cloud shadow=land"

    seamline evaluate results/scene buildings.gpkg --attribute kind --values house=1,road=0 --json scores.json
    """
    from seamline.flows.training.evaluation import ClassRules, evaluate_segmentation, write_evaluation
    from seamline.pipeline.results.truth import Truth

    if not 0 <= tolerance <= 64:
        raise InputError("--tolerance", got=tolerance, expected="pixels, from 0 to 64", fix="correct it")
    rules = ClassRules(split_names(ignore), parse_merges(merge))
    labels = Truth(truth, attribute, parse_label_mapping(values))
    evaluation = evaluate_segmentation(prediction, labels, tolerance, rules)
    write_evaluation(evaluation, report, picture)
    tables.show_evaluation(evaluation)


@app.command()
def query(
    results: Annotated[str, typer.Argument(help="Folder of the catalogue, or s3://BUCKET/PREFIX: --out of segment")],
    bbox: Annotated[str, typer.Option(metavar="W,S,E,N", help="Degrees; W > E across the antimeridian")] = "",
    interval: Annotated[
        str, typer.Option("--datetime", metavar="FROM/TO", help="Years, months, days or RFC 3339 times; .. is open")
    ] = "",
    where: Annotated[str, typer.Option(help="SQL over the columns of items.parquet: water_share > 0.05")] = "",
    report: Annotated[
        Path | None, typer.Option("--json", help="Write the items to this file, a STAC ItemCollection; - prints it")
    ] = None,
) -> None:
    """List the scenes that lie in a box and a time and fulfil an SQL expression.

    Examples:
    seamline query results --where "water_share > 0.05"

    seamline query s3://bucket/maps --bbox=-62,-4,-59,-2 --datetime 2026-06/2026-08 --json -
    """
    from seamline.flows.settings.credentials import use_credentials
    from seamline.pipeline.stac.extent import Box, Interval
    from seamline.pipeline.stac.query import query_items, to_item_collection

    if report is not None and report != Path("-"):
        if not report.absolute().parent.is_dir():
            raise InputError(
                f"--json {report}",
                got=f"no folder {report.parent}",
                expected="a folder that is there",
                fix="make it, or choose another",
            )
        check_writable(report.absolute().parent, f"--json {report}")
    use_credentials(None)
    place = ObjectFolder.from_url(results) if is_object_url(results) else Path(results)
    box = Box.from_text(bbox) if bbox else None
    items = query_items(place, box, where, Interval.from_text(interval) if interval else None)
    if report == Path("-"):
        print(to_item_collection(items))
        return
    if report is not None:
        with atomic_write(report) as part:
            part.write_text(to_item_collection(items) + "\n", encoding="utf-8")
    tables.show_items(items)


@app.command()
def verify(
    results: Annotated[str, typer.Argument(help="Folder of the catalogue or map, or s3://BUCKET/PREFIX")],
) -> None:
    """Check what runs published: checksums, COG, STAC, COG = Zarr, classes, items; exit code 1 if anything is wrong.

    In object storage: items, catalogue, which files there are, and their sizes.

    Examples:
    seamline verify results

    seamline verify build/up/results
    """
    from seamline.flows.settings.credentials import use_credentials
    from seamline.pipeline.maps.verify_map import verify_folder
    from seamline.pipeline.results.verify_objects import count_items, verify_objects

    if is_object_url(results):
        use_credentials(None)
        objects = ObjectFolder.from_url(results)
        findings, name, scenes = list(verify_objects(objects)), results, count_items(objects)
    else:
        folder = Path(results)
        findings, name, scenes = list(verify_folder(folder)), folder.name, len(list(folder.glob(f"*/{ITEM}")))
    for finding in findings:
        print(f"{finding.scene or name}/{finding.subject}: {finding.problem}")
    Console().print(f"{format_count(scenes, 'scene')}, {format_count(len(findings), 'finding')}", highlight=False)
    raise typer.Exit(1 if findings else 0)


@app.command()
def serve(
    results: _ResultsArgument,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets others in")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0: any that is free")] = 8080,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser")] = False,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Also serve a folder that has no scene yet, or is not there yet")
    ] = False,
    basemap: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Background map: https://…/{z}/{x}/{y}.png; browsers load it from there"),
    ] = None,
    attribution: Annotated[
        str, typer.Option("--basemap-attribution", metavar="TEXT", help="Whose map that is; the page shows it")
    ] = "",
) -> None:
    """Show results as a map in the browser, until Ctrl-C. Reads only below the folder, and writes nothing.

    Examples:
    seamline serve results --open

    seamline serve results --host 0.0.0.0 --port 8000
    """
    from seamline.flows.serving.pages import Basemap
    from seamline.flows.serving.server import serve

    if attribution and basemap is None:
        raise InputError("--basemap-attribution", got="no --basemap", expected="both", fix="add --basemap URL")
    serve(results, host, port, show, allow_empty, None if basemap is None else Basemap(basemap, attribution))
