"""The commands ``up`` and ``down``: everything on one machine."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from seamline.flows.cli.arguments import JsonFlag
from seamline.flows.cli.config_file import ConfigOption
from seamline.flows.cli.run_options import take_options
from seamline.flows.terminal.progress import print_line
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.extras import require_extras
from seamline.pipeline.storage.atomic import make_absolute

if TYPE_CHECKING:
    from seamline.flows.settings.options import SegmentOptions
    from seamline.flows.up.stack import Stack
    from seamline.pipeline.scenes.band_matching import BandNeed

app = typer.Typer()
# Each command imports what it runs when it is called, so that `--help` and refused usage answer at once.

_FolderOption = Annotated[Path, typer.Option(help="Where inbox, results, logs and Prefect's database lie")]
_PortOption = Annotated[int, typer.Option(help="0: any that is free")]


_SCENE_OPTIONS = (
    *("outputs", "bands", "aoi", "scale", "offset", "nodata", "on_bad_block", "device", "precision"),
    *("zarr_format", "zarr_shards", "polygon_formats", "polygon_min_area", "polygon_simplify"),
)
"""Options of a run that hold for all scenes."""


@app.command()
@take_options(_SCENE_OPTIONS)
def up(
    *,
    folder: _FolderOption = Path("build/up"),
    model: Annotated[str, typer.Option(help="What segments the scenes of the inbox")] = "land-water-cloud",
    workers: Annotated[int, typer.Option(help="Worker processes; 0: one a CUDA device, or one for two cores")] = 0,
    every: Annotated[float, typer.Option(help="Seconds between two looks into the inbox")] = 60,
    settle: Annotated[float, typer.Option(help="Seconds without a change after which a file is whole")] = 10,
    allow: Annotated[
        list[str] | None,
        typer.Option(help="Folder, host or s3://bucket that links and STAC items in the inbox may name; repeat it"),
    ] = None,
    options: SegmentOptions,
    keep_days: Annotated[int, typer.Option(help="Days for which Prefect's database keeps runs that have ended")] = 30,
    config: ConfigOption = None,
    prefect_port: _PortOption = 4200,
    dask_port: _PortOption = 8786,
    dashboard_port: _PortOption = 8787,
    map_port: _PortOption = 8080,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when everything runs; `seamline down` ends it")
    ] = False,
) -> None:
    """Start Prefect with its UI, a Dask cluster, scheduled flow runs, a watched inbox and the map on this machine.

    Everything listens to this machine alone. A file that cannot be used fails once, and FILE.rejected.txt says why.

    Examples:
    seamline up

    seamline up --detach --folder /data/seamline --model my-model --every 300 --outputs cog,polygons --aoi area.geojson
    """
    from seamline.flows.runs.planning import count_worker_threads, count_workers
    from seamline.flows.settings.model_folder import open_model
    from seamline.flows.up.stack import Stack, describe_addresses, run_stack, start_detached, take_over

    folder = make_absolute(folder)
    take_over(folder, print_line)  # before its ports are found to be in use
    if not (every >= 1 and settle >= 0 and 0 <= workers <= 256 and 1 <= keep_days <= 36_500):
        raise InputError(
            "--every, --settle, --workers, --keep-days",
            got=f"{every}, {settle}, {workers}, {keep_days}",
            expected="at least 1 s, 0 s, 0 to 256, and at least a day",
            fix="correct them",
        )
    opened = open_model(model)
    _check_scene_options(options, opened.band_needs)
    if options.aoi_file is not None:
        options = options.model_copy(update={"aoi": make_absolute(options.aoi_file)})
    opened.tell_limits(print_line)
    ports = (
        _find_free_port(prefect_port),
        _find_free_port(dask_port),
        _find_free_port(dashboard_port),
        _find_free_port(map_port),
    )
    count = workers or count_workers(options)
    name = model if not Path(model).is_dir() else str(Path(model).absolute())
    allowed = tuple(str(make_absolute(place)) if _is_path(place) else place for place in allow or ())
    threads = count_worker_threads(options, count)
    given = options.model_dump(mode="json", include=set(_SCENE_OPTIONS), exclude_none=True)
    stack = Stack(folder, name, count, every, settle, ports, allowed, threads, given, keep_days)
    if detach:
        start_detached(stack, _build_foreground_command(stack))
        Console().print(describe_addresses(stack), highlight=False, soft_wrap=True)
    else:
        run_stack(stack, print_line)


def _check_scene_options(options: SegmentOptions, needs: Sequence[BandNeed]) -> None:
    """Refuse options that would have every scene refused.

    Raises:
        InputError: There is no such area of interest or extra, or the model has another number of bands.
        ModelError: There is no such device.
    """
    if "polygons" in options.outputs or options.aoi_file is not None:
        require_extras("--outputs polygons, --aoi", "vectors")
    if options.aoi_file is not None and not options.aoi_file.is_file():
        raise InputError("--aoi", got=options.aoi_file, expected="a file that is there", fix="check the path")
    if options.bands and len(options.bands) != len(needs):
        raise InputError(
            "--bands does not fit the model",
            got=f"{len(options.bands)} bands ({', '.join(options.bands)})",
            expected=f"{len(needs)} ({', '.join(need.name for need in needs)})",
            fix="name one band for each, in this order",
        )
    if options.device == "cuda":
        from seamline.model.devices.cuda_device import require_cuda

        require_cuda()


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
        "--keep-days": stack.keep_days,
        "--prefect-port": prefect_port,
        "--dask-port": dask_port,
        "--dashboard-port": dashboard_port,
        "--map-port": map_port,
    }
    words = [word for place in stack.allow for word in ("--allow", place)]
    for name, value in stack.options.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [option] if value else []
        elif value != []:
            words.append(f"{option}={','.join(value) if isinstance(value, list) else value}")
    return build_command(["seamline", "up", *words], options)


@app.command()
def down(folder: _FolderOption = Path("build/up")) -> None:
    """Stop everything that `seamline up` started; scenes that were being worked on go on after the next start.

    Examples:
    seamline down

    seamline down --folder /data/seamline
    """
    from seamline.flows.up.stack import describe_left, stop_stack

    was_running, left = stop_stack(make_absolute(folder))
    said = "stopped" if was_running else describe_left(left) if left else "nothing ran"
    Console().print(said, highlight=False, soft_wrap=True)


@app.command()
def status(folder: _FolderOption = Path("build/up"), as_json: JsonFlag = False) -> None:
    """Show what `seamline up` is doing: services, queue, last scenes, failures, disk.

    The exit code is 0 if all services run, 1 if one does not, and 3 if nothing runs.

    Examples:
    seamline status

    seamline status --folder /data/seamline --json
    """
    import json

    from seamline.flows.up.status import read_status
    from seamline.flows.up.status_table import show_status

    found = read_status(make_absolute(folder))
    if as_json:
        print(json.dumps(found.to_document(), indent=1))
    else:
        show_status(found)
    raise typer.Exit(found.exit_code)


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
            fix="stop what uses it (another folder's `seamline up`?), or choose another; 0 takes any",
        ) from error
