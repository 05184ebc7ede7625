"""Periods: each moment is in one, and they follow each other without a gap."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.time_span import TimeSpan
from seamline.pipeline.mosaic.periods import ALL, Period, PeriodRule

MOMENTS = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=st.just(UTC))
CALENDAR = st.sampled_from(["year", "season", "month"])


@pytest.mark.parametrize(
    ("rule", "when", "name"),
    [
        ("all", "2024-07-23", "all"),
        ("year", "2024-07-23", "2024"),
        ("month", "2024-07-23", "2024-07"),
        ("season", "2024-07-23", "2024-JJA"),
        ("season", "2023-12-01", "2024-DJF"),
        ("season", "2024-02-29", "2024-DJF"),
        ("season", "2024-03-01", "2024-MAM"),
        ("season", "2024-11-30T23:59:59.999999Z", "2024-SON"),
        ("month", "2024-07-31T23:00:00-02:00", "2024-08"),  # in UTC it is August
        ("month", "2024-06-20/2024-07-30", "2024-07"),  # the middle is the night of the 10th
        ("year", "2023-12-01/2024-01-15", "2023"),
        ("2024-05-01/2024-06-15", "2024-05-01", "2024-05-01_2024-06-15"),
        ("2024-05-01/2024-06-15", "2024-06-15T23:59:59Z", "2024-05-01_2024-06-15"),
        ("2024/2024-02", "2024-02-29", "2024-01-01_2024-02-29"),
        ("2024-05-01/2024-06-15", "2024-06-16", None),
        ("2024-05-01/2024-06-15", "2024-04-30T23:59:59Z", None),
    ],
)
def test_the_middle_of_the_time_decides(rule: str, when: str, name: str | None) -> None:
    period = PeriodRule.parse(rule).assign(TimeSpan.from_text(when))
    assert (period and period.name) == name


def test_scenes_of_unknown_time_are_only_in_all() -> None:
    assert PeriodRule.parse("all").assign(None) == ALL
    for rule in ("year", "season", "month", "2024/2025"):
        assert PeriodRule.parse(rule).assign(None) is None


@given(CALENDAR, MOMENTS, st.timedeltas(timedelta(), timedelta(days=800)))
def test_a_period_holds_the_middle_and_has_one_name(rule: str, start: datetime, length: timedelta) -> None:
    period = PeriodRule.parse(rule).assign(TimeSpan(start, start + length / 2))
    assert period is not None and period.includes(start + length / 4)
    assert Period.from_name(period.name) == period


@given(CALENDAR, st.integers(2, 9997))
def test_periods_follow_each_other_without_a_gap(rule: str, year: int) -> None:
    days = [datetime(year, 1, 1, 12, tzinfo=UTC) + timedelta(days=day) for day in range(0, 500, 5)]
    found = [PeriodRule.parse(rule).assign(TimeSpan.at(day)) for day in days]
    periods = list(dict.fromkeys(found))
    assert len({period and period.name for period in periods}) == len(periods)
    assert all(one and other and one.end == other.start for one, other in pairwise(periods))


def test_a_time_zone_does_not_matter() -> None:
    east = timezone(timedelta(hours=9))
    rule = PeriodRule.parse("month")
    assert rule.assign(TimeSpan.at(datetime(2024, 8, 1, 3, tzinfo=east))) == Period.from_name("2024-07")


def test_years_at_the_ends_of_the_calendar_are_no_error() -> None:
    for year in (1, 9999):
        for rule in ("year", "season", "month"):
            PeriodRule.parse(rule).assign(TimeSpan.at(datetime(year, 1, 1, tzinfo=UTC)))
    last = PeriodRule.parse("year").assign(TimeSpan.at(datetime(9999, 5, 1, tzinfo=UTC)))
    assert last is not None and last.name == "9999"


@pytest.mark.parametrize(
    "text",
    ["", "week", "2024", "2024-06/2024-05", "2024/", "/", "../2024", "2024-05-01T10:00:00Z/2024", "a/b/c"],
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--period"):
        PeriodRule.parse(text)


@pytest.mark.parametrize("name", ["", "2024-13", "2024-ABC", "../x", "2024-05-02_2024-05-01", "2024/2025", "ALL"])
def test_what_is_no_name_is_no_period(name: str) -> None:
    with pytest.raises(ValueError):
        Period.from_name(name)
