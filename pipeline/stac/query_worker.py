"""Select rows of ``items.parquet`` by an SQL expression of the user, with DuckDB.

As a program it answers one question, JSON on its standard input, in a process whose memory and time are limited, since
DuckDB's own limit does not hold for lists. It imports nothing else of the project, which would take of this memory and
time.
"""

from __future__ import annotations

import glob
import json
import resource
import sys

import duckdb

_MEMORY_LIMIT = 3 * 2**30
"""Address space of the program in bytes."""
_CPU_TIME_LIMIT_S = 30
"""Time of the program on a core, for the case that nobody is left to end it."""
_SETTINGS = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "memory_limit": "'1GB'",
    "temp_directory": "''",  # nothing is written to disk, even when memory is short
    "python_enable_replacements": "false",  # names in SQL are not Python variables
    "TimeZone": "'UTC'",
    "enable_external_access": "false",
    "lock_configuration": "true",
}
"""Settings of DuckDB once the table is in memory. An expression can compute; it can neither read nor write."""


class InvalidExpressionError(Exception):
    """The user's text is no expression over the columns of a row."""


_TIME_COLUMNS = {"start_datetime": "TIMESTAMPTZ", "end_datetime": "TIMESTAMPTZ", "seamline:datetime_unknown": "BOOLEAN"}
"""Columns that a table of an earlier version may lack, and their types."""
_IS_UNDATED = '"seamline:datetime_unknown"'


def _select_links(path: str, place: str, time: str, where: str) -> tuple[list[str], int]:
    """Select rows of the table.

    Args:
        path: the table.
        place: SQL condition that a row must meet.
        time: SQL condition of the time that a row must meet, or an empty text; rows of unknown time do not.
        where: the user's SQL expression that a row must meet, or an empty text.

    Returns:
        The ``self`` links of the selected rows, in the order of their ids; and how many rows are left out for their
        unknown time.

    Raises:
        InvalidExpressionError: ``where`` cannot be computed.
        duckdb.Error: the table is damaged.
    """
    connection = duckdb.connect(":memory:", config={"threads": 1})  # each thread would take address space
    connection.execute("CREATE TABLE items AS FROM read_parquet($1)", [glob.escape(path)])
    for name, value in _SETTINGS.items():
        connection.execute(f"SET {name} = {value}")
    items = connection.table("items")
    missing = (f'NULL::{kind} AS "{name}"' for name, kind in _TIME_COLUMNS.items() if name not in items.columns)
    rows = items.project(", ".join(("*", *missing))).filter(place)
    try:
        if where:
            duckdb.SQLExpression(where)  # fails unless it is exactly one expression
            rows = rows.filter(f"(\n{where}\n)")  # the line break ends a comment at the end of the expression
        undated = rows.filter(_IS_UNDATED).count("*").fetchall()[0][0] if time else 0
        dated = rows.filter(f"NOT coalesce({_IS_UNDATED}, false)").filter(time) if time else rows
        links = dated.order("id").project("list_filter(links, lambda link: link.rel = 'self')[1].href").fetchall()
    except duckdb.Error as error:
        raise InvalidExpressionError(str(error)) if where else error from error
    return [href for (href,) in links], undated


def _answer_question() -> dict[str, object]:
    """Read a question, the arguments of ``_select_links``, and return hrefs or why there are none."""
    question = json.load(sys.stdin)
    limits = (
        (resource.RLIMIT_AS, _MEMORY_LIMIT),
        (resource.RLIMIT_CPU, _CPU_TIME_LIMIT_S),
        (resource.RLIMIT_CORE, 0),
    )
    for kind, limit in limits:
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    try:
        hrefs, undated = _select_links(**question)
        return {"hrefs": hrefs, "undated": undated}
    except InvalidExpressionError as error:
        return {"refused": str(error)}
    except duckdb.Error as error:
        return {"damaged": str(error)}


if __name__ == "__main__":
    print(json.dumps(_answer_question()))
