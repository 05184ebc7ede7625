"""What options of several commands have in common: their names and help, and how what was typed is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.common.errors import InputError

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
Credentials = Annotated[str | None, typer.Option(help="Prefect Secret block with the keys of object storage")]
Aoi = Annotated[Path | None, typer.Option(help="GeoJSON polygons that limit the work")]
Bands = Annotated[str, typer.Option(help="The scene's bands in the model's order, separated by commas")]
Scale = Annotated[float | None, typer.Option(help="Value = digital number × scale + offset")]
Offset = Annotated[float | None, typer.Option(help="See --scale")]
Nodata = Annotated[str | None, typer.Option(help="Digital number that means no data, or none")]


def listed(text: str) -> tuple[str, ...]:
    """The names between the commas; where there is none, what was typed instead, to be refused as it is."""
    return tuple(part.strip() for part in text.split(",") if part.strip()) or ((text,) if text else ())


def numbers(option: str, text: str) -> tuple[float, ...]:
    """The numbers between the commas. Raises ``InputError`` for anything else."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(option, got=text, expected="numbers separated by commas", fix="correct it") from None


def mapping(text: str) -> dict[str, int]:
    """``0=0,255=1`` as values and labels."""
    labels: dict[str, int] = {}
    for part in listed(text):
        value, _, label = part.rpartition("=")
        if not value or not (label.isascii() and label.isdigit() and len(label) < 4) or int(label) > 254:
            raise InputError(
                "--values", got=part, expected="VALUE=LABEL, labels 0 to 254", fix="see seamline evaluate --help"
            )
        labels[value] = int(label)
    return labels


def choice(option: str, text: str, choices: tuple[str, ...]) -> Any:
    """One of the choices. Raises ``InputError`` for anything else."""
    if text not in choices:
        raise InputError(option, got=text, expected=" or ".join(choices), fix="correct it")
    return text


def checked_options(**values: Any) -> SegmentOptions:
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
