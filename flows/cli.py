"""The command line: ``seamline``. Exit code 0 done, 2 the user's mistake in one line, 1 failure."""

from __future__ import annotations

import json
import logging
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console

from flows import display
from flows.options import SegmentOptions
from flows.usage import usage_error
from model.errors import ModelError
from pipeline.errors import InputError, SeamlineError

app = typer.Typer(
    name="seamline",
    help="Seamless segmentation of satellite and aerial scenes of any size.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
models = typer.Typer(help="What is known of a model.", invoke_without_command=True)
app.add_typer(models, name="model")

INTERRUPTED = 130

SCENE = "A raster GDAL reads, a folder of band files, or a STAC item"
Scenes = Annotated[list[str], typer.Argument(metavar="SCENE…", help=SCENE + "; each becomes a result of its own")]
Scene = Annotated[str, typer.Argument(help=SCENE)]
ModelName = Annotated[str, typer.Option("--model", help="Name of an embedded model, or a model folder")]
Window = Annotated[str, typer.Option(help="Edge of the network's windows in pixels, or auto")]
Halo = Annotated[str, typer.Option(help="Context that is read and thrown away, in pixels, or auto")]
Overlap = Annotated[str, typer.Option(help="Band in which tiles are feathered, in pixels, or auto")]
ChunkTiles = Annotated[int | None, typer.Option(help="Tiles along the edge of a chunk")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda")]
Precision = Annotated[str, typer.Option(help="auto, fp32, bf16, fp16 or fp64")]
Engine = Annotated[str, typer.Option(help="auto, torch, compiled, onnxruntime or openvino: what runs the network")]
Batch = Annotated[int | None, typer.Option(help="Windows that go through the network at once")]
Threads = Annotated[int | None, typer.Option(help="Threads of the network in each worker")]
Cluster = Annotated[str, typer.Option(help="local, or the address of a Dask scheduler")]
Workers = Annotated[int | None, typer.Option(help="Worker processes of the local cluster")]
Aoi = Annotated[Path | None, typer.Option(help="GeoJSON polygons that limit the work")]
Bands = Annotated[str, typer.Option(help="The scene's bands in the model's order, separated by commas")]
Scale = Annotated[float | None, typer.Option(help="Value = digital number × scale + offset")]
Offset = Annotated[float | None, typer.Option(help="See --scale")]
Nodata = Annotated[str | None, typer.Option(help="Digital number that means no data, or none")]


@app.callback()
def _help(
    context: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", help="Say which Seamline this is", callback=lambda wanted: _version(wanted))
    ] = False,
) -> None:
    _help_models(context)


@models.callback()
def _help_models(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def segment(
    scene: Scenes,
    model: ModelName,
    out: Annotated[Path, typer.Option(help="Folder of the catalogue; each scene gets a folder in it")],
    window: Window = "auto",
    halo: Halo = "auto",
    overlap: Overlap = "auto",
    chunk_tiles: ChunkTiles = None,
    device: Device = "auto",
    precision: Precision = "auto",
    engine: Engine = "auto",
    batch: Batch = None,
    threads: Threads = None,
    cluster: Cluster = "local",
    workers: Workers = None,
    outputs: Annotated[str, typer.Option(help="What to write: cog, zarr")] = "cog,zarr",
    aoi: Aoi = None,
    bands: Bands = "",
    scale: Scale = None,
    offset: Offset = None,
    nodata: Nodata = None,
    on_bad_block: Annotated[str, typer.Option(help="fail, or nodata: go on without unreadable blocks")] = "fail",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start over where something else is")] = False,
) -> None:
    """Segment scenes: COG, Zarr, STAC item and preview in OUT/<scene>/.

    A killed run goes on where it stopped when the same command is given again.
    """
    from flows.segment import segment_all

    options = _options(
        window=window, halo=halo, overlap=overlap, chunk_tiles=chunk_tiles,
        device=device, precision=precision, engine=engine, batch=batch, threads=threads,
        cluster=cluster, workers=workers, outputs=_listed(outputs), aoi=aoi, bands=_listed(bands), scale=scale,
        offset=offset, nodata=nodata, on_bad_block=on_bad_block, overwrite=overwrite,
    )  # fmt: skip
    with display.live() as watcher:
        segment_all(scene, model, out, options, watcher)


@app.command()
def plan(
    scene: Scene,
    model: ModelName,
    window: Window = "auto",
    halo: Halo = "auto",
    overlap: Overlap = "auto",
    chunk_tiles: ChunkTiles = None,
    device: Device = "auto",
    precision: Precision = "auto",
    engine: Engine = "auto",
    batch: Batch = None,
    threads: Threads = None,
    cluster: Cluster = "local",
    workers: Workers = None,
    aoi: Aoi = None,
    bands: Bands = "",
    scale: Scale = None,
    offset: Offset = None,
    nodata: Nodata = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the plan to this PNG")] = None,
) -> None:
    """Show how a scene would be segmented: tiles, redundancy, memory, time. Segments nothing."""
    from flows.planning import plan_scene

    options = _options(
        window=window, halo=halo, overlap=overlap, chunk_tiles=chunk_tiles,
        device=device, precision=precision, engine=engine, batch=batch, threads=threads,
        cluster=cluster, workers=workers, aoi=aoi, bands=_listed(bands), scale=scale, offset=offset, nodata=nodata,
    )  # fmt: skip
    display.show_plan(plan_scene(scene, model, options, picture, display.say))
    if picture is not None:
        Console().print(f"picture: {picture}")


@app.command()
def simulate(
    size: Annotated[tuple[int, int], typer.Option(help="Height and width in pixels")],
    out: Annotated[Path, typer.Option(help="The scene, a GeoTIFF; its truth lies beside it")],
    seed: Annotated[int, typer.Option(help="Another number, another land")] = 0,
) -> None:
    """Simulate a six-band scene of any size, and the raster of what is where in it."""
    from pipeline.simulate import Simulation, write_simulation

    with display.percentage("simulating") as progress:
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
    scale: Scale = None,
    share: Annotated[float, typer.Option(help="Of the area: what is validated on and not trained on")] = 0.2,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A field of the recipe: schedule.epochs=5")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the model that is in the folder")] = False,
) -> None:
    """Train a U-Net by a recipe, or on images and their labels; a killed training goes on from its last checkpoint."""
    from flows.recipes import chosen_recipe
    from flows.training import train_model

    pairs = None
    if images is not None:
        options = {"values": _mapping(values), "attribute": attribute, "holdout": share, "scale": scale}
        pairs = images, labels, _listed(bands), _listed(classes), options
    read = chosen_recipe(recipe, pairs, out, [*(changes or []), *([f"holdout=[{holdout}]"] if holdout else [])])
    names = [entry.name for entry in read.classes]
    spec = train_model(read, data, out, lambda done: display.epoch(done, names), overwrite)
    Console().print(f"model: {out}, receptive radius {spec.receptive_radius}")


@app.command()
def evaluate(
    prediction: Annotated[Path, typer.Argument(help="A raster of labels, or a scene's folder of results")],
    truth: Annotated[Path, typer.Argument(help="A raster of labels, or polygons")],
    values: Annotated[str, typer.Option(help="What stands for which label in the truth: 0=0,255=1")] = "",
    attribute: Annotated[str, typer.Option(help="Attribute of polygons with their values; default: all are 1")] = "",
    tolerance: Annotated[int, typer.Option(help="Pixels that boundaries may be apart")] = 2,
    report: Annotated[Path | None, typer.Option("--json", help="Write the scores to this file")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the confusion matrix to this PNG")] = None,
) -> None:
    """Compare a segmentation with the truth: IoU, F1, precision, recall, accuracy, kappa, boundaries."""
    from flows.evaluation import evaluate, write_evaluation
    from pipeline.comparison import Truth

    if not 0 <= tolerance <= 64:
        raise InputError("--tolerance", got=tolerance, expected="pixels, from 0 to 64", fix="correct it")
    found = evaluate(prediction, Truth(truth, attribute, _mapping(values)), tolerance)
    write_evaluation(found, report, picture)
    display.show_evaluation(found)


@app.command()
def verify(
    results: Annotated[Path, typer.Argument(help="Folder of the catalogue, --out of segment")],
) -> None:
    """Check what runs published: checksums, COG, STAC, COG = Zarr, class table; exit code 1 if something is wrong."""
    from pipeline.verification import verify

    findings = list(verify(results))
    for finding in findings:
        print(f"{finding.scene or results.name}/{finding.subject}: {finding.problem}")
    scenes = len({item.parent for item in results.glob("*/item.json")})
    Console().print(f"{scenes} scenes, {len(findings)} findings", highlight=False)
    raise typer.Exit(1 if findings else 0)


@models.command("inspect")
def inspect(
    name: Annotated[str, typer.Argument(help="Name of an embedded model, or a model folder")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs")] = False,
) -> None:
    """Print everything that is known of a model."""
    from flows.models import open_model

    found = open_model(name)
    summary = {**found.spec.summary(), "digest": found.digest, "folder": str(found.folder)}
    if as_json:
        print(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        display.show_model(summary)


@models.command("import")
def import_network(
    file: Annotated[
        Path,
        typer.Argument(
            help="ONNX, TorchScript, torch.export, a state_dict of milesial's U-Net, or a folder that "
            "segmentation-models-pytorch saved"
        ),
    ],
    bands: Annotated[str, typer.Option(help="Names of the network's inputs, separated by commas: blue,green,…")],
    classes: Annotated[str, typer.Option(help="Names of its outputs; two for a network of one output")],
    out: Annotated[Path, typer.Option(help="The model folder to write")],
    name: Annotated[str, typer.Option(help="The model's name; default: the file's")] = "",
    colors: Annotated[str, typer.Option(help="A colour of each class, #rrggbb, separated by commas")] = "",
    scale: Annotated[float, typer.Option(help="The network's input is (value × scale − mean) / std")] = 1.0,
    mean: Annotated[str, typer.Option(help="See --scale; one number, or one a band")] = "0",
    std: Annotated[str, typer.Option(help="See --scale; one number, or one a band")] = "1",
    quantity: Annotated[
        str, typer.Option(help="What a value is: reflectance, or dn for digital numbers")
    ] = "reflectance",
    activation: Annotated[str, typer.Option(help="softmax, sigmoid, or none for outputs that are probabilities")] = "",
    assumed_nodata: Annotated[float | None, typer.Option(help="Digital number outside of footprints")] = None,
    license: Annotated[str, typer.Option(help="SPDX name")] = "unknown",
    description: Annotated[str, typer.Option(help="For people")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the model that is in the folder")] = False,
) -> None:
    """Make a model folder of somebody else's network; its divisor and reach are measured."""
    from flows.importing import Description, import_model

    described = Description(
        _listed(bands), _listed(classes), name, _listed(colors),
        scale, _numbers("--mean", mean), _numbers("--std", std),
        _choice("--quantity", quantity, ("reflectance", "dn")),
        _choice("--activation", activation, ("softmax", "sigmoid", "none")) if activation else None,
        assumed_nodata, license, description,
    )  # fmt: skip
    display.show_model(import_model(file, described, out, overwrite).summary())
    Console().print(f"model: {out}")


@models.command("tune")
def tune(
    name: Annotated[str, typer.Argument(help="Name of an embedded model, or a model folder")],
    scene: Annotated[str | None, typer.Option(help=SCENE + " to measure on; default: noise")] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    engine: Engine = "auto",
    batch: Batch = None,
    threads: Threads = None,
    window: Window = "auto",
    halo: Halo = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="For programs")] = False,
) -> None:
    """Measure every way to run a model on this machine, and show which one a run would take."""
    from flows.tuning import tune

    options = _options(
        device=device, precision=precision, engine=engine, batch=batch, threads=threads, window=window, halo=halo
    )
    found = tune(name, scene, options)
    if as_json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        display.show_tuning(found)


@models.command("list")
def list_models() -> None:
    """Name the embedded models."""
    from flows.models import embedded_models

    for name in embedded_models():
        print(name)


def _listed(text: str) -> tuple[str, ...]:
    """The names between the commas; where there is none, what was typed instead, to be refused as it is."""
    return tuple(part.strip() for part in text.split(",") if part.strip()) or ((text,) if text else ())


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(option, got=text, expected="numbers separated by commas", fix="correct it") from None


def _mapping(text: str) -> dict[str, int]:
    """``0=0,255=1`` as values and labels."""
    labels: dict[str, int] = {}
    for part in _listed(text):
        value, _, label = part.rpartition("=")
        if not value or not (label.isascii() and label.isdigit() and len(label) < 4) or int(label) > 254:
            raise InputError(
                "--values", got=part, expected="VALUE=LABEL, labels 0 to 254", fix="see seamline evaluate --help"
            )
        labels[value] = int(label)
    return labels


def _choice(option: str, text: str, choices: tuple[str, ...]) -> Any:
    if text not in choices:
        raise InputError(option, got=text, expected=" or ".join(choices), fix="correct it")
    return text


def _options(**values: Any) -> SegmentOptions:
    """Validated options; what is wrong is named as on the command line."""
    try:
        return SegmentOptions(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "precision"  # the only one that depends on another
        raise InputError(
            "--" + name.replace("_", "-"),
            got=repr(_typed(values[name])),
            expected=first.get("ctx", {}).get("expected", first["msg"]),
            fix="see seamline segment --help",
        ) from error


def _typed(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _interrupted(signum: int, frame: object) -> None:
    """Ctrl-C: what Dask says while it is closed is of no use to anybody."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)
    raise KeyboardInterrupt


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"seamline {version('seamline')}")
        raise typer.Exit


def main() -> None:
    """Run the command line; errors that Seamline itself reports are one line, anything else is a defect."""
    signal.signal(signal.SIGINT, _interrupted)
    try:
        code = app(prog_name="seamline", standalone_mode=False)
    except typer.TyperException as error:
        code = _said(usage_error(error, app, sys.argv[1:]), 2)
    except (InputError, ModelError) as error:
        code = _said(error, 2)
    except SeamlineError as error:
        code = _said(error, 1)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:  # Typer returns it for Ctrl-C
        _said("interrupted; give the same command again", code)
    sys.exit(code)


def _said(message: object, code: int) -> int:
    print("seamline: " + " ".join(str(message).split()), file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
