"""The command ``train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from seamline.flows.cli.arguments import parse_label_mapping, split_names
from seamline.flows.terminal import progress

app = typer.Typer()
# Each command imports what it runs when it is called, so that `--help` and refused usage answer at once.


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
    scale: Annotated[float | None, typer.Option(help="Value = digital number × scale + offset")] = None,
    share: Annotated[float, typer.Option(help="Of the area: what is validated on and not trained on")] = 0.2,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A field of the recipe: schedule.epochs=5")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the model that is in the folder")] = False,
) -> None:
    """Train a U-Net by a recipe, or on images and their labels; a killed training goes on from its last checkpoint.

    Examples:
    seamline train recipe.yaml --data DATA --out my-model --set schedule.epochs=40

    seamline train --images tiles/ --labels masks/ --bands red,green,blue --classes no,yes --out my-model
    """
    from seamline.flows.training.recipe_documents import choose_recipe
    from seamline.flows.training.train_from_recipe import train_from_recipe

    pairs = None
    if images is not None:
        options = {"values": parse_label_mapping(values), "attribute": attribute, "holdout": share, "scale": scale}
        pairs = images, labels, split_names(bands), split_names(classes), options
    all_changes = [*(changes or []), *([f"holdout=[{holdout}]"] if holdout else [])]
    chosen = choose_recipe(recipe, pairs, out, all_changes)
    names = [entry.name for entry in chosen.classes]
    spec = train_from_recipe(chosen, data, out, lambda epoch: progress.print_epoch(epoch, names), overwrite)
    Console().print(f"model: {out}, receptive radius {spec.receptive_radius}")
