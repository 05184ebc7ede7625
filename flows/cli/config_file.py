"""Options of a command from a file: ``--config run.yaml``."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from seamline.pipeline.common.errors import InputError

_MOST_BYTES = 1_000_000


def _load_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take the options in a file for defaults: those of the command line and of the environment override them.

    Raises:
        InputError: the file cannot be read, or holds what is no option of the command.
    """
    if path is None:
        return None
    import yaml  # not needed by those who use no file

    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise _config_error(path, "a larger file", f"at most {_MOST_BYTES} bytes", "give a file of options")
        content = yaml.safe_load(text)
    except OSError as error:
        raise _config_error(path, error.strerror or "nothing", "a file that can be read", "correct the path") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        got = " ".join(str(error).split())[:200]
        raise _config_error(path, got, "a YAML file", "correct the file") from error
    if not isinstance(content, dict):
        raise _config_error(path, type(content).__name__, "options by name, such as window: 1024", "correct the file")
    parameters = {parameter.name: parameter for parameter in context.command.params if parameter.name != "config"}
    defaults: dict[str, Any] = {}
    for key, value in content.items():
        name = _to_parameter_name(str(key), context)
        if name not in parameters:
            known = ", ".join(sorted(_get_option_name(parameter) for parameter in parameters.values()))
            raise _config_error(path, f"{key}", f"options of {context.info_name}: {known}", "correct the name")
        parameter = parameters[name]
        if getattr(parameter, "is_flag", False) and not isinstance(value, bool):
            raise _config_error(path, f"{key}: {value!r}", "true or false", "correct it")
        defaults[name] = _to_option_value(value, is_many=parameter.nargs == -1 or getattr(parameter, "multiple", False))
    context.default_map = defaults
    return path


def _to_parameter_name(key: str, context: typer.Context) -> str | None:
    """Return the name of the parameter whose option, or name, is ``key``; None if there is none."""
    for parameter in context.command.params:
        if key.replace("_", "-") in {option.lstrip("-") for option in parameter.opts} | {parameter.name}:
            return parameter.name
    return None


def _get_option_name(parameter: Any) -> str:
    """Return the name by which a file gives a parameter: that of its option, or of the argument."""
    return max((str(option).lstrip("-") for option in parameter.opts), key=len)


def _to_option_value(value: Any, *, is_many: bool) -> Any:
    """Return a value as it is typed: lists are joined by commas, unless the option takes many values."""
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, list) and not is_many:
        return ",".join(map(str, value))
    if is_many:
        return [str(part) for part in value] if isinstance(value, list) else [str(value)]
    return str(value) if isinstance(value, date) else value


def _config_error(path: Path, got: str, expected: str, fix: str) -> InputError:
    return InputError(f"--config {path}", got=got, expected=expected, fix=fix)


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        is_eager=True,
        callback=_load_config,
        envvar="SEAMLINE_CONFIG",
        show_envvar=False,
        help="YAML file with options by name; those given here or as SEAMLINE_… variables override it",
    ),
]
