"""Options that several commands share, and functions that parse and check what the user typed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seamline.pipeline.common.errors import InputError

if TYPE_CHECKING:
    from seamline.flows.settings.options import SegmentOptions

SCENE_HELP = "A raster GDAL reads, a folder of band files, or a STAC item"
_SCENE, _TILING, _NETWORK, _CLUSTER = "Scene", "Tiling", "Network", "Cluster"
OUTPUT_PANEL = "Outputs"
"""Groups of options in the help; those that most people need come first, in none of them."""


def declare_option(*names: str, help: str, panel: str | None = None, variable: str | None = None) -> Any:
    """Return an option of Typer that an environment variable may give, too.

    Args:
        *names: Its names on the command line. Default: that of the parameter.
        help: What it does.
        panel: Group in the help.
        variable: Environment variable. Default: none.
    """
    return typer.Option(*names, help=help, rich_help_panel=panel, envvar=variable, show_envvar=False)


ScenesArgument = Annotated[
    list[str], typer.Argument(metavar="SCENE…", help=SCENE_HELP + "; each becomes a result of its own")
]
SceneArgument = Annotated[str, typer.Argument(help=SCENE_HELP)]
ModelOption = Annotated[
    str, declare_option("--model", help="Name of an embedded model, or a model folder", variable="SEAMLINE_MODEL")
]
WindowOption = Annotated[
    str,
    declare_option(help="Edge of the network's windows in pixels, or auto", panel=_TILING, variable="SEAMLINE_WINDOW"),
]
HaloOption = Annotated[
    str,
    declare_option(
        help="Context that is read and thrown away, in pixels, or auto", panel=_TILING, variable="SEAMLINE_HALO"
    ),
]
OverlapOption = Annotated[
    str,
    declare_option(
        help="Band in which tiles are feathered, in pixels, or auto", panel=_TILING, variable="SEAMLINE_OVERLAP"
    ),
]
ChunkTilesOption = Annotated[
    int | None,
    declare_option(help="Tiles along the edge of a chunk", panel=_TILING, variable="SEAMLINE_CHUNK_TILES"),
]
DeviceOption = Annotated[str, declare_option(help="auto, cpu or cuda", panel=_NETWORK, variable="SEAMLINE_DEVICE")]
PrecisionOption = Annotated[
    str, declare_option(help="auto, fp32, bf16, fp16 or fp64", panel=_NETWORK, variable="SEAMLINE_PRECISION")
]
EngineOption = Annotated[
    str,
    declare_option(
        help="auto, torch, compiled, onnxruntime or openvino: what runs the network",
        panel=_NETWORK,
        variable="SEAMLINE_ENGINE",
    ),
]
BatchOption = Annotated[
    int | None,
    declare_option(help="Windows that go through the network at once", panel=_NETWORK, variable="SEAMLINE_BATCH"),
]
ThreadsOption = Annotated[
    int | None,
    declare_option(help="Threads of the network in each worker", panel=_NETWORK, variable="SEAMLINE_THREADS"),
]
ClusterOption = Annotated[
    str,
    declare_option(help="local, or the address of a Dask scheduler", panel=_CLUSTER, variable="SEAMLINE_CLUSTER"),
]
WorkersOption = Annotated[
    int | None,
    declare_option(help="Worker processes of the local cluster", panel=_CLUSTER, variable="SEAMLINE_WORKERS"),
]
CredentialsOption = Annotated[
    str | None,
    declare_option(
        help="Prefect Secret block with the keys of object storage", panel=_CLUSTER, variable="SEAMLINE_CREDENTIALS"
    ),
]
AoiOption = Annotated[
    Path | None,
    declare_option(
        help="Polygons that limit the work: GeoJSON, GeoPackage, Shapefile, KML, …", variable="SEAMLINE_AOI"
    ),
]
BandsOption = Annotated[
    str,
    declare_option(help="The scene's bands in the model's order, separated by commas", variable="SEAMLINE_BANDS"),
]
ScaleOption = Annotated[
    float | None,
    declare_option(help="Value = digital number × scale + offset", panel=_SCENE, variable="SEAMLINE_SCALE"),
]
OffsetOption = Annotated[float | None, declare_option(help="See --scale", panel=_SCENE, variable="SEAMLINE_OFFSET")]
NodataOption = Annotated[
    str | None,
    declare_option(help="Digital number that means no data, or none", panel=_SCENE, variable="SEAMLINE_NODATA"),
]
OnBadBlockOption = Annotated[
    str,
    declare_option(
        help="fail, or nodata: go on without unreadable blocks", panel=_SCENE, variable="SEAMLINE_ON_BAD_BLOCK"
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for programs")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and warnings")]
VerboseFlag = Annotated[bool, typer.Option("--verbose", "-v", help="Print what libraries and workers log, too")]


def split_names(text: str) -> tuple[str, ...]:
    """Return the names between the commas.

    A text of commas and spaces only is returned whole, so that the check of the names refuses what the user typed.
    """
    return tuple(part.strip() for part in text.split(",") if part.strip()) or ((text,) if text else ())


def parse_numbers(option: str, text: str) -> tuple[float, ...]:
    """Return the numbers between the commas of an option's value.

    Raises:
        InputError: A part is no number.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(option, got=text, expected="numbers separated by commas", fix="correct it") from None


def parse_label_mapping(text: str) -> dict[str, int]:
    """Parse ``0=0,255=1`` to labels by value.

    Raises:
        InputError: A part is not VALUE=LABEL with a label of 0 to 254.
    """
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
    """Check that an option's value is one of its choices.

    Args:
        option: Name of the option, for the message.
        text: What the user typed.
        choices: Values that are allowed.

    Returns:
        The value.

    Raises:
        InputError: The value is not among the choices.
    """
    if text not in choices:
        raise InputError(option, got=text, expected=" or ".join(choices), fix="correct it")
    return text


def validate_options(**values: Any) -> SegmentOptions:
    """Return validated options of a run.

    Raises:
        InputError: A value is invalid; the message names the option as on the command line.
    """
    from pydantic import ValidationError  # takes a while to import, and so do the options

    from seamline.flows.settings.options import SegmentOptions

    try:
        return SegmentOptions(**values)
    except ValidationError as error:
        first = error.errors()[0]
        # Only the check of the precision, which depends on other fields, reports no field.
        name = str(first["loc"][0]) if first["loc"] else "precision"
        raise InputError(
            "--" + name.replace("_", "-"),
            got=repr(_format_typed(values[name])),
            expected=first.get("ctx", {}).get("expected", first["msg"]),
            fix="see seamline segment --help",
        ) from error


def _format_typed(value: object) -> str:
    """Return a value as the user typed it on the command line."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
