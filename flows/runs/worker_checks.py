"""Check before a run that the workers of a cluster can do their part of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distributed import Client

from seamline.pipeline.cluster.workers import run_on_each_host
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.extras import list_missing_modules


def check_workers(client: Client, paths: Sequence[Path], extras: Sequence[str]) -> None:
    """Refuse a cluster whose workers lack files or packages of a run.

    One worker of each host is asked, before anything is measured or inferred.

    Args:
        client: client of the cluster.
        paths: files that are there for the client, and that the workers read or write.
        extras: extras of Seamline whose packages the workers need.

    Raises:
        InputError: a worker does not see one of the files, or an extra is not installed there.
        RunError: there are no workers, or none of them can work.
    """
    for address, (missing, lacking) in run_on_each_host(client, _find_missing, paths, extras).items():
        if missing:
            raise InputError(
                f"worker {address}",
                got=f"no {missing[0]} there",
                expected="scenes, models and results under the same paths on the client and on all workers",
                fix="share the folder with the workers, or name a shared one: --out, or --work where results go to s3://",
            )
        if lacking:
            named = f"seamline[{','.join(lacking)}]"
            raise InputError(
                f"worker {address}",
                got=f"no packages of {named} there",
                expected="what the outputs of the run need",
                fix=f"pip install '{named}' where the workers run, and restart them",
            )


def _find_missing(paths: Sequence[Path], extras: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Return the paths and extras that are not there on this machine; runs on a worker."""
    return [path for path in paths if not path.exists()], [name for name in extras if list_missing_modules(name)]
