"""What a run asks the workers of a cluster before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from seamline.flows.runs import worker_checks
from seamline.flows.runs.worker_checks import check_workers
from seamline.pipeline.cluster.connect import connect
from seamline.pipeline.common.errors import InputError


def test_files_and_packages_that_workers_lack_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scene.tif").touch()
    here, gone = [tmp_path / "scene.tif"], [tmp_path / "scene.tif", tmp_path / "lost.tif"]
    with connect("local", 0) as client:
        check_workers(client, here, ["vectors", "s3"])
        with pytest.raises(InputError, match=r"no \S+lost.tif there"):
            check_workers(client, gone, [])
        monkeypatch.setattr(
            worker_checks, "list_missing_modules", lambda extra: ["scipy"] if extra == "vectors" else []
        )
        check_workers(client, here, ["s3"])
        with pytest.raises(InputError, match=r"pip install 'seamline\[vectors\]' where the workers run"):
            check_workers(client, here, ["vectors", "s3"])
