"""Servers that take requests and never answer, or never come to an end."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import repeat

import pytest

from seamline.pipeline.common.errors import InputError, RunError
from seamline.pipeline.raster_io.gdal import gdal_environment, open_cached_raster
from seamline.pipeline.storage import json_documents, object_store, web_requests
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
    monkeypatch.setattr(web_requests, "_TIMEOUT", (0.5, 0.5))
    url = f"{silent_server}/scene.tif"
    for path in (url, f"/vsicurl/{url}", f"/vsizip//vsicurl/{url}.zip/scene.tif"):
        with pytest.raises(RunError, match=r"does not answer: .*timed out.* in 2 tries"), gdal_environment(path):
            open_cached_raster(path)


@contextmanager
def serve_pieces(pieces: Callable[[], Iterator[bytes]]) -> Iterator[str]:
    """The address of a server that answers every request with these bytes, piece by piece."""

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65536)
            for piece in pieces():
                connection.sendall(piece)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=20) as listening:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"


@pytest.mark.parametrize("start", [b"", HEAD], ids=["head", "content"])
def test_a_server_that_sends_byte_after_byte_is_given_up(start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte comes in time, and the whole would take hours."""
    monkeypatch.setattr(web_requests, "_TIMEOUT", (0.5, 1.0))
    monkeypatch.setattr(web_requests, "_RETRY_WAITS", (0.01,))

    def trickle() -> Iterator[bytes]:
        yield start
        for byte in (HEAD + b"{" + b" " * 10_000)[len(start) :]:
            yield bytes([byte])
            time.sleep(0.1)

    with serve_pieces(trickle) as url, pytest.raises(RunError, match=r"does not answer: .* bytes in 2 s in 2 tries"):
        json_documents.read_document(f"{url}/item.json")


@pytest.mark.parametrize("start", [b'{"type": "', b"<html>"])
def test_an_answer_without_an_end_is_refused_before_it_fills_the_memory(
    start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_documents, "_MOST_BYTES", 2**20)
    sent = []

    def stream() -> Iterator[bytes]:
        yield HEAD + start
        for piece in repeat(b"x" * 2**16):
            sent.append(len(piece))
            yield piece

    with serve_pieces(stream) as url, pytest.raises(InputError, match=r"got (more|no JSON but '<html>x)"):
        json_documents.read_document(f"{url}/item.json")
    assert sum(sent) < 16 * 2**20
