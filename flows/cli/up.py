"""The commands ``up`` and ``down``: everything on one machine."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from seamline.flows.terminal.progress import print_line
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.storage.atomic import make_absolute

if TYPE_CHECKING:
    from seamline.flows.up.stack import Stack

app = typer.Typer()
# Each command imports what it runs when it is called, so that `--help` and refused usage answer at once.

_FolderOption = Annotated[Path, typer.Option(help="Where inbox, results, logs and Prefect's database lie")]
_PortOption = Annotated[int, typer.Option(help="0: any that is free")]


@app.command()
def up(
    folder: _FolderOption = Path("build/up"),
    model: Annotated[str, typer.Option(help="What segments the scenes of the inbox")] = "land-water-cloud",
    workers: Annotated[int, typer.Option(help="Worker processes; 0: one a CUDA device, or one for two cores")] = 0,
    every: Annotated[float, typer.Option(help="Seconds between two looks into the inbox")] = 60,
    settle: Annotated[float, typer.Option(help="Seconds without a change after which a file is whole")] = 10,
    allow: Annotated[
        list[str] | None,
        typer.Option(help="Folder, host or s3://bucket that VRTs and STAC items in the inbox may name; repeat it"),
    ] = None,
    prefect_port: _PortOption = 4200,
    dask_port: _PortOption = 8786,
    dashboard_port: _PortOption = 8787,
    map_port: _PortOption = 8080,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when everything runs; `seamline down` ends it")
    ] = False,
) -> None:
    """Start Prefect with its UI, a Dask cluster, scheduled flow runs, a watched inbox and the map on this machine.

    Examples:
    seamline up

    seamline up --detach --folder /data/seamline --model my-model --every 300
    """
    from seamline.flows.runs.planning import count_worker_threads, count_workers
    from seamline.flows.settings.model_folder import open_model
    from seamline.flows.settings.options import SegmentOptions
    from seamline.flows.up.stack import Stack, describe_addresses, run_stack, start_detached

    if not (every >= 1 and settle >= 0 and 0 <= workers <= 256):
        raise InputError(
            "--every, --settle, --workers",
            got=f"{every}, {settle}, {workers}",
            expected="at least 1 s, 0 s, and 0 to 256",
            fix="correct them",
        )
    open_model(model).tell_limits(print_line)
    ports = (
        _find_free_port(prefect_port),
        _find_free_port(dask_port),
        _find_free_port(dashboard_port),
        _find_free_port(map_port),
    )
    count = workers or count_workers(SegmentOptions())
    name = model if not Path(model).is_dir() else str(Path(model).absolute())
    allowed = tuple(str(make_absolute(place)) if _is_path(place) else place for place in allow or ())
    threads = count_worker_threads(SegmentOptions(), count)
    stack = Stack(make_absolute(folder), name, count, every, settle, ports, allowed, threads)
    if detach:
        start_detached(stack, _build_foreground_command(stack))
        Console().print(describe_addresses(stack), highlight=False, soft_wrap=True)
    else:
        run_stack(stack, print_line)


def _is_path(place: str) -> bool:
    """Return whether what is allowed is a folder, which need not exist yet, and no host or bucket."""
    return "://" not in place and ("/" in place or Path(place).is_dir())


def _build_foreground_command(stack: Stack) -> tuple[str, ...]:
    """Return the command that runs a stack without ``--detach``."""
    from seamline.flows.up.stack import build_command

    prefect_port, dask_port, dashboard_port, map_port = stack.ports
    options = {
        "--folder": stack.folder,
        "--model": stack.model,
        "--workers": stack.workers,
        "--every": stack.every,
        "--settle": stack.settle,
        "--prefect-port": prefect_port,
        "--dask-port": dask_port,
        "--dashboard-port": dashboard_port,
        "--map-port": map_port,
    }
    allowed = [word for place in stack.allow for word in ("--allow", place)]
    return build_command(["seamline", "up", *allowed], options)


@app.command()
def down(folder: _FolderOption = Path("build/up")) -> None:
    """Stop everything that `seamline up` started; scenes that were being worked on go on after the next start.

    Examples:
    seamline down

    seamline down --folder /data/seamline
    """
    from seamline.flows.up.stack import stop_stack

    Console().print("stopped" if stop_stack(make_absolute(folder)) else "nothing ran", highlight=False)


def _find_free_port(port: int) -> int:
    """Return ``port``, or any free port for 0.

    Raises:
        InputError: The port is in use.
    """
    try:
        with socket.create_server(("127.0.0.1", port)) as listening:
            return int(listening.getsockname()[1])
    except (OSError, OverflowError) as error:
        raise InputError(
            f"port {port}",
            got=getattr(error, "strerror", None) or error,
            expected="one that is free",
            fix="stop what uses it (`seamline down`?), or choose another; 0 takes any",
        ) from error
