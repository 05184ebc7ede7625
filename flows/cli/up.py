"""The commands ``up`` and ``down``: everything on one machine."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from seamline.flows.terminal import tables as display
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.storage.atomic import make_absolute

app = typer.Typer()

FolderOption = Annotated[Path, typer.Option(help="Where inbox, results, logs and Prefect's database lie")]
PortOption = Annotated[int, typer.Option(help="0: any that is free")]


@app.command()
def up(
    folder: FolderOption = Path("build/up"),
    model: Annotated[str, typer.Option(help="What segments the scenes of the inbox")] = "land-water-cloud",
    workers: Annotated[int, typer.Option(help="Worker processes; 0: one a CUDA device, or one a core")] = 0,
    every: Annotated[float, typer.Option(help="Seconds between two looks into the inbox")] = 60,
    settle: Annotated[float, typer.Option(help="Seconds without a change after which a file is whole")] = 10,
    prefect_port: PortOption = 4200,
    dask_port: PortOption = 8786,
    dashboard_port: PortOption = 8787,
    map_port: PortOption = 8080,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when everything runs; `seamline down` ends it")
    ] = False,
) -> None:
    """Start Prefect with its UI, a Dask cluster, scheduled flow runs, a watched inbox and the map on this machine."""
    from seamline.flows.runs.planning import count_workers
    from seamline.flows.settings.model_folder import open_model
    from seamline.flows.settings.options import SegmentOptions
    from seamline.flows.up.stack import Stack, describe_addresses, run_stack, start_detached

    if not (every >= 1 and settle >= 0 and 0 <= workers <= 256):
        raise InputError("--every, --settle, --workers", got=f"{every}, {settle}, {workers}",
                         expected="at least 1 s, 0 s, and 0 to 256", fix="correct them")  # fmt: skip
    open_model(model)
    ports = (
        _find_free_port(prefect_port),
        _find_free_port(dask_port),
        _find_free_port(dashboard_port),
        _find_free_port(map_port),
    )
    count = workers or count_workers(SegmentOptions())
    name = model if not Path(model).is_dir() else str(Path(model).absolute())
    stack = Stack(make_absolute(folder), name, count, every, settle, ports)
    if detach:
        options = {"--folder": stack.folder, "--model": name, "--workers": count, "--every": every, "--settle": settle}
        names = ("--prefect-port", "--dask-port", "--dashboard-port", "--map-port")
        given = {**options, **dict(zip(names, ports, strict=True))}
        words = [str(word) for option in given.items() for word in option]
        start_detached(stack, [sys.executable, "-m", "seamline", "up", *words])
        Console().print(describe_addresses(stack), highlight=False, soft_wrap=True)
    else:
        run_stack(stack, display.print_line)


@app.command()
def down(folder: FolderOption = Path("build/up")) -> None:
    """Stop everything that `seamline up` started; scenes that were being worked on go on after the next start."""
    from seamline.flows.up.stack import stop_stack

    Console().print("stopped" if stop_stack(make_absolute(folder)) else "nothing ran", highlight=False)


def _find_free_port(port: int) -> int:
    """``port``, or any, if nobody listens there."""
    try:
        with socket.create_server(("127.0.0.1", port)) as listening:
            return int(listening.getsockname()[1])
    except (OSError, OverflowError) as error:
        raise InputError(
            f"port {port}", got=getattr(error, "strerror", None) or error, expected="one that is free",
            fix="stop what uses it (`seamline down`?), or choose another; 0 takes any",
        ) from error  # fmt: skip
