"""Web servers that rasters come from: notice soon that one does not answer.

GDAL tries each request six times and waits a minute each time, which is right for a block in the middle of a long run.
A server that takes connections and says nothing would be waited for that long at the first file already.
"""

from __future__ import annotations

import re
from contextlib import suppress
from urllib.parse import urlsplit

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.storage.json_documents import fetch_headers

_WEB_ADDRESS = re.compile(r"https?://\S+")
_answering: set[tuple[str, str]] = set()
"""Schemes and hosts of the servers that have answered this process."""


def check_server(path: str) -> None:
    """Ask the web server of a raster for something before GDAL does; once in a process for each server.

    Args:
        path: What GDAL will open. Paths without a web address are passed over.

    Raises:
        RunError: The server does not answer.
    """
    found = _WEB_ADDRESS.search(path)
    if found is None:
        return
    try:
        server = urlsplit(found[0])[:2]
    except ValueError:  # no web address after all; GDAL says so
        return
    if server not in _answering:
        with suppress(InputError):  # an answer, although no file: GDAL reports it
            fetch_headers(found[0])
        _answering.add(server)
