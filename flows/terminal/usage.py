"""Turn Typer's errors of usage, which it prints as boxes of several lines, into messages of one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer
from typer.main import get_command

from seamline.pipeline.common.errors import InputError

if TYPE_CHECKING:
    from pydantic import ValidationError

_EXPECTED = {"int": "a whole number", "float": "a number"}


def usage_error(error: typer.TyperException, app: typer.Typer, arguments: Sequence[str]) -> InputError:
    """Return an error of usage as an ``InputError``, which is one line.

    Args:
        error: What Typer raised.
        app: The command line.
        arguments: The arguments given, without the program's name.

    Returns:
        The error: what is wrong, what was got, what was expected, and which help to read.
    """
    # The command is found from the arguments, since some of the parser's errors have no context.
    command: Any = get_command(app)
    words, rest = ["seamline"], list(arguments)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest[0]]
        words.append(rest.pop(0))
    what, got, expected = _describe_error(error, command, rest)
    return InputError(what, got=got, expected=expected, fix=f"see {' '.join(words)} --help")


def _describe_error(error: Any, command: Any, rest: Sequence[str]) -> tuple[str, str, str]:
    """Return (what, got, expected). Errors are told apart by their attributes, as Typer's classes are private."""
    from pydantic import ValidationError  # takes a while to import

    if (param := getattr(error, "param", None)) is not None:
        what = param.opts[0] if param.param_type_name == "option" else str(param.name).upper()
        if isinstance(cause := error.__cause__, ValidationError):
            return what, repr(cause.errors()[0]["input"]), _describe_expected(cause, param.nargs)
        return what, "nothing", f"a value ({param.help})"
    if hasattr(error, "possibilities"):
        near = ", such as " + " or ".join(sorted(error.possibilities)) if error.possibilities else ""
        return "option", error.option_name, f"an option of the command{near}"
    if hasattr(error, "option_name"):
        name = error.option_name
        known = next((option for option in command.params if name in option.opts), None)
        if known is None or known.is_flag:
            return name, "a value", "none"
        if known.nargs == 1:
            return name, "nothing", f"a value ({known.help})"
        return name, "too few values", f"{known.nargs} ({known.help})"
    if names := list(getattr(command, "commands", {})):
        return "command", repr(rest[0]) if rest else "nothing", f"{', '.join(names[:-1])} or {names[-1]}"
    return "arguments", error.format_message().removeprefix("Got ").rstrip("."), "no more than the help names"


def _describe_expected(error: ValidationError, count: int) -> str:
    """Return what kind of value was expected, of an option that takes ``count`` values (-1: any number)."""
    first = error.errors()[0]
    kind = _EXPECTED.get(first["type"].split("_")[0], first["msg"].removeprefix("Input should be "))
    return kind if count in (1, -1) else f"{count} values, each {kind}"
