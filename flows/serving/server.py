"""Run the web map of ``seamline serve`` until Ctrl-C."""

from __future__ import annotations

import socket
import webbrowser
from contextlib import suppress
from pathlib import Path

import uvicorn
from starlette.middleware.trustedhost import TrustedHostMiddleware

from seamline.flows.serving.app import create_app
from seamline.flows.serving.limits import BACKLOG, make_protocol
from seamline.flows.serving.pages import Basemap
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import CATALOG

_LOOPBACK_HOSTS = ["127.0.0.1", "localhost"]


def serve(
    results: Path, host: str, port: int, show: bool, allow_empty: bool = False, basemap: Basemap | None = None
) -> None:
    """Serve a catalogue until SIGINT, and print the address.

    Args:
        results: Folder of the catalogue.
        host: Address to listen at.
        port: Port to listen at; 0 takes any.
        show: Open the page in the browser.
        allow_empty: Serve a folder without a catalogue, or one that does not exist yet, as an empty catalogue.
        basemap: A background map that the page loads from another server.

    Raises:
        InputError: There is no catalogue, or the address cannot be listened at.
    """
    app = create_app(results, allow_empty, basemap)
    if host in _LOOPBACK_HOSTS:  # against DNS rebinding: a foreign page whose domain resolves to this machine
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=_LOOPBACK_HOSTS, www_redirect=False)
    listening = _open_socket(host, port)
    shown_host = f"[{host}]" if ":" in host else host
    url = f"http://{shown_host}:{listening.getsockname()[1]}/"
    state = "" if (results / CATALOG).is_file() else "no scene yet, "
    print(f"{results}: {state}{url} (Ctrl-C ends)", flush=True)
    if show:
        webbrowser.open(url)
    config = uvicorn.Config(
        app,
        http=make_protocol(),
        ws="none",
        server_header=False,
        backlog=BACKLOG,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    with suppress(KeyboardInterrupt):  # uvicorn shuts down on SIGINT and then raises it again
        server.run([listening])


def _open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that accepts connections from now on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"address {host}:{port}",
            got=str(getattr(error, "strerror", None) or error).split(" (")[0],
            expected="one that is free on this machine",
            fix="choose another --port or --host",
        ) from error
