"""An interval says the same in Python and in SQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import duckdb
from hypothesis import given
from hypothesis import strategies as st

from seamline.pipeline.common.time_span import TimeSpan
from seamline.pipeline.stac.extent import Interval

MIDNIGHT = datetime(2026, 11, 22, tzinfo=UTC)
MOMENTS = st.sampled_from([MIDNIGHT, MIDNIGHT + timedelta(microseconds=1), MIDNIGHT + timedelta(hours=12)])
ENDS = st.none() | st.timedeltas(timedelta(days=-2), timedelta(days=2)).map(lambda later: MIDNIGHT + later)
database = duckdb.connect(":memory:", config={"threads": 1})
database.execute("SET TimeZone = 'UTC'")


@given(MOMENTS, st.none() | st.timedeltas(timedelta(), timedelta(days=2)), ENDS, ENDS)
def test_an_interval_includes_what_its_sql_condition_selects(
    moment: datetime, length: timedelta | None, start: datetime | None, end: datetime | None
) -> None:
    """Of a moment, or of the time from it on of a length."""
    interval, span = Interval(start, end), TimeSpan(moment, moment + (length or timedelta()))
    times = [moment, None, None] if length is None else [None, span.start, span.end]
    columns = zip(times, ("datetime", "start_datetime", "end_datetime"), strict=True)
    values = (f"{'NULL' if time is None else repr(time.isoformat())}::TIMESTAMPTZ AS {name}" for time, name in columns)
    rows = f"(SELECT {', '.join(values)})"
    selected = database.execute(f"SELECT count(*) FROM {rows} WHERE {interval.sql_condition}").fetchall()
    assert selected == [(int(interval.includes(span)),)]
