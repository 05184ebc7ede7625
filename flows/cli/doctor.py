"""The command ``doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seamline.flows.terminal import tables
from seamline.pipeline.storage.atomic import make_absolute

app = typer.Typer()
# The command imports what it runs when it is called, so that `--help` and refused usage answer at once.


@app.command()
def doctor(
    cluster: Annotated[
        str,
        typer.Option(envvar="SEAMLINE_CLUSTER", show_envvar=False, help="local, or the address of a Dask scheduler"),
    ] = "local",
    model: Annotated[str | None, typer.Option(help="Name of an embedded model, or a model folder, to open")] = None,
    folder: Annotated[
        list[Path] | None, typer.Option(help="Folder of scenes or results that must be writable; repeat it")
    ] = None,
) -> None:
    """Tell whether this machine, and a cluster, can run Seamline, and how to fix what is wrong; exit code 1 if not.

    Examples:
    seamline doctor

    seamline doctor --cluster tcp://scheduler:8786 --model my-model --folder /data/results
    """
    from seamline.flows.runs.planning import count_workers
    from seamline.flows.settings.checks import State
    from seamline.flows.settings.cluster_checks import check_cluster
    from seamline.flows.settings.engine_meter import list_engine_versions
    from seamline.flows.settings.machine_checks import check_folders, check_model, check_resources, check_software
    from seamline.flows.settings.options import SegmentOptions

    folders = [make_absolute(path) for path in folder or ()]
    checks = [
        *check_software(),
        *check_resources(count_workers(SegmentOptions()), list_engine_versions()),
        *check_folders(folders),
    ]
    opened = None
    if model is not None:
        check, opened = check_model(model)
        checks.append(check)
    if cluster != "local":
        checks += check_cluster(cluster, folders, opened)
    tables.show_checks(checks)
    raise typer.Exit(1 if any(check.state is State.FAILED for check in checks) else 0)
