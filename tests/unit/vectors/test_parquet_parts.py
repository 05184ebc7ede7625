"""Row groups of several Parquet files in one, as pyarrow and DuckDB read them."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seamline.pipeline.vectors.parquet_parts import join_parquet

SCHEMA = pa.schema(
    [
        pa.field("number", pa.int64(), nullable=False),
        pa.field("name", pa.string()),
        pa.field("share", pa.float64()),
        pa.field("bbox", pa.struct([pa.field("xmin", pa.float64(), nullable=False)])),
        pa.field("flag", pa.bool_()),
    ]
)


def make_table(rows: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    numbers = rng.integers(-(2**60), 2**60, rows)
    names = [None if number % 7 == 0 else f"name {number % 5}" for number in numbers.tolist()]
    edges = pa.StructArray.from_arrays([pa.array(rng.random(rows))], fields=list(SCHEMA.field("bbox").type))
    columns = [pa.array(numbers), pa.array(names, pa.string()), pa.array(rng.random(rows)), edges]
    return pa.Table.from_arrays([*columns, pa.array(rng.random(rows) > 0.5)], schema=SCHEMA)


@pytest.mark.parametrize("more", [{}, {"write_page_index": True, "data_page_version": "2.0"}], ids=["plain", "indexed"])
def test_parts_become_one_file_with_their_row_groups(tmp_path: Path, more: dict[str, object]) -> None:
    tables = [make_table(rows, seed) for seed, rows in enumerate((5000, 0, 1, 700, *[3] * 20))]
    parts = [tmp_path / f"{number}.parquet" for number in range(len(tables))]
    for table, part in zip(tables, parts, strict=True):
        pq.write_table(table, part, row_group_size=300, compression="zstd", **more)
    with (tmp_path / "whole").open("wb") as file:
        join_parquet(parts, file, {"geo": "é" * 300})
    expected, groups = pa.concat_tables(tables), sum(pq.read_metadata(part).num_row_groups for part in parts)
    with pq.ParquetFile(tmp_path / "whole") as file:
        assert file.read().equals(expected) and file.metadata.num_row_groups == groups
        assert file.metadata.metadata[b"geo"].decode() == "é" * 300
        for number in (0, groups - 1):
            statistics = file.metadata.row_group(number).column(0).statistics
            assert statistics.min == min(file.read_row_group(number)["number"].to_pylist())
    query = f"SELECT count(*), sum(number % 1000), count(name) FROM read_parquet('{tmp_path / 'whole'}')"
    with duckdb.connect() as base:
        total = base.execute(query).fetchone()
    numbers = expected["number"].to_pylist()
    names = len(expected) - expected["name"].null_count
    assert total == (len(numbers), sum(int(np.fmod(number, 1000)) for number in numbers), names)


def test_what_is_no_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"PAR1" + bytes(20))
    with (tmp_path / "whole").open("wb") as file, pytest.raises(ValueError, match="is no Parquet file"):
        join_parquet([tmp_path / "a"], file, {})
    with (tmp_path / "whole").open("wb") as file, pytest.raises(ValueError, match="no part"):
        join_parquet([], file, {})
