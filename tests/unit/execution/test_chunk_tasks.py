"""What the task of a chunk says where it fails."""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from seamline.pipeline.common.errors import ChunkError
from seamline.pipeline.execution import chunk_tasks
from seamline.pipeline.geometry.tiling import Index


@pytest.mark.parametrize(
    ("task", "step"), [(chunk_tasks.infer_task, "infer_chunk"), (chunk_tasks.write_task, "write_chunk")]
)
@pytest.mark.parametrize(("number", "has_remedy"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EIO, False)])
def test_a_full_disk_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch, task: Any, step: str, number: int, has_remedy: bool
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    scene = SimpleNamespace(id="a", source="a.tif")
    plugin = SimpleNamespace(chunk_slots=nullcontext(), context=SimpleNamespace(scene=scene), predictor=None)
    plugin.run_on_device = plugin.blocks = None
    monkeypatch.setattr(chunk_tasks, "_find_plugin", lambda name: plugin)
    monkeypatch.setattr(chunk_tasks, "_watch_cancellation", lambda: None)
    monkeypatch.setattr(chunk_tasks, step, fail)
    with pytest.raises(
        ChunkError, match=r"scene a, chunk \(0, 1\) of a\.tif: OSError: .*" + os.strerror(number)
    ) as caught:
        task(Index(0, 1), "plugin")
    assert (
        str(caught.value).endswith("; what was inferred is kept, make room and run the same command again")
        == has_remedy
    )
