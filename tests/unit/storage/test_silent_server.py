"""A server that takes requests and never answers."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from seamline.pipeline.common.errors import InputError, RunError
from seamline.pipeline.raster_io.gdal import gdal_environment, open_cached_raster
from seamline.pipeline.storage import json_documents, object_store
from seamline.pipeline.storage.object_store import ObjectFolder
from seamline.pipeline.storage.s3_access import S3Access


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The address of a server that lets the kernel accept connections, and reads nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=20) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_object_storage_that_never_answers_is_refused_soon(silent_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "_PROBE_TIMEOUT", 0.5)
    folder = ObjectFolder("bucket", "out", S3Access(silent_server, "here", "key", "secret"))
    with pytest.raises(InputError, match=r"--out: got s3://bucket does not answer .* check the endpoint"):
        folder.check_writable("--out")


def test_rasters_of_a_server_that_never_answers_are_refused_soon(
    silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_documents, "_TIMEOUT", (0.5, 0.5))
    url = f"{silent_server}/scene.tif"
    for path in (url, f"/vsicurl/{url}", f"/vsizip//vsicurl/{url}.zip/scene.tif"):
        with pytest.raises(RunError, match=r"does not answer: .*timed out.* in 2 tries"), gdal_environment(path):
            open_cached_raster(path)
