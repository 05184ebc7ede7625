"""JSON documents from disk and from the network, where servers fail now and then."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests

from seamline.pipeline.common.errors import InputError, RunError
from seamline.pipeline.storage.object_store import is_object_url, split_object_url

RETRY_WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds between the tries of a request."""
TIMEOUT = (10.0, 60.0)
"""Seconds to connect, and between bytes of the answer."""
_MAX_WAIT = 60.0
"""Seconds, whatever a server's Retry-After asks for."""
_BUSY_STATUSES = {408, 425, 429, 500, 502, 503, 504}
_MAX_REDIRECTS = 5
_TRANSIENT_ERRORS = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


def is_url(href: str) -> bool:
    """Whether ``href`` is an http or https address."""
    return href.lower().startswith(("http://", "https://"))


def read_document(href: str) -> Any:
    """The JSON document at a path, an http(s) URL or ``s3://``.

    Raises ``InputError`` where there is none, ``RunError`` where a server does not answer.
    """
    try:
        if is_object_url(href):
            return json.loads(_read_object(href))
        return json.loads(fetch_json_text(href) if is_url(href) else Path(href).read_bytes())
    except OSError as error:
        raise _unreadable_error(href, error.strerror or error) from error
    except (ValueError, RecursionError) as error:
        raise _unreadable_error(href, f"no JSON ({' '.join(str(error).split())[:120]})") from error


def _read_object(href: str) -> bytes:
    folder, key = split_object_url(href)
    found = folder.get(key)
    if found is None:
        raise _unreadable_error(href, "no such object")
    return found.data


def fetch_json_text(url: str, method: str = "GET", headers: dict[str, str] | None = None, **query: Any) -> str:
    """The text of the JSON object at ``url``; ``query_items`` is requests' ``params`` or ``json``.

    What passes (no connection, no answer in time, a body that breaks off, a busy server) is tried again. A redirected
    POST stays one, since its body is the query. Proxies and ``~/.netrc`` count as for any program.

    Raises:
        InputError: the server refuses the request, or what it gives is no JSON object.
        RunError: it does not answer.
    """
    for _ in range(_MAX_REDIRECTS):
        response = _request_with_retries(url, method, headers, query)
        if method == "GET" or not response.is_redirect:
            return _json_text(url, response)
        url = urljoin(url, response.headers["location"])
    raise _unreadable_error(url, f"more than {_MAX_REDIRECTS} redirects")


def fetch_headers(url: str) -> dict[str, str]:
    """What the server says of the file at ``url`` without sending it: headers, by names in lower case.

    Raises as ``fetch_json_text``.
    """
    response = _request_with_retries(url, "HEAD", None, {})
    if response.status_code in (403, 405, 501):  # signed addresses are for GET alone
        with _request_with_retries(url, "GET", {"Range": "bytes=0-0"}, {"stream": True}) as response:
            _check_status(url, response)
    _check_status(url, response)
    return {name.lower(): value for name, value in response.headers.items()}


def _request_with_retries(
    url: str, method: str, headers: dict[str, str] | None, query: dict[str, Any]
) -> requests.Response:
    said, unread = "", method == "HEAD" or "stream" in query
    for wait in (*RETRY_WAITS, None):
        asked = 0.0
        try:
            response = requests.request(
                method, url, headers=headers, timeout=TIMEOUT, allow_redirects=method != "POST", **query
            )
            if response.status_code not in _BUSY_STATUSES and (unread or not _is_truncated(response)):
                return response
            said = (
                f"HTTP {response.status_code}"
                if response.status_code in _BUSY_STATUSES
                else "an answer that breaks off"
            )
            asked = _parse_retry_after(response.headers.get("retry-after", ""))
        except _TRANSIENT_ERRORS as error:
            said = _root_cause(error)
        except (requests.RequestException, ValueError) as error:  # no address, redirects without end
            raise _unreadable_error(url, _root_cause(error)) from error
        if wait is not None:
            time.sleep(max(wait, min(asked, _MAX_WAIT)))
    raise RunError(
        f"{_redact_url(url)} does not answer: {said} in {len(RETRY_WAITS) + 1} tries; see that it is up, and run again"
    )


def _is_truncated(response: requests.Response) -> bool:
    """Servers that send no length cannot tell the client that a document is cut."""
    if not _is_json_object(response):
        return False
    try:
        response.json()
    except ValueError:
        return True
    return False


def _is_json_object(response: requests.Response) -> bool:
    return response.ok and not response.is_redirect and response.content.lstrip()[:1] == b"{"


def _json_text(url: str, response: requests.Response) -> str:
    _check_status(url, response)
    if not _is_json_object(response):
        raise _unreadable_error(url, f"no JSON but {_excerpt(response)!r}")
    return str(response.content, "utf-8", errors="replace")


def _check_status(url: str, response: requests.Response) -> None:
    if response.status_code in (401, 403):
        raise _unreadable_error(
            url, f"HTTP {response.status_code}", "put its credentials into ~/.netrc, or name another"
        )
    if not response.ok:
        said = f": {_excerpt(response)}" if response.request.method != "HEAD" and response.content else ""
        raise _unreadable_error(url, f"HTTP {response.status_code}{said}")


def _excerpt(response: requests.Response) -> str:
    return " ".join(response.text.split())[:160]


def _parse_retry_after(text: str) -> float:
    return float(text) if text.isdecimal() else 0.0  # it may be a date


def _root_cause(error: BaseException) -> str:
    """What went wrong, in one line: the root of the layers that wrap it."""
    while error.args and isinstance(inner := getattr(error.args[0], "reason", error.args[0]), Exception):
        error = inner
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text.rpartition('>: ')[2]}"[:200]


def _redact_url(url: str) -> str:
    """Without its query, which may hold a signature, and without a password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _unreadable_error(href: str, got: object, fix: str = "check the address") -> InputError:
    where = _redact_url(href) if is_url(href) else href
    return InputError(f"cannot read {where}", got=got, expected="a JSON document", fix=fix)
