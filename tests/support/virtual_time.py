"""A clock that jumps: threads take turns on it, and none of them waits for real."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition, Thread


@dataclass(eq=False)
class _Turn:
    """What a thread waits for: a time, or something that other threads do."""

    at: float
    is_ready: Callable[[], bool] | None = None


class VirtualTime:
    """Threads of which one runs at a time. The one that may go on first goes on, and the clock jumps to that moment.

    So what a test measures is exact, whatever else the machine does.

    Attributes:
        now: seconds since the start.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._changed = Condition()
        self._turns: list[_Turn] = []
        self._current: _Turn | None = None
        self._resources: dict[str, float] = {}
        self._errors: list[BaseException] = []

    def run(self, *works: Callable[[], object]) -> None:
        """Run functions, each in a thread, until all have ended; raise the first error."""
        self._turns = [_Turn(0.0) for _ in works]
        threads = [
            Thread(target=self._run_one, args=(work, turn), daemon=True)
            for work, turn in zip(works, self._turns, strict=True)
        ]
        for thread in threads:
            thread.start()
        with self._changed:
            self._choose_next()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        if self._errors:
            raise self._errors[0]

    def sleep(self, seconds: float) -> None:
        """Go on after so many seconds."""
        self.sleep_until(self.now + seconds)

    def sleep_until(self, moment: float) -> None:
        """Go on at a moment, or at once if it is over."""
        if moment > self.now:
            self._wait(_Turn(moment))

    def wait_for(self, is_ready: Callable[[], bool]) -> None:
        """Go on when others have done something."""
        if not is_ready():
            self._wait(_Turn(self.now, is_ready))

    def use(self, resource: str, seconds: float) -> None:
        """Use something for so many seconds that is used by one thread after the other."""
        end = max(self.now, self._resources.get(resource, 0.0)) + seconds
        self._resources[resource] = end
        self.sleep_until(end)

    def _run_one(self, work: Callable[[], object], turn: _Turn) -> None:
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._current is turn or bool(self._errors))
            work()
        except BaseException as error:  # noqa: BLE001 - raised by ``run``
            self._errors.append(error)
        finally:
            with self._changed:
                self._choose_next()

    def _wait(self, turn: _Turn) -> None:
        with self._changed:
            self._turns.append(turn)
            self._choose_next()
            self._changed.wait_for(lambda: self._current is turn or bool(self._errors))
            if self._errors:
                raise RuntimeError("another thread failed")

    def _choose_next(self) -> None:
        ready = [turn for turn in self._turns if turn.is_ready is None or turn.is_ready()]
        if ready:
            self._current = min(ready, key=lambda turn: turn.at)
            self.now = max(self.now, self._current.at)
            self._turns.remove(self._current)
        elif self._turns:
            self._errors.append(AssertionError("all threads wait for each other"))
        self._changed.notify_all()


class VirtualCondition:
    """Stands for a ``threading.Condition`` among threads of a ``VirtualTime``."""

    def __init__(self, time: VirtualTime) -> None:
        self._time = time

    def __enter__(self) -> VirtualCondition:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def wait_for(self, predicate: Callable[[], bool]) -> None:
        self._time.wait_for(predicate)

    def notify_all(self) -> None:
        pass
