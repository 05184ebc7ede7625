"""Options that several commands share, and functions that parse and check what the user typed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from seamline.pipeline.common.errors import InputError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from seamline.flows.settings.options import SegmentOptions

Options = TypeVar("Options", bound="BaseModel")

SCENE_HELP = "A raster GDAL reads, a folder of band files, or a STAC item"
ScenesArgument = Annotated[
    list[str], typer.Argument(metavar="SCENE…", help=SCENE_HELP + "; each becomes a result of its own")
]
SceneArgument = Annotated[str, typer.Argument(help=SCENE_HELP)]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model", envvar="SEAMLINE_MODEL", show_envvar=False, help="Name of an embedded model, or a model folder"
    ),
]
OutOption = Annotated[
    str,
    typer.Option(
        "--out",
        envvar="SEAMLINE_OUT",
        show_envvar=False,
        help="Folder of the catalogue, or s3://BUCKET/PREFIX; each scene gets a folder",
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for programs")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and warnings")]
VerboseFlag = Annotated[bool, typer.Option("--verbose", "-v", help="Print what libraries and workers log, too")]


def refuse_object_storage(path: Path) -> Path:
    """Refuse s3://…, of which ``Path`` makes s3:/…, and return other paths."""
    if str(path).startswith("s3:/"):
        raise InputError(
            "results",
            got=f"s3://{str(path)[4:]}",
            expected="a folder",
            fix="copy it to a disk first; `query`, `zones`, `change` and `verify` read object storage",
        )
    return path


def split_names(text: str) -> tuple[str, ...]:
    """Return the names between the commas.

    A text of commas and spaces only is returned whole, so that the check of the names refuses what the user typed.
    """
    return tuple(part.strip() for part in text.split(",") if part.strip()) or ((text,) if text else ())


def split_unseen(text: str) -> tuple[str, ...] | None:
    """Return the unseen classes of a text: names between commas, no classes of ``none``, None of an empty text."""
    return () if text == "none" else split_names(text) or None


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


def parse_merges(text: str) -> dict[str, str]:
    """Parse ``thin cloud=cloud,4=0`` to the class that each class counts as.

    Raises:
        InputError: A part is not CLASS=CLASS.
    """
    merges: dict[str, str] = {}
    for part in split_names(text):
        old, _, new = (side.strip() for side in part.partition("="))
        if not (old and new):
            raise InputError(
                "--merge", got=part, expected="CLASS=CLASS, names or labels", fix="see seamline evaluate --help"
            )
        if merges.setdefault(old, new) != new:
            raise InputError("--merge", got=f"{old} twice", expected="one class for it", fix="leave one out")
    return merges


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
    from seamline.flows.settings.options import SegmentOptions  # takes a while to import

    return validate_as(SegmentOptions, "segment", **values)


def validate_as(kind: type[Options], command: str, **values: Any) -> Options:
    """Return validated options of a command.

    Args:
        kind: Model of the options.
        command: Name of the command, for messages.
        **values: The options by their names.

    Raises:
        InputError: A value is invalid; the message names the option as on the command line.
    """
    from pydantic import ValidationError

    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        # Only checks that depend on several fields report no field.
        name = str(first["loc"][0]) if first["loc"] else {"segment": "precision", "mosaic": "bounds"}[command]
        raise InputError(
            "--" + name.replace("_", "-"),
            got=repr(_format_typed(values[name])),
            expected=first.get("ctx", {}).get("expected", first["msg"]),
            fix=f"see seamline {command} --help",
        ) from error


def _format_typed(value: object) -> str:
    """Return a value as the user typed it on the command line."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
