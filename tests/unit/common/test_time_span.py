"""Times of acquisition as text."""

from __future__ import annotations

import pytest

from seamline.pipeline.common.time_span import TimeSpan


@pytest.mark.parametrize(
    ("text", "start", "end", "shown"),
    [
        ("2024-06-01", "2024-06-01T00:00:00", "2024-06-01T00:00:00", "2024-06-01"),
        ("2024-06-01T10:12:00Z", "2024-06-01T10:12:00", "2024-06-01T10:12:00", "2024-06-01 10:12 UTC"),
        ("2024-06-01T01:12:00+02:00", "2024-05-31T23:12:00", "2024-05-31T23:12:00", "2024-05-31 23:12 UTC"),
        ("2024-06-01T10:12:00", "2024-06-01T10:12:00", "2024-06-01T10:12:00", "2024-06-01 10:12 UTC"),
        ("2024-06", "2024-06-01T00:00:00", "2024-06-30T23:59:59", "2024-06-01 to 2024-06-30"),
        ("2024/2025", "2024-01-01T00:00:00", "2025-12-31T23:59:59", "2024-01-01 to 2025-12-31"),
        ("2024-06-01/2024-06-01", "2024-06-01T00:00:00", "2024-06-01T23:59:59", "2024-06-01"),
        (
            "2024-06-01/2024-06-30T12:00:00Z",
            "2024-06-01T00:00:00",
            "2024-06-30T12:00:00",
            "2024-06-01 00:00 UTC to 2024-06-30 12:00 UTC",
        ),
    ],
)
def test_a_time_of_acquisition_is_a_day_a_moment_or_an_interval(text: str, start: str, end: str, shown: str) -> None:
    found = TimeSpan.from_text(text)
    assert (found.start.isoformat(), found.end.isoformat()) == (f"{start}+00:00", f"{end}+00:00")
    assert str(found) == shown


@pytest.mark.parametrize(
    "text",
    [
        *("", "yesterday", "2024-13", "2024-06-31", "2024-06-02/2024-06-01", "2024-06-01/..", "/2024", "2024-06-01/"),
        *("9999", "2024-06-01 to 2024-06-02", "20240601", "0001-01-01T00:00:00+05:00", "2024-06-01T25:00:00Z"),
        "٢٠٢٤-٠٦-٠١",  # digits, but not those of ISO 8601
    ],
)
def test_anything_else_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        TimeSpan.from_text(text)
