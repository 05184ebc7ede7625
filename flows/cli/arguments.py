"""What options of several commands have in common: their names and help, and how what was typed is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.common.errors import InputError

SCENE_HELP = "A raster GDAL reads, a folder of band files, or a STAC item"
ScenesArgument = Annotated[
    list[str], typer.Argument(metavar="SCENE…", help=SCENE_HELP + "; each becomes a result of its own")
]
SceneArgument = Annotated[str, typer.Argument(help=SCENE_HELP)]
ModelOption = Annotated[str, typer.Option("--model", help="Name of an embedded model, or a model folder")]
WindowOption = Annotated[str, typer.Option(help="Edge of the network's windows in pixels, or auto")]
HaloOption = Annotated[str, typer.Option(help="Context that is read and thrown away, in pixels, or auto")]
OverlapOption = Annotated[str, typer.Option(help="Band in which tiles are feathered, in pixels, or auto")]
ChunkTilesOption = Annotated[int | None, typer.Option(help="Tiles along the edge of a chunk")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda")]
PrecisionOption = Annotated[str, typer.Option(help="auto, fp32, bf16, fp16 or fp64")]
EngineOption = Annotated[
    str, typer.Option(help="auto, torch, compiled, onnxruntime or openvino: what runs the network")
]
BatchOption = Annotated[int | None, typer.Option(help="Windows that go through the network at once")]
ThreadsOption = Annotated[int | None, typer.Option(help="Threads of the network in each worker")]
ClusterOption = Annotated[str, typer.Option(help="local, or the address of a Dask scheduler")]
WorkersOption = Annotated[int | None, typer.Option(help="Worker processes of the local cluster")]
CredentialsOption = Annotated[str | None, typer.Option(help="Prefect Secret block with the keys of object storage")]
AoiOption = Annotated[Path | None, typer.Option(help="GeoJSON polygons that limit the work")]
BandsOption = Annotated[str, typer.Option(help="The scene's bands in the model's order, separated by commas")]
ScaleOption = Annotated[float | None, typer.Option(help="Value = digital number × scale + offset")]
OffsetOption = Annotated[float | None, typer.Option(help="See --scale")]
NodataOption = Annotated[str | None, typer.Option(help="Digital number that means no data, or none")]


def split_names(text: str) -> tuple[str, ...]:
    """The names between the commas; where there is none, what was typed instead, to be refused as it is."""
    return tuple(part.strip() for part in text.split(",") if part.strip()) or ((text,) if text else ())


def parse_numbers(option: str, text: str) -> tuple[float, ...]:
    """The numbers between the commas. Raises ``InputError`` for anything else."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(option, got=text, expected="numbers separated by commas", fix="correct it") from None


def parse_label_mapping(text: str) -> dict[str, int]:
    """``0=0,255=1`` as values and labels."""
    labels: dict[str, int] = {}
    for part in split_names(text):
        value, _, label = part.rpartition("=")
        if not value or not (label.isascii() and label.isdigit() and len(label) < 4) or int(label) > 254:
            raise InputError(
                "--values", got=part, expected="VALUE=LABEL, labels 0 to 254", fix="see seamline evaluate --help"
            )
        labels[value] = int(label)
    return labels


def check_choice(option: str, text: str, choices: tuple[str, ...]) -> Any:
    """One of the choices. Raises ``InputError`` for anything else."""
    if text not in choices:
        raise InputError(option, got=text, expected=" or ".join(choices), fix="correct it")
    return text


def validate_options(**values: Any) -> SegmentOptions:
    """Validated options; what is wrong is named as on the command line."""
    try:
        return SegmentOptions(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "precision"  # the only one that depends on another
        raise InputError(
            "--" + name.replace("_", "-"),
            got=repr(_format_typed(values[name])),
            expected=first.get("ctx", {}).get("expected", first["msg"]),
            fix="see seamline segment --help",
        ) from error


def _format_typed(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
