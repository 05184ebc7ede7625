"""What one client can take of the server: places for work, connections, unread answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

from fastapi import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

_PARALLEL_REQUESTS = 4
"""Requests that compute at the same time."""
_MAX_WAITING = 200
"""Requests that wait for others to end."""
_MAX_WAIT_S = 10
"""Seconds a request waits for others."""
MAX_CONNECTIONS = 256
"""Connections that are open at the same time."""
BACKLOG = 128
"""Connections that wait to be accepted; asyncio accepts as many at once, before the first can be closed."""
_MAX_UNREAD_BYTES = 128 * 2**20
"""Bytes of answers that clients have not read yet, of all connections together."""
_MAX_TURN_S = 60
"""Seconds from connecting, or from the last answer, to the end of the next answer."""
_MIN_TURN_BYTES = 2**20
"""Bytes of an answer that a client must take in that time, so that a long download may take longer."""


class WorkPlaces:
    """The places for requests that compute; a dependency of their routes.

    Without it they would take every thread, and the page and its files would wait as well.
    """

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(_PARALLEL_REQUESTS)
        self._waiting = 0

    async def __call__(self) -> AsyncIterator[None]:
        """Hold a place while the route's function runs.

        Raises:
            HTTPException: 503, as too many requests wait or this one has waited too long.
        """
        if self._waiting >= _MAX_WAITING:
            raise _make_busy_error()
        self._waiting += 1
        try:
            async with asyncio.timeout(_MAX_WAIT_S):
                await self._places.acquire()
        except TimeoutError as error:
            raise _make_busy_error() from error
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._places.release()


def _make_busy_error() -> HTTPException:
    detail = "the server is busy with other requests; ask again in ten seconds"
    return HTTPException(503, detail, headers={"Retry-After": "10"})


class _MeteredTransport:
    """A transport that counts the bytes that were given to it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._written = transport, 0

    @property
    def sent(self) -> int:
        """Bytes that have left the process."""
        return self._written - self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        self._written += len(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def make_protocol() -> type[H11Protocol]:
    """Return uvicorn's HTTP/1.1 with limits on connections, on unread answers and on the time of a request.

    uvicorn's own ``limit_concurrency`` refuses requests while slow clients hold connections: the others are locked out.
    Here a slow client has to make room.
    """
    turns: dict[H11Protocol, asyncio.TimerHandle] = {}
    """What ends each open connection; the one that has been waited for longest is the first."""
    long_answers: dict[H11Protocol, None] = {}
    """Connections with an answer that has taken more than a turn; the longest is the first."""

    def end_turn(connection: H11Protocol) -> None:
        if timer := turns.pop(connection, None):
            timer.cancel()

    def forget(connection: H11Protocol) -> None:
        end_turn(connection)
        long_answers.pop(connection, None)

    def abort(connection: H11Protocol) -> None:
        forget(connection)
        connection.transport.abort()

    def end_or_extend(connection: H11Protocol, sent_before: int) -> None:
        transport = cast(_MeteredTransport, connection.transport)
        if transport.sent - sent_before < _MIN_TURN_BYTES:
            abort(connection)
        else:
            begin_turn(connection)
            long_answers.setdefault(connection)

    def begin_turn(connection: H11Protocol) -> None:
        end_turn(connection)
        sent = cast(_MeteredTransport, connection.transport).sent
        turns[connection] = connection.loop.call_later(_MAX_TURN_S, end_or_extend, connection, sent)

    def is_waited_for(connection: H11Protocol) -> bool:
        return connection.cycle is None or connection.cycle.response_complete

    class LimitedProtocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(cast(asyncio.Transport, _MeteredTransport(transport)))
            begin_turn(self)
            if len(turns) > MAX_CONNECTIONS:
                idle = (connection for connection in turns if connection is not self and is_waited_for(connection))
                abort(next(idle, None) or next(iter(long_answers), self))

        def connection_lost(self, exc: Exception | None) -> None:
            forget(self)
            super().connection_lost(exc)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            long_answers.pop(self, None)
            if not self.transport.is_closing():  # a client that reads the last answer slowly keeps its old turn
                begin_turn(self)
            unread = {connection: connection.transport.get_write_buffer_size() for connection in turns}
            if sum(unread.values()) > _MAX_UNREAD_BYTES:
                abort(max(unread, key=unread.__getitem__))

    return LimitedProtocol
