"""The exceptions of the pipeline, and redaction of secrets in texts.

The message of an exception is one line that says what to do next.
"""

from __future__ import annotations

import re

# Both take a time that grows with the text alone, since anybody may have written it: a word begins at most once, and an
# address without a query is passed over as a whole.
_USER_INFO = re.compile(r"(?<!\w)(\w++://)[^/\s@]++@")
_QUERY_STRING = re.compile(r"(https?://[^\s?'\"]++)(\?[^\s'\",;)]*[^\s'\",;):.])?")

_LONGEST_MESSAGE = 2000
"""Characters of a message."""
_LONGEST_PARTS = (500, 800, 400, 250)
"""Characters of the four parts of an ``InputError``, which begin and end even where a file's content is quoted."""

_LONGEST_WORD = 40
"""Characters of a word that goes as a whole where a line is shortened; what is longer, such as a path, is cut."""


def redact_secrets(text: str) -> str:
    """Return a text without the credentials in its web addresses: user names, passwords and query strings."""
    return _QUERY_STRING.sub(lambda found: found[1] + ("?…" if found[2] else ""), _USER_INFO.sub(r"\1", text))


def redact_address(address: str) -> str:
    """Return an address without its credentials."""
    return redact_secrets(address).removesuffix("?…")


def to_plain_line(text: str, most: int = _LONGEST_MESSAGE) -> str:
    """Return a text without secrets in one line of printable characters, at most so many; the middle is left out.

    What a text quotes may come from a file that somebody hostile wrote: it can neither command a terminal nor fill it.
    """
    line = _shorten(" ".join(redact_secrets(text).split()), most)
    return _shorten("".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line), most)


def _shorten(line: str, most: int) -> str:
    """Return a line with … for its middle; no word is cut, unless it is long."""
    if len(line) <= most:
        return line
    begin, end = line[: most // 2], line[-((most - 1) // 2) :]
    words, blank, part = begin.rpartition(" ")
    begin = f"{words} " if blank and len(part) <= _LONGEST_WORD else begin
    part, blank, words = end.partition(" ")
    return f"{begin}…{f' {words}' if blank and len(part) <= _LONGEST_WORD else end}"


class SeamlineError(Exception):
    """Base of all errors that Seamline reports. Exit code 1 on the command line."""

    def __str__(self) -> str:
        return to_plain_line(super().__str__())


class InputError(SeamlineError):
    """The user's input cannot be used; raised before any inference. Exit code 2 on the command line.

    The message is one line made of the four attributes.

    Attributes:
        what: What is wrong.
        got: What was found.
        expected: What was expected.
        fix: What the user can do.
    """

    def __init__(self, what: str, *, got: object, expected: object, fix: str) -> None:
        super().__init__(what, got, expected, fix)
        self.what, self.got, self.expected, self.fix = what, got, expected, fix

    def __reduce__(self) -> tuple[object, ...]:
        # Errors of workers are pickled, and the default of Exception would lose the keyword arguments.
        return _rebuild_input_error, (type(self), self.what, str(self.got), str(self.expected), self.fix)

    def __str__(self) -> str:
        parts = (str(part) for part in (self.what, self.got, self.expected, self.fix))
        what, got, expected, fix = (to_plain_line(*pair) for pair in zip(parts, _LONGEST_PARTS, strict=True))
        return f"{what}: got {got}, expected {expected}; {fix}"


class UnusableSceneError(InputError):
    """The scene itself cannot be used: the same files fail again with the same model and options."""


class InUseError(InputError):
    """The scene is being segmented by another process."""


class OtherRunError(InputError):
    """The scene's folder holds a run of another scene, model or plan; it is replaced only on request."""


def _rebuild_input_error(kind: type[InputError], what: str, got: str, expected: str, fix: str) -> InputError:
    return kind(what, got=got, expected=expected, fix=fix)


class BadBlockError(SeamlineError):
    """A block of a source file cannot be read although the file could be opened. Names file, band and window."""


class ChunkError(SeamlineError):
    """A chunk failed on a worker. Names scene, chunk, file and the error, whose traceback is in the worker's log."""


class RunError(SeamlineError):
    """A run cannot continue or its results cannot be published."""
