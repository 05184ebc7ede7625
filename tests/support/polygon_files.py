"""Files of polygons, as programs of others read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyogrio
import shapely


def read_rows(path: Path) -> list[tuple[Any, ...]]:
    """(class, name, pixels, area_m2, confidence, geometry) of a file, as GDAL or DuckDB read it, in one order."""
    names = ["class", "name", "pixels", "area_m2", "confidence"]
    if path.suffix == ".parquet":
        columns = ", ".join(f'"{name}"' for name in names)
        with duckdb.connect() as base:
            found = base.execute(f"SELECT {columns}, ST_AsWKB(geometry) FROM '{path}'").fetchall()
        table = [(*row[:-1], shapely.from_wkb(bytes(row[-1]))) for row in found]
    else:
        meta, _, geometries, fields = pyogrio.raw.read(path)
        columns = [fields[list(meta["fields"]).index(name)].tolist() for name in names]
        table = [
            (*(None if value != value else value for value in row[:-1]), row[-1])
            for row in zip(*columns, shapely.from_wkb(geometries).tolist(), strict=True)
        ]
    return sorted(((*row[:-1], row[-1].normalize()) for row in table), key=lambda row: (row[0], row[-1].wkb))
