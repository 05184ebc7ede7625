"""Requests to web servers: sent again where a server fails now and then, given up where it never gets to an end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import wait
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from seamline.pipeline.common.background import call_in_background
from seamline.pipeline.common.errors import InputError, RunError

if TYPE_CHECKING:
    import requests
# Functions import it: that takes a while, and most scenes are files.

log = logging.getLogger("seamline.documents")

_RETRY_WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds between the tries of a request."""
_TIMEOUT = (10.0, 30.0)
"""Seconds to connect, and seconds in which the answer must begin; each silence in it may be as long."""
_SLOWEST = 20_000
"""Bytes a second that an answer must come with in the long run."""
_MOST_TIMEOUTS = 2
"""Tries that wait for a server which takes the request and says nothing, or very little."""
_MAX_WAIT = 60.0
"""Seconds to wait at most when a server asks for more with Retry-After."""
_BUSY_STATUSES = {408, 425, 429, 500, 502, 503, 504}
_REDIRECTS = {301, 302, 303, 307, 308}
_PIECE = 2**16
"""Bytes that are read at once."""


@dataclass(frozen=True)
class WebAnswer:
    """What a server answers to a request.

    Attributes:
        status: Status code of HTTP.
        headers: Headers by their names, whatever the case.
        content: The content, or its beginning where it is longer than asked for.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def is_ok(self) -> bool:
        """Whether it is neither an error nor leads elsewhere."""
        return self.status < 400 and not self.is_redirect

    @property
    def is_redirect(self) -> bool:
        """Whether it leads to another address."""
        return self.status in _REDIRECTS and "location" in self.headers

    @property
    def excerpt(self) -> str:
        """The first words of the content, in one line."""
        return " ".join(self.content[: 4 * 160].decode("utf-8", errors="replace").split())[:160]


def is_url(href: str) -> bool:
    """Return whether ``href`` is an http or https address."""
    return href.lower().startswith(("http://", "https://"))


def redact_url(url: str) -> str:
    """Return a URL without user, password and query, which may hold a signature."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def request_with_retries(
    url: str,
    method: str,
    *,
    most_bytes: int,
    headers: dict[str, str] | None = None,
    is_whole: Callable[[WebAnswer], bool] = lambda answer: True,
    **query: Any,
) -> WebAnswer:
    """Send a request until a server answers it; any answer but a busy server or a truncated one counts.

    Requests are sent again where no connection is made, the answer is late or breaks off, or the server is busy. A
    POST does not follow a redirect. Proxies and ``~/.netrc`` are respected.

    Args:
        url: Address.
        method: HTTP method.
        most_bytes: Reading ends one byte after so many.
        headers: Further headers of the request.
        is_whole: Tells an answer that broke off without a sign of HTTP.
        **query: ``params`` or ``json`` of ``requests.request``.

    Raises:
        InputError: The address cannot be asked.
        RunError: The server does not answer.
    """
    import requests

    transient = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    query |= {"headers": headers, "allow_redirects": method != "POST"}
    problem, tries, timeouts = "", 0, 0
    for pause in (*_RETRY_WAITS, None):
        tries, retry_after = tries + 1, 0.0
        try:
            answer = _Exchange(url, method, most_bytes, query).get_answer()
            if answer.status in _BUSY_STATUSES:
                problem = f"HTTP {answer.status}"
            elif not is_whole(answer):
                problem = "an answer that breaks off"
            else:
                return answer
            retry_after = _parse_retry_after(answer.headers.get("retry-after", ""))
        except transient as error:
            problem = _find_root_cause(error)
            timeouts += isinstance(error, requests.Timeout)
        except (requests.RequestException, ValueError) as error:  # an invalid address, or too many redirects
            raise InputError(
                f"cannot read {redact_url(url)}",
                got=_find_root_cause(error),
                expected="an answer",
                fix="check the address",
            ) from error
        if pause is None or timeouts == _MOST_TIMEOUTS:
            break
        log.warning("%s: %s; asking again", redact_url(url), problem)
        time.sleep(max(pause, min(retry_after, _MAX_WAIT)))
    raise RunError(f"{redact_url(url)} does not answer: {problem} in {tries} tries; see that it is up, and run again")


class _Exchange:
    """A request and its answer, which are left alone if the server does not come to an end.

    The timeouts of requests are those of single bytes: a server that sends one byte a second keeps to them for ever.
    """

    def __init__(self, url: str, method: str, most_bytes: int, query: dict[str, Any]) -> None:
        import requests

        self._request = partial(requests.request, method, url, timeout=_TIMEOUT, stream=True, **query)
        self._most_bytes = most_bytes
        self._received = 0
        self._is_given_up = False

    def get_answer(self) -> WebAnswer:
        """Return the answer.

        Raises:
            requests.RequestException, ValueError: There is none.
        """
        import requests

        answer, start = call_in_background(self._run), time.monotonic()
        while True:
            received = self._received
            left = start + sum(_TIMEOUT) + received / _SLOWEST - time.monotonic()
            if wait([answer], timeout=max(0.0, left)).done:
                return answer.result()
            if received == self._received:
                self._is_given_up = True
                raise requests.ReadTimeout(f"{received} bytes in {time.monotonic() - start:.0f} s")

    def _run(self) -> WebAnswer:
        with self._request() as response:
            return WebAnswer(response.status_code, response.headers, b"".join(self._read(response)))

    def _read(self, response: requests.Response) -> Iterator[bytes]:
        for piece in response.iter_content(_PIECE) if self._most_bytes else ():
            yield piece
            self._received += len(piece)
            if self._received > self._most_bytes or self._is_given_up:
                break


def _parse_retry_after(text: str) -> float:
    return float(text) if text.isdecimal() else 0.0  # the header may hold a date, which is ignored


def _find_root_cause(error: BaseException) -> str:
    """Return type and text of the innermost error that a requests error wraps, in one line."""
    while error.args and isinstance(inner := getattr(error.args[0], "reason", error.args[0]), Exception):
        error = inner
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text.rpartition('>: ')[2]}"[:200]
