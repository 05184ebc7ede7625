"""Rows of ``items.parquet`` that an SQL expression keeps, computed by DuckDB.

Run as a program it answers one question, JSON on its standard input, in a process whose memory and time are limited:
DuckDB's own limit does not hold for lists. So it imports nothing else of the house.
"""

from __future__ import annotations

import glob
import json
import resource
import sys
from collections.abc import Sequence

import duckdb

_MEMORY_LIMIT, _CPU_TIME_LIMIT_S = 3 * 2**30, 30
"""Of the program: its address space, in bytes, and its time on a core, should nobody be left to end it."""
_SETTINGS = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "memory_limit": "'1GB'",
    "temp_directory": "''",  # nothing is written, not even when memory is short
    "python_enable_replacements": "false",  # names in SQL are no Python variables
    "TimeZone": "'UTC'",
    "enable_external_access": "false",
    "lock_configuration": "true",
}
"""Of DuckDB once the table is in memory: an expression computes, and neither reads nor writes anything else."""


class InvalidExpressionError(Exception):
    """What was asked for is no expression over the columns of a row."""


def select_links(path: str, conditions: Sequence[str], unless: Sequence[str], where: str) -> list[str]:
    """The ``self`` links, in the order of ids, of rows that meet the ``conditions`` and ``where``.

    A row is left out where a column of ``unless``, if there is such a column, is true.

    Raises:
        NoExpressionError: ``where``, if it is not empty, cannot be computed.
        duckdb.Error: the table is damaged.
    """
    connection = duckdb.connect(":memory:", config={"threads": 1})  # each would take address space
    connection.execute("CREATE TABLE items AS FROM read_parquet($1)", [glob.escape(path)])
    for name, value in _SETTINGS.items():
        connection.execute(f"SET {name} = {value}")
    rows = connection.table("items")
    for condition in (*conditions, *(f'"{column}" IS NOT TRUE' for column in unless if column in rows.columns)):
        rows = rows.filter(condition)
    try:
        if where:
            duckdb.SQLExpression(where)  # one, and alone
            rows = rows.filter(f"(\n{where}\n)")  # an end of line, since there may be a comment
        found = rows.order("id").project("list_filter(links, lambda link: link.rel = 'self')[1].href").fetchall()
    except duckdb.Error as error:
        raise InvalidExpressionError(str(error)) if where else error from error
    return [href for (href,) in found]


def _answer_question() -> dict[str, object]:
    question = json.load(sys.stdin)
    for kind, most in (
        (resource.RLIMIT_AS, _MEMORY_LIMIT),
        (resource.RLIMIT_CPU, _CPU_TIME_LIMIT_S),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    try:
        return {"hrefs": select_links(**question)}
    except InvalidExpressionError as error:
        return {"refused": str(error)}
    except duckdb.Error as error:
        return {"damaged": str(error)}


if __name__ == "__main__":
    print(json.dumps(_answer_question()))
