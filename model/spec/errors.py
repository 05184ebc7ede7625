"""What can be wrong with a model, in one line: what, got, expected, how to fix it."""

from __future__ import annotations


class ModelError(Exception):
    """A model folder or file cannot be used. The user's mistake: exit code 2 on the command line."""

    def __init__(self, what: str, *, got: object, expected: object, fix: str) -> None:
        super().__init__(f"{what}: got {got}, expected {expected}; {fix}")

    def __reduce__(self) -> tuple[object, ...]:
        # Crosses process borders as the finished message.
        return _rebuild_error, (type(self), str(self))


def _rebuild_error(kind: type[ModelError], message: str) -> ModelError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    return error


def get_first_line(error: Exception) -> str:
    """What an error of a framework says first; the rest of it is for its developers."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
