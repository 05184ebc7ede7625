"""Reading JSON documents from disk, object storage and web servers, with retries for servers that fail now and then."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests

from seamline.pipeline.common.errors import InputError, RunError
from seamline.pipeline.storage.atomic import refuse_special_file
from seamline.pipeline.storage.object_store import is_object_url, split_object_url

log = logging.getLogger("seamline.documents")

_RETRY_WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds between the tries of a request."""
_TIMEOUT = (10.0, 30.0)
"""Seconds to connect, and seconds between bytes of the answer."""
_MOST_TIMEOUTS = 2
"""Tries that wait for a server which takes the request and says nothing."""
_MAX_WAIT = 60.0
"""Seconds to wait at most when a server asks for more with Retry-After."""
_BUSY_STATUSES = {408, 425, 429, 500, 502, 503, 504}
_MAX_REDIRECTS = 5
_MOST_BYTES = 64 * 2**20
"""Bytes of a document. An item has some ten thousand, a catalogue that links 100,000 items 15 million."""
_TRANSIENT_ERRORS = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


def is_url(href: str) -> bool:
    """Return whether ``href`` is an http or https address."""
    return href.lower().startswith(("http://", "https://"))


def read_document(href: str) -> Any:
    """Read the JSON document at a path, an http(s) URL or an ``s3://`` address.

    Raises:
        InputError: There is no such document, or it is no JSON.
        RunError: The server does not answer.
    """
    try:
        if is_object_url(href):
            return json.loads(_read_object(href))
        refuse_special_file(href)
        return json.loads(fetch_json_text(href) if is_url(href) else _read_file(href))
    except OSError as error:
        raise _unreadable_error(href, error.strerror or error) from error
    except (ValueError, RecursionError) as error:
        raise _unreadable_error(href, f"no JSON ({' '.join(str(error).split())[:120]})") from error


def _read_file(path: str) -> bytes:
    if (size := Path(path).stat().st_size) > _MOST_BYTES:
        raise _oversized_error(path, size)
    return Path(path).read_bytes()


def _read_object(href: str) -> bytes:
    folder, key = split_object_url(href)
    found = folder.get(key)
    if found is None:
        raise _unreadable_error(href, "no such object")
    if len(found.data) > _MOST_BYTES:
        raise _oversized_error(href, len(found.data))
    return found.data


def fetch_json_text(url: str, method: str = "GET", headers: dict[str, str] | None = None, **query: Any) -> str:
    """Fetch the text of the JSON object at a URL.

    Requests are tried again where no connection is made, the answer is late or breaks off, or the server is busy. A
    POST that is redirected is sent again as a POST, because its body is the query. Proxies and ``~/.netrc`` are
    respected.

    Args:
        url: Address of the document.
        method: HTTP method.
        headers: Further headers of the request.
        **query: ``params`` or ``json`` of ``requests.request``.

    Returns:
        The text of the answer, which begins with a JSON object.

    Raises:
        InputError: The server refuses the request, or its answer is no JSON object.
        RunError: The server does not answer.
    """
    for _ in range(_MAX_REDIRECTS):
        response = _request_with_retries(url, method, headers, query)
        if method == "GET" or not response.is_redirect:
            return _json_text(url, response)
        url = urljoin(url, response.headers["location"])
    raise _unreadable_error(url, f"more than {_MAX_REDIRECTS} redirects")


def fetch_headers(url: str) -> dict[str, str]:
    """Fetch the headers of the file at a URL without its content.

    Returns:
        The headers by their names in lower case.

    Raises:
        InputError: The server refuses the request.
        RunError: The server does not answer.
    """
    response = _request_with_retries(url, "HEAD", None, {})
    if response.status_code in (403, 405, 501):  # a signed URL may allow GET only
        with _request_with_retries(url, "GET", {"Range": "bytes=0-0"}, {"stream": True}) as response:
            _check_status(url, response)
    _check_status(url, response)
    return {name.lower(): value for name, value in response.headers.items()}


def _request_with_retries(
    url: str, method: str, headers: dict[str, str] | None, query: dict[str, Any]
) -> requests.Response:
    """Send a request until a server answers it; any answer but a busy server or a truncated document counts."""
    is_content_read = method != "HEAD" and "stream" not in query
    problem, tries, timeouts = "", 0, 0
    for wait in (*_RETRY_WAITS, None):
        tries, retry_after = tries + 1, 0.0
        try:
            response = requests.request(
                method, url, headers=headers, timeout=_TIMEOUT, allow_redirects=method != "POST", **query
            )
            if response.status_code in _BUSY_STATUSES:
                problem = f"HTTP {response.status_code}"
            elif is_content_read and _is_truncated(response):
                problem = "an answer that breaks off"
            else:
                return response
            retry_after = _parse_retry_after(response.headers.get("retry-after", ""))
        except _TRANSIENT_ERRORS as error:
            problem = _root_cause(error)
            timeouts += isinstance(error, requests.Timeout)
        except (requests.RequestException, ValueError) as error:  # an invalid address, or too many redirects
            raise _unreadable_error(url, _root_cause(error)) from error
        if wait is None or timeouts == _MOST_TIMEOUTS:
            break
        log.warning("%s: %s; asking again", _redact_url(url), problem)
        time.sleep(max(wait, min(retry_after, _MAX_WAIT)))
    raise RunError(f"{_redact_url(url)} does not answer: {problem} in {tries} tries; see that it is up, and run again")


def _is_truncated(response: requests.Response) -> bool:
    """Return whether a JSON object breaks off: without a length in the answer, requests cannot notice it."""
    if not _is_json_object(response):
        return False
    try:
        response.json()
    except ValueError:
        return True
    except RecursionError:  # nested too deep, and whole: who parses it says so
        return False
    return False


def _is_json_object(response: requests.Response) -> bool:
    return response.ok and not response.is_redirect and response.content.lstrip()[:1] == b"{"


def _json_text(url: str, response: requests.Response) -> str:
    _check_status(url, response)
    if not _is_json_object(response):
        raise _unreadable_error(url, f"no JSON but {_excerpt(response)!r}")
    if len(response.content) > _MOST_BYTES:
        raise _oversized_error(url, len(response.content))
    return str(response.content, "utf-8", errors="replace")


def _check_status(url: str, response: requests.Response) -> None:
    if response.status_code in (401, 403):
        raise _unreadable_error(
            url, f"HTTP {response.status_code}", "put its credentials into ~/.netrc, or name another"
        )
    if not response.ok:
        excerpt = f": {_excerpt(response)}" if response.request.method != "HEAD" and response.content else ""
        raise _unreadable_error(url, f"HTTP {response.status_code}{excerpt}")


def _oversized_error(href: str, size: int) -> InputError:
    return InputError(
        f"cannot read {_redact_url(href) if is_url(href) else href}",
        got=f"{size / 2**20:.0f} MiB",
        expected=f"a JSON document of at most {_MOST_BYTES / 2**20:.0f} MiB",
        fix="name one item, or a catalogue that links its items",
    )


def _excerpt(response: requests.Response) -> str:
    return " ".join(response.text.split())[:160]


def _parse_retry_after(text: str) -> float:
    return float(text) if text.isdecimal() else 0.0  # the header may hold a date, which is ignored


def _root_cause(error: BaseException) -> str:
    """Return type and text of the innermost error that a requests error wraps, in one line."""
    while error.args and isinstance(inner := getattr(error.args[0], "reason", error.args[0]), Exception):
        error = inner
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text.rpartition('>: ')[2]}"[:200]


def _redact_url(url: str) -> str:
    """Return a URL without user, password and query, which may hold a signature."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _unreadable_error(href: str, got: object, fix: str = "check the address") -> InputError:
    where = _redact_url(href) if is_url(href) else href
    return InputError(f"cannot read {where}", got=got, expected="a JSON document", fix=fix)
