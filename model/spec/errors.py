"""The error for models that cannot be used, with a message of one line."""

from __future__ import annotations

from seamline.errors import SeamlineError, to_plain_line

_LONGEST_PART = 480
"""Characters of each of the four parts of a message: the file that they quote may be of somebody hostile."""


class ModelError(SeamlineError):
    """Raised when a model folder or file cannot be used.

    It is the user's mistake: the command line prints the message and exits with code 2.
    """

    def __init__(self, what: str, *, got: object, expected: object, fix: str) -> None:
        """Build the message.

        Args:
            what: the option, file or field that is wrong.
            got: what was found.
            expected: what would have been right.
            fix: what the user can do.
        """
        parts = (to_plain_line(str(part), _LONGEST_PART) for part in (what, got, expected, fix))
        super().__init__("{}: got {}, expected {}; {}".format(*parts))

    def __reduce__(self) -> tuple[object, ...]:
        # Pickle the finished message, because workers send errors to the client and the arguments are gone by then.
        return _rebuild_error, (type(self), str(self))


def _rebuild_error(kind: type[ModelError], message: str) -> ModelError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    return error


def get_first_line(error: Exception) -> str:
    """Return the first line of an error message, at most 200 characters, or the error's type if it has no message.

    Frameworks append long traces that help only their own developers.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
