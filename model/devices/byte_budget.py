"""A bound on the bytes that several threads hold at once."""

from __future__ import annotations

from threading import Condition


class ByteBudget:
    """Bytes that threads take and give back; who asks for more than is left waits.

    Whoever holds nothing beside others gets what it asks for, however much: it could not be done otherwise.
    """

    def __init__(self, limit: int | None = None, changed: Condition | None = None) -> None:
        """Begin with nothing taken.

        Args:
            limit: the most bytes that are taken at once; None for no limit.
            changed: notified when bytes are given back.
        """
        self._limit, self._taken = limit, 0
        self._changed = changed or Condition()

    def take(self, count: int) -> None:
        """Take bytes; wait until they are within the limit."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_room(count))
            self._taken += count

    def give_back(self, count: int) -> None:
        """Give back bytes that were taken."""
        with self._changed:
            self._taken -= count
            self._changed.notify_all()

    def _has_room(self, count: int) -> bool:
        return self._limit is None or not self._taken or self._taken + count <= self._limit
