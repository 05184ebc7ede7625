"""What a crowd and slow clients can take of the server: everybody else is still answered."""

from __future__ import annotations

import asyncio
import resource
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import uvicorn
from morecantile import tms

from seamline.flows.serving import limits
from seamline.flows.serving.app import create_app
from seamline.flows.serving.results import SceneList, ServedResults

KERNEL_BUFFER = 2**16
"""Bytes of an answer that the system holds for a client; some let it hold all of one."""
OPEN_FILES = 512
"""Files that the server may have open; fewer than there are slow clients."""


@contextmanager
def serving(folder: Path) -> Iterator[tuple[psutil.Process, int]]:
    """The process of the command, and its port."""
    command = [sys.executable, "-m", "seamline", "serve", str(folder), "--port", "0"]

    def restrict() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=restrict) as server:
        try:
            assert server.stdout is not None
            url = next(word for word in server.stdout.readline().split() if word.startswith("http://"))
            yield psutil.Process(server.pid), int(url.rstrip("/").rpartition(":")[2])
        finally:
            server.kill()


def ask(port: int, path: str) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert answer.status != 503 or answer.headers["Retry-After"] == "10"
        return answer.status
    finally:
        connection.close()


def test_slow_clients_and_a_crowd_hold_nobody_up(served_folder: Path) -> None:
    with serving(served_folder) as (process, port), ExitStack() as slow:
        for _ in range(OPEN_FILES + 100):
            client = slow.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            client.sendall(b"G")
        held = 0
        with ThreadPoolExecutor(1) as other:
            answer = other.submit(ask, port, "/")
            while not answer.done():
                held = max(held, sum(link.status == psutil.CONN_ESTABLISHED for link in process.net_connections()))
        assert answer.result() == 200
        assert held <= limits.MAX_CONNECTIONS + limits.BACKLOG  # so many are accepted at once, before one is closed
        slow.close()

        before = process.memory_info().rss
        x, y, zoom = tms.get("WebMercatorQuad").tile(-61.58, 47.8, 13)
        tile = f"/scenes/utm/layers/confidence/tiles/WebMercatorQuad/{zoom}/{x}/{y}.png?tilesize=1024"
        expensive = [tile, "/scenes/utm/polygons?bbox=-180,-90,180,90", "/scenes?bbox=-62,47,-61,48&datetime=2000/.."]
        most, children = 0, 0
        with ThreadPoolExecutor(60) as crowd:
            answers = [crowd.submit(ask, port, expensive[number % 3]) for number in range(180)]
            while not all(answer.done() for answer in answers):
                assert ask(port, "/static/page.js") == 200
                most = max(most, process.memory_info().rss)
                children = max(children, len(process.children()))
        assert children == 0 and most - before < 400 * 2**20
        assert {answer.result() for answer in answers} <= {200, 503}


def test_the_page_answers_while_all_places_for_work_are_taken(
    served_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more requests compute than there are places; beyond a number that waits the answer is 503."""
    may_end, computing, most = threading.Event(), Counter[str](), Counter[str]()

    def compute(*_: object) -> SceneList:
        computing["now"] += 1
        most["ever"] = max(most["ever"], computing["now"])
        may_end.wait()
        computing["now"] -= 1
        return SceneList("", [])

    async def send_requests() -> list[httpx.Response]:
        transport = httpx.ASGITransport(create_app(served_folder))
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=None) as client:
            crowd = [asyncio.create_task(client.get("/scenes")) for _ in range(250)]
            while not any(task.done() for task in crowd):  # the first to be refused
                await asyncio.sleep(0.01)
            assert (await client.get("/")).status_code == (await client.get("/static/page.js")).status_code == 200
            may_end.set()
            return list(await asyncio.gather(*crowd))

    monkeypatch.setattr(ServedResults, "find_scenes", compute)
    monkeypatch.setattr(limits, "_MAX_WAIT_S", 600)
    answers = asyncio.run(asyncio.wait_for(send_requests(), 120))
    assert most["ever"] == 4
    assert Counter(answer.status_code for answer in answers) == {200: 204, 503: 46}
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.headers["Retry-After"] == "10" and "busy" in refused.json()["detail"]

    may_end.clear()
    monkeypatch.setattr(limits, "_MAX_WAIT_S", 0.01)
    answers = asyncio.run(asyncio.wait_for(send_requests(), 120))
    assert Counter(answer.status_code for answer in answers)[503] > 46  # those that waited for too long


async def send_much(scope: Any, receive: Any, send: Any) -> None:
    body = bytes(9_000_000 if scope["path"] == "/more" else 8_000_000)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def running(app: Any) -> Iterator[tuple[str, int]]:
    config = uvicorn.Config(app, http=limits.make_protocol(), ws="none", lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)  # of connections, too
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield listening.getsockname()
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


def read_to_the_end(client: socket.socket) -> int:
    """Number of bytes until the server closes the connection."""
    count = 0
    while True:
        try:
            part = client.recv(2**16)
        except ConnectionResetError:
            return count
        if not part:
            return count
        count += len(part)


def test_who_does_not_read_the_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MAX_UNREAD_BYTES", 20_000_000)
    request = b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with running(send_much) as address, ExitStack() as opened:
        idle = [opened.enter_context(socket.create_connection(address, timeout=60)) for _ in range(8)]
        for client in idle:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER)
            client.sendall(request % b"/more")
        reader = opened.enter_context(socket.create_connection(address, timeout=60))
        reader.sendall(request % b"/")
        assert read_to_the_end(reader) > 8_000_000
        received = [read_to_the_end(client) for client in idle]
        assert sum(count < 9_000_000 for count in received) >= 6  # two answers are kept at most


def test_who_does_not_end_a_request_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MAX_TURN_S", 0.2)
    with running(send_much) as address:
        for start in (b"", b"G", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n"):
            with socket.create_connection(address, timeout=60) as client:
                client.sendall(start)
                assert read_to_the_end(client) < 9_000_000


def test_a_long_download_goes_on_as_long_as_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several turns long; a client that takes nothing in a turn is cut off."""
    monkeypatch.setattr(limits, "_MAX_TURN_S", 0.2)
    monkeypatch.setattr(limits, "_MIN_TURN_BYTES", 1)

    async def send_in_parts(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"8000000")]})
        for _ in range(8):
            await send({"type": "http.response.body", "body": bytes(1_000_000), "more_body": True})
            await asyncio.sleep(0.1)
        await send({"type": "http.response.body", "body": b""})

    request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with running(send_in_parts) as address, socket.create_connection(address, timeout=60) as client:
        client.sendall(request)
        assert read_to_the_end(client) > 8_000_000
    with running(send_in_parts) as address, socket.create_connection(address, timeout=60) as client:
        client.sendall(request)
        monkeypatch.setattr(limits, "_MIN_TURN_BYTES", 2**30)  # nobody takes so much
        assert read_to_the_end(client) < 8_000_000
