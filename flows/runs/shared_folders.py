"""Check that the workers of a cluster see the files of a run under the client's paths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distributed import Client

from seamline.pipeline.cluster.workers import run_on_each_host
from seamline.pipeline.common.errors import InputError


def check_shared_files(client: Client, paths: Sequence[Path]) -> None:
    """Refuse a cluster whose workers do not see the files that the client sees.

    One worker of each host is asked, before anything is measured or inferred.

    Args:
        client: client of the cluster.
        paths: files that are there for the client.

    Raises:
        InputError: a worker does not see one of them.
        RunError: there are no workers, or none of them can work.
    """
    for address, missing in run_on_each_host(client, _list_missing_files, paths).items():
        if missing:
            raise InputError(
                f"worker {address}",
                got=f"no {missing[0]} there",
                expected="scenes, models and results under the same paths on the client and on all workers",
                fix="share the folder with the workers, or name a shared one: --out, or --work where results go to s3://",
            )


def _list_missing_files(paths: Sequence[Path]) -> list[Path]:
    """Return the paths at which there is nothing on this machine; runs on a worker."""
    return [path for path in paths if not path.exists()]
