"""The exceptions of the pipeline: one family, each message one line that says how to go on."""

from __future__ import annotations

import re

_USER_INFO = re.compile(r"(\w+://)[^/\s@]+@")
_QUERY_STRING = re.compile(r"(https?://[^\s?'\"]+\?)[^\s'\",;)]*[^\s'\",;):.]")


def redact_secrets(text: str) -> str:
    """A text without what gives access in its web addresses: users and passwords, and what follows a ``?``."""
    return _QUERY_STRING.sub(r"\1…", _USER_INFO.sub(r"\1", text))


def redact_address(address: str) -> str:
    """An address without what gives access."""
    return redact_secrets(address).removesuffix("?…")


class SeamlineError(Exception):
    """Anything that Seamline itself reports. Exit code 1 on the command line."""

    def __str__(self) -> str:
        return redact_secrets(super().__str__())


class InputError(SeamlineError):
    """The user's input cannot be worked with; found before any inference. Exit code 2.

    The message is one line: what is wrong, what was got, what was expected, how to fix it.
    """

    def __init__(self, what: str, *, got: object, expected: object, fix: str) -> None:
        super().__init__(what, got, expected, fix)
        self.what, self.got, self.expected, self.fix = what, got, expected, fix

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders; the default would lose the keyword arguments.
        return _rebuild_input_error, (type(self), self.what, str(self.got), str(self.expected), self.fix)

    def __str__(self) -> str:
        return redact_secrets(f"{self.what}: got {self.got}, expected {self.expected}; {self.fix}")


class InUseError(InputError):
    """The scene is being segmented by another process; it is not done twice at once."""


class OtherRunError(InputError):
    """The scene's folder has a run of another scene, model or plan, which only an order to overwrite replaces."""


def _rebuild_input_error(kind: type[InputError], what: str, got: str, expected: str, fix: str) -> InputError:
    return kind(what, got=got, expected=expected, fix=fix)


class BadBlockError(SeamlineError):
    """A block of a source file cannot be read although the file opened. Names file, band and window."""


class ChunkError(SeamlineError):
    """A chunk failed on a worker. Names scene, chunk and file; the cause is the worker's own error."""


class RunError(SeamlineError):
    """A run cannot go on or cannot be published."""
