"""Messages carry no credentials, and take a time that grows with their length alone."""

from __future__ import annotations

import pytest

from seamline.pipeline.common.errors import InputError, redact_secrets, to_plain_line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GET https://me:pass@host/a.tif failed", "GET https://host/a.tif failed"),
        ("s3://key@bucket/a", "s3://bucket/a"),
        ("got https://host/a?token=1&b=2, expected", "got https://host/a?…, expected"),
        ("(https://host/a?sig=x/y%3D): no", "(https://host/a?…): no"),
        ("https://a/b?c=1, https://d/e?f=2.", "https://a/b?…, https://d/e?…."),
        ("https://host/a and https://host/b?x=1", "https://host/a and https://host/b?…"),
        ("is it https://host/a?", "is it https://host/a?"),
        ("mail me@host about http://host", "mail me@host about http://host"),
    ],
)
def test_addresses_lose_their_credentials(text: str, expected: str) -> None:
    assert redact_secrets(text) == expected


@pytest.mark.parametrize("part", ["a", "http://", "http://a?", "?.", "a:/", "://", "@", "x://y"])
def test_a_long_word_takes_no_longer_than_it_is(part: str) -> None:
    """Two megabytes, on which a quadratic expression would work for hours."""
    text = part * (2_000_000 // len(part))
    assert len(redact_secrets(text)) <= len(text)


@pytest.mark.parametrize(
    "text", ["\x1b[31mred", "a\nb\u2028c", "\ud800", "\0", "x" * 2**20, "https://a/b?key=" + "s" * 5000, "\n" * 9999]
)
def test_a_message_is_one_printable_line_whatever_it_quotes(text: str) -> None:
    """And it says all of its four parts, without secrets, however long one of them is."""
    for place in range(4):
        parts = ["what", "got", "expected", "fix"]
        parts[place] += text
        what, got, expected, fix = parts
        message = str(InputError(what, got=got, expected=expected, fix=fix))
        assert message.isprintable() and len(message) <= 2000
        assert all(part[:3] in message for part in ("what", "got", "expected", "fix"))
        assert "sss" not in message


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    message = str(InputError("a file", got="begin" + "x" * 5000 + "end", expected="less", fix="cut it"))
    assert message.startswith("a file: got beginx") and message.endswith("xend, expected less; cut it")


@pytest.mark.parametrize("most", range(60, 80))
def test_no_word_is_cut_where_a_text_is_shortened(most: int) -> None:
    words = [f"word-{number}" for number in range(100)]
    line = to_plain_line(" ".join(words), most)
    assert most - 25 < len(line) <= most and set(line.split()) - {"…"} < set(words)
