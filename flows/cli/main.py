"""The command line ``seamline``. Exit codes: 0 done, 1 failure, 2 a mistake of the user's (one line)."""

from __future__ import annotations

import atexit
import sys
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

from seamline.flows.cli import doctor, maps, models, results, scenes, training, up
from seamline.flows.terminal.output import close_output
from seamline.flows.terminal.process import exit_with, handle_signals, report_stop, silence_libraries, was_stopped
from seamline.flows.terminal.usage import usage_error
from seamline.model.spec.errors import ModelError
from seamline.pipeline.common.errors import InputError, SeamlineError

_EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="seamline",
    help="Seamless segmentation of satellite and aerial scenes of any size.",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
# In the order in which the help lists them.
app.add_typer(scenes.app)
app.add_typer(maps.app)
app.add_typer(training.app)
app.add_typer(models.app, name="model")
app.add_typer(results.app)
app.add_typer(up.app)
app.add_typer(doctor.app)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"seamline {version('seamline')}")
        raise typer.Exit


@app.callback()
def _show_help(
    context: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", help="Say which Seamline this is", callback=_show_version)
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> NoReturn:
    """Run the command line and exit. Seamline's own errors become one line; others are defects and keep a traceback."""
    handle_signals()
    silence_libraries()
    try:
        code = app(prog_name="seamline", standalone_mode=False)
        close_output()
    except typer.TyperException as error:
        code = _print_error(usage_error(error, app, sys.argv[1:]), 2)
    except SeamlineError as error:  # after a signal it is about what the signal broke off
        is_mistake = isinstance(error, InputError | ModelError)
        code = _EXIT_INTERRUPTED if was_stopped() else _print_error(error, 2 if is_mistake else 1)
    except KeyboardInterrupt:
        code = _EXIT_INTERRUPTED
    if code == _EXIT_INTERRUPTED:  # from above, or from Typer, which catches Ctrl-C itself while a command runs
        code = report_stop()
    atexit.register(_stop_zarr_thread)  # handlers run in reverse order, so this one runs before zarr's own
    exit_with(int(code or 0))


def _stop_zarr_thread() -> None:
    """Stop zarr's event loop and wait for its thread.

    At exit zarr itself waits only 0.2 s and then prints a traceback, which happens on a busy machine.
    """
    zarr = sys.modules.get("zarr.core.sync")
    thread, loop = (getattr(zarr, name, [None])[0] for name in ("iothread", "loop"))
    if thread is not None and loop is not None:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def _print_error(message: object, code: int) -> int:
    print("seamline: " + " ".join(str(message).split()), file=sys.stderr)
    return code
