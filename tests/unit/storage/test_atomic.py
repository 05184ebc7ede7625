"""What a file that appears at once must not replace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.storage.atomic import atomic_write


@pytest.mark.parametrize(("kind", "said"), [("pipe", "a pipe, socket or device"), ("folder", "a folder")])
def test_only_files_are_replaced(kind: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "there"
    os.mkfifo(path) if kind == "pipe" else path.mkdir()
    before = path.stat()
    with pytest.raises(InputError, match=rf"there: got {said}"), atomic_write(path) as part:
        part.write_bytes(b"")
    assert path.stat().st_ino == before.st_ino and [*tmp_path.iterdir()] == [path]
