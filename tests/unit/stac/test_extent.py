"""An interval says the same in Python and in SQL."""

from __future__ import annotations

from datetime import UTC, datetime

import duckdb
from hypothesis import given
from hypothesis import strategies as st

from seamline.pipeline.stac.extent import Interval

NEAR = st.datetimes(datetime(2026, 11, 20), datetime(2026, 11, 24), timezones=st.just(UTC))
DAYS = st.integers(20, 24).map(lambda day: datetime(2026, 11, day, tzinfo=UTC))
MOMENTS = NEAR | DAYS

database = duckdb.connect(":memory:", config={"threads": 1})
database.execute("SET TimeZone = 'UTC'")


@given(MOMENTS, st.none() | MOMENTS, st.none() | MOMENTS)
def test_an_interval_includes_what_its_sql_condition_selects(
    moment: datetime, start: datetime | None, end: datetime | None
) -> None:
    interval = Interval(start, end)
    rows = f"(SELECT TIMESTAMPTZ '{moment.isoformat()}' AS datetime)"
    selected = database.execute(f"SELECT count(*) FROM {rows} WHERE {interval.sql_condition}").fetchall()
    assert selected == [(int(interval.includes(moment)),)]
