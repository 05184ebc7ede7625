"""``seamline serve``: the app behind an address, until Ctrl-C."""

from __future__ import annotations

import socket
import webbrowser
from contextlib import suppress
from pathlib import Path

import uvicorn
from starlette.middleware.trustedhost import TrustedHostMiddleware

from seamline.flows.serving.app import create_app
from seamline.pipeline.common.errors import InputError

_LOOPBACK_HOSTS = ["127.0.0.1", "localhost"]


def serve(results: Path, host: str, port: int, show: bool) -> None:
    """Serve ``results`` and say where; ``show`` opens the browser. Raises ``InputError`` if it cannot listen there."""
    app = create_app(results)
    if host in _LOOPBACK_HOSTS:  # a page from elsewhere may not read it by a name of its own (DNS rebinding)
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=_LOOPBACK_HOSTS, www_redirect=False)
    listening = _open_socket(host, port)
    url = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/"
    print(f"{results}: {url} (Ctrl-C ends)", flush=True)
    if show:
        webbrowser.open(url)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    with suppress(KeyboardInterrupt):  # uvicorn has closed everything before it raises the signal again
        server.run([listening])


def _open_socket(host: str, port: int) -> socket.socket:
    """A socket that takes connections from here on."""
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
