"""The table of zones as a file: GeoParquet with the geometry of the zones, or CSV without."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import shapely

from seamline.pipeline.analysis.zone_file import Zones
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.storage.atomic import atomic_write, check_writable
from seamline.pipeline.storage.output_place import refuse_inside_results

_KINDS = (".parquet", ".csv")
_BATCH_BYTES = 64 * 2**20
"""Geometries that are in memory at a time, once more for each row that has them."""


@dataclass(frozen=True)
class ZoneTable:
    """Areas of classes in zones.

    Attributes:
        zones: The zones.
        rows: ``number`` (of the zone), ``order`` (of the result), ``result``, ``start``, ``end``, ``class``, ``value``,
            ``area_m2``, ``share``, ``seen_m2``, ``seen_share`` and ``zone_m2``, in the order of the zones.
        kind: What a result is, "period" or "scene", which is the name of its column.
    """

    zones: Zones
    rows: pd.DataFrame
    kind: str

    def to_frame(self) -> pd.DataFrame:
        """Return the table with the names of the zones and without their geometries."""
        frame = self.rows.drop(columns=["number", "order"]).rename(columns={"result": self.kind})
        frame.insert(0, "zone", _to_column(self.zones.names).take(self.rows["number"].to_numpy()).array)
        return frame

    def write(self, path: Path) -> None:
        """Write the table to a file, which appears whole or not at all.

        Args:
            path: ``….parquet`` or ``….csv``. CSV has texts in quotes, and nothing for what is missing.
        """
        frame = self.to_frame()
        with atomic_write(path) as part:
            if path.suffix.lower() == ".csv":
                pa.csv.write_csv(pa.Table.from_pandas(_to_plain(frame), preserve_index=False), part)
            else:
                self._write_parquet(pa.Table.from_pandas(frame, preserve_index=False), part)

    def _write_parquet(self, table: pa.Table, path: Path) -> None:
        bounds = np.array([zone.bounds for zone in self.zones.geometries if not zone.is_empty])
        column = {
            "encoding": "WKB",
            "geometry_types": ["MultiPolygon"],
            "crs": self.zones.crs.proj.to_json_dict(),
            "bbox": [*bounds[:, :2].min(axis=0).tolist(), *bounds[:, 2:].max(axis=0).tolist()],
        }
        description = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
        schema = table.schema.remove_metadata().append(pa.field("geometry", pa.binary()))
        schema = schema.with_metadata({"geo": json.dumps(description)})
        with pq.ParquetWriter(
            path, schema, compression="zstd", use_dictionary=True, dictionary_pagesize_limit=_BATCH_BYTES
        ) as writer:
            for rows, geometries in self._iterate_batches():
                writer.write_table(
                    table.slice(rows.start, len(rows)).append_column("geometry", geometries).cast(schema)
                )

    def _iterate_batches(self) -> Iterator[tuple[range, pa.Array]]:
        """Yield ranges of rows and their geometries as WKB, null for zones without one."""
        wkb = [None if zone.is_empty else shapely.to_wkb(zone) for zone in self.zones.geometries]
        numbers = self.rows["number"].to_numpy()
        sizes = np.cumsum([len(wkb[number] or b"") for number in numbers]) // _BATCH_BYTES
        for batch in np.unique(sizes):
            start, stop = np.searchsorted(sizes, [batch, batch + 1])
            yield range(start, stop), pa.array([wkb[number] for number in numbers[start:stop]], pa.binary())


def _to_column(names: Sequence[Any]) -> pd.Series:
    """Return names as a column in which whole numbers stay so, also where others are missing."""
    known = [name for name in names if name is not None]
    if len(known) < len(names) and known and all(isinstance(name, int) for name in known):  # booleans are int, too
        return pd.Series(pd.array(list(names)))
    return pd.Series(names)


def _to_plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose columns are numbers, booleans and texts; times are in UTC."""
    texts = {name: frame[name].dt.strftime("%Y-%m-%dT%H:%M:%SZ") for name in ("start", "end")}
    if not pd.api.types.is_numeric_dtype(frame["zone"]):
        texts["zone"] = frame["zone"].map(str, na_action="ignore")
    return frame.assign(**texts)


def check_table_path(path: Path) -> None:
    """Check that a table can be written to a path.

    Raises:
        InputError: It has another ending, or its folder is missing, not to be written to, or of other results.
    """
    if path.suffix.lower() not in _KINDS:
        raise InputError(
            f"--out {path}", got=path.suffix or "no ending", expected=" or ".join(_KINDS), fix="correct it"
        )
    if not path.absolute().parent.is_dir():
        got = f"no folder {path.parent}"
        raise InputError(f"--out {path}", got=got, expected="a folder that is there", fix="make it, or choose another")
    refuse_inside_results(path.absolute().parent, f"--out {path}")
    check_writable(path.absolute().parent, f"--out {path}")
