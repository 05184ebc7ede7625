"""An interval says the same in Python and in SQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import duckdb
from hypothesis import given
from hypothesis import strategies as st

from seamline.pipeline.stac.extent import Interval

MIDNIGHT = datetime(2026, 11, 22, tzinfo=UTC)
MOMENTS = st.sampled_from([MIDNIGHT, MIDNIGHT + timedelta(microseconds=1), MIDNIGHT + timedelta(hours=12)])
ENDS = st.none() | st.timedeltas(timedelta(days=-2), timedelta(days=2)).map(lambda later: MIDNIGHT + later)
database = duckdb.connect(":memory:", config={"threads": 1})
database.execute("SET TimeZone = 'UTC'")


@given(MOMENTS, ENDS, ENDS)
def test_an_interval_includes_what_its_sql_condition_selects(
    moment: datetime, start: datetime | None, end: datetime | None
) -> None:
    interval = Interval(start, end)
    rows = f"(SELECT TIMESTAMPTZ '{moment.isoformat()}' AS datetime)"
    selected = database.execute(f"SELECT count(*) FROM {rows} WHERE {interval.sql_condition}").fetchall()
    assert selected == [(int(interval.includes(moment)),)]
