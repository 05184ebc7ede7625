"""The base of all errors, and how their messages are kept to one harmless line.

It stands beside the packages, because ``model`` and ``pipeline`` raise errors and do not know each other.
"""

from __future__ import annotations

import re

# Both take a time that grows with the text alone, since anybody may have written it: a word begins at most once, and an
# address without a query is passed over as a whole.
_USER_INFO = re.compile(r"(?<!\w)(\w++://)[^/\s@]++@")
_QUERY_STRING = re.compile(r"(https?://[^\s?'\"]++)(\?[^\s'\",;)]*[^\s'\",;):.])?")

_LONGEST_MESSAGE = 2000
"""Characters of a message."""
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
