"""Reading JSON documents from disk, object storage and web servers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.storage.atomic import refuse_special_file
from seamline.pipeline.storage.confinement import check_confined, open_confined
from seamline.pipeline.storage.object_store import is_object_url, split_object_url
from seamline.pipeline.storage.web_requests import WebAnswer, is_url, redact_url, request_with_retries

_MAX_REDIRECTS = 5
_MOST_BYTES = 64 * 2**20
"""Bytes of a document. An item has some ten thousand, a catalogue that links 100,000 items 15 million."""


def read_document(href: str) -> Any:
    """Read the JSON document at a path, an http(s) URL or an ``s3://`` address.

    Raises:
        InputError: There is no such document, or it is no JSON.
        RunError: The server does not answer.
    """
    check_confined(href)
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
    with open_confined(path) as name:
        if (size := Path(name).stat().st_size) > _MOST_BYTES:
            raise _oversized_error(path, f"{size / 2**20:.0f} MiB")
        return Path(name).read_bytes()


def _read_object(href: str) -> bytes:
    folder, key = split_object_url(href)
    if (size := folder.get_size(key) or 0) > _MOST_BYTES:
        raise _oversized_error(href, f"{size / 2**20:.0f} MiB")
    if (found := folder.get(key)) is None:
        raise _unreadable_error(href, "no such object")
    return found.data


def fetch_json_text(url: str, method: str = "GET", headers: dict[str, str] | None = None, **query: Any) -> str:
    """Fetch the text of the JSON object at a URL.

    A POST that is redirected is sent again as a POST, because its body is the query.

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
        answer = request_with_retries(url, method, most_bytes=_MOST_BYTES, headers=headers, is_whole=_is_whole, **query)
        if method == "GET" or not answer.is_redirect:
            return _decode_json(url, answer)
        url = urljoin(url, answer.headers["location"])
    raise _unreadable_error(url, f"more than {_MAX_REDIRECTS} redirects")


def fetch_headers(url: str) -> dict[str, str]:
    """Fetch the headers of the file at a URL without its content.

    Returns:
        The headers by their names in lower case.

    Raises:
        InputError: The server refuses the request.
        RunError: The server does not answer.
    """
    answer = request_with_retries(url, "HEAD", most_bytes=0)
    if answer.status in (403, 405, 501):  # a signed URL may allow GET only
        answer = request_with_retries(url, "GET", most_bytes=0, headers={"Range": "bytes=0-0"})
    _check_status(url, answer)
    return {name.lower(): value for name, value in answer.headers.items()}


def _is_whole(answer: WebAnswer) -> bool:
    """Return whether a JSON object does not break off: without a length in the answer, HTTP cannot tell."""
    if not _is_json_object(answer) or len(answer.content) > _MOST_BYTES:
        return True
    try:
        json.loads(answer.content)
    except ValueError:
        return False
    except RecursionError:  # nested too deep, and whole: who parses it says so
        return True
    return True


def _is_json_object(answer: WebAnswer) -> bool:
    return answer.is_ok and answer.content.lstrip()[:1] == b"{"


def _decode_json(url: str, answer: WebAnswer) -> str:
    _check_status(url, answer)
    if not _is_json_object(answer):
        raise _unreadable_error(url, f"no JSON but {answer.excerpt!r}")
    if len(answer.content) > _MOST_BYTES:
        raise _oversized_error(url, "more")
    return str(answer.content, "utf-8", errors="replace")


def _check_status(url: str, answer: WebAnswer) -> None:
    if answer.status in (401, 403):
        raise _unreadable_error(url, f"HTTP {answer.status}", "put its credentials into ~/.netrc, or name another")
    if answer.status >= 400:
        raise _unreadable_error(url, f"HTTP {answer.status}{': ' if answer.excerpt else ''}{answer.excerpt}")


def _oversized_error(href: str, got: str) -> InputError:
    return InputError(
        f"cannot read {redact_url(href) if is_url(href) else href}",
        got=got,
        expected=f"a JSON document of at most {_MOST_BYTES / 2**20:.0f} MiB",
        fix="name one item, or a catalogue that links its items",
    )


def _unreadable_error(href: str, got: object, fix: str = "check the address") -> InputError:
    where = redact_url(href) if is_url(href) else href
    return InputError(f"cannot read {where}", got=got, expected="a JSON document", fix=fix)
