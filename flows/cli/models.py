"""The commands about models: ``seamline model …``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from seamline.flows.cli.arguments import SCENE_HELP, check_choice, parse_numbers, split_names, split_unseen
from seamline.flows.cli.run_options import NETWORK_OPTIONS, take_options
from seamline.flows.terminal import tables
from seamline.flows.terminal.progress import print_line

if TYPE_CHECKING:
    from seamline.flows.settings.options import SegmentOptions

app = typer.Typer(help="What is known of a model.", invoke_without_command=True)
# Each command imports what it runs when it is called, so that `--help` and refused usage answer at once.


@app.callback()
def _show_help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("inspect")
def inspect(
    name: Annotated[str, typer.Argument(help="Name of an embedded model, or a model folder")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs")] = False,
) -> None:
    """Print everything that is known of a model.

    Examples:
    seamline model inspect land-water-cloud

    seamline model inspect my-model --json
    """
    from seamline.flows.settings.model_folder import open_model, read_training_scores

    model = open_model(name)
    summary = {
        **model.spec.summarize(),
        "digest": model.digest,
        "folder": str(model.folder),
        **read_training_scores(model.folder),
    }
    if as_json:
        print(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        tables.show_model(summary)


@app.command("import")
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
    limits: Annotated[str, typer.Option(help="What it is good for and what not, in one line that runs say")] = "",
    unseen: Annotated[str, typer.Option(help="Classes that say that the ground was not seen: cloud,…; or none")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the model that is in the folder")] = False,
) -> None:
    """Make a model folder of somebody else's network; its divisor and reach are measured.

    Examples:
    seamline model import unet.onnx --bands red,green,blue,nir --classes land,water --out my-model

    seamline model import net.pt2 --bands red,green,blue --classes no,yes --quantity dn --scale 0.0039 --out my-model
    """
    from seamline.flows.training.importing import ModelDescription, import_model

    described = ModelDescription(
        bands=split_names(bands),
        classes=split_names(classes),
        name=name,
        colors=split_names(colors),
        scale=scale,
        mean=parse_numbers("--mean", mean),
        std=parse_numbers("--std", std),
        quantity=check_choice("--quantity", quantity, ("reflectance", "dn")),
        activation=check_choice("--activation", activation, ("softmax", "sigmoid", "none")) if activation else None,
        assumed_nodata=assumed_nodata,
        license=license,
        description=description,
        limits=limits,
        unseen=split_unseen(unseen),
    )
    for warning in described.warnings:
        print_line(f"warning: {warning}")
    tables.show_model(import_model(file, described, out, overwrite).summarize())
    Console().print(f"model: {out}")


@app.command("tune")
@take_options((*NETWORK_OPTIONS, "window", "halo"))
def tune(
    name: Annotated[str, typer.Argument(help="Name of an embedded model, or a model folder")],
    options: SegmentOptions,
    scene: Annotated[str | None, typer.Option(help=SCENE_HELP + " to measure on; default: noise")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs")] = False,
) -> None:
    """Measure every way to run a model on this machine, and show which one a run would take.

    Examples:
    seamline model tune land-water-cloud

    seamline model tune my-model --scene scene.tif --engine torch --json
    """
    from seamline.flows.runs.tuning import tune

    measurement = tune(name, scene, options)
    if as_json:
        print(json.dumps(measurement.to_dict(), indent=2))
    else:
        tables.show_tuning(measurement)


@app.command("list")
def list_models() -> None:
    """Name the embedded models.

    Examples:
    seamline model list

    seamline model list | xargs -n 1 seamline model inspect
    """
    from seamline.flows.settings.model_folder import list_embedded_models

    for name in list_embedded_models():
        print(name)
