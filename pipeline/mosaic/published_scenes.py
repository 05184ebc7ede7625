"""The published scenes of a catalogue, as the rows of its table of items tell them; no item is read."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray
from odc.geo.crs import CRSError

from seamline.pipeline.common.extras import require_extras
from seamline.pipeline.common.time_span import TimeSpan
from seamline.pipeline.mosaic.map_record import SceneGrid
from seamline.pipeline.results.map_copies import MAP_PROPERTY
from seamline.pipeline.results.open import SCENE_ID
from seamline.pipeline.results.result_item import ResultItem
from seamline.pipeline.stac.items import UNKNOWN_TIME, index_rows, list_folders, list_text_columns, read_table
from seamline.pipeline.stac.query import damaged_table_error, open_item_table, select_links
from seamline.pipeline.storage.object_store import ObjectFolder

_TIMES = ("datetime", "start_datetime", "end_datetime")
_COLUMNS = (
    *("id", "geometry", "model", "model_digest", MAP_PROPERTY, *_TIMES, UNKNOWN_TIME),
    *("proj:code", "proj:wkt2", "proj:shape", "proj:transform", "seamline:classes", "links", "assets"),
)
"""Columns that are read; a table need not have all of them."""


@dataclass(frozen=True)
class PublishedScene:
    """What the table of a catalogue says of a scene.

    Attributes:
        id: its id, which is the name of its folder.
        item: the fields of its item that Seamline reads.
        grid: its grid. ``None``: nobody knows where on Earth it lies.
        files: what its item says of its files, by their names.
        place: path below the catalogue of the folder of these files.
        version: checksum of the record of its run.
    """

    id: str
    item: ResultItem
    grid: SceneGrid | None
    files: Mapping[str, Mapping[str, Any]]
    place: str
    version: str

    @classmethod
    def from_row(cls, scene: str, row: Mapping[str, Any]) -> PublishedScene:
        """Return the scene of a row of the table.

        Raises:
            ValueError: the row is that of another scene, or of a damaged item.
        """
        try:
            properties = {"datetime": None, **row}
            item = ResultItem.model_validate({**row, "geometry": None, "bbox": None, "properties": properties})
            if item.id != scene:
                raise ValueError(f"its id is {item.id!r}")
            _ = item.label_classes
            assets = row["assets"]
            place = posixpath.normpath(posixpath.dirname(assets["run"]["href"]))
            if place.split("/")[0] != scene:
                raise ValueError(f"its files lie in {place}")
            files = {posixpath.basename(asset["href"]): asset for asset in assets.values()}
            return cls(scene, item, _read_grid(row), files, place, str(assets["run"]["file:checksum"]))
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class SceneTable:
    """Rows of a catalogue's table: one for each scene, in order of their ids.

    Attributes:
        catalogue: the folder of the catalogue.
        scenes: ids of the scenes, which are the names of their folders.
        table: their rows.
    """

    catalogue: Path | ObjectFolder
    scenes: tuple[str, ...]
    table: pa.Table

    @classmethod
    def read(
        cls, catalogue: Path | ObjectFolder, where: str = "", stale: Collection[str] = ()
    ) -> tuple[SceneTable, SceneTable]:
        """Read the published scenes of a catalogue, without the maps that it lists.

        Args:
            catalogue: the folder of the catalogue, local or in object storage.
            where: SQL expression that scenes fulfil, or an empty text, which needs no DuckDB.
            stale: scenes whose items count in place of their rows.

        Returns:
            All scenes, and those that fulfil the expression.

        Raises:
            InputError: there is no table, it is damaged, or ``where`` is no such expression.
        """
        if where:
            require_extras("--where", "query")
        with open_item_table(catalogue, stale) as path:
            try:
                table = read_table(path, list(_COLUMNS))
                scenes = list_folders(table)
            except (ValueError, LookupError, TypeError) as error:
                raise damaged_table_error(catalogue, error) from error
            links = select_links(catalogue, path, None, None, where) if where else None
        if odd := [scene for scene in scenes if not SCENE_ID.fullmatch(scene)]:
            raise damaged_table_error(catalogue, f"a scene called {odd[0]!r}")
        found = cls(catalogue, tuple(scenes), table)
        maps = found.read_column(MAP_PROPERTY)
        everything = found.take([value is None for value in maps])
        if links is None:
            return everything, everything
        chosen = {posixpath.basename(posixpath.dirname(link)) for link in links}
        return everything, everything.take([scene in chosen for scene in everything.scenes])

    def take(self, wanted: Sequence[bool] | NDArray[np.bool_]) -> SceneTable:
        """Return some of the scenes.

        Args:
            wanted: whether it is one of them, for each scene.
        """
        rows = sorted(np.flatnonzero(wanted).tolist(), key=lambda row: self.scenes[row])
        return SceneTable(
            self.catalogue, tuple(self.scenes[row] for row in rows), self.table.take(pa.array(rows, pa.int64()))
        )

    def read_column(self, name: str) -> list[Any]:
        """Return a value for each scene; None where it has none."""
        if name not in self.table.column_names:
            return [None] * len(self.scenes)
        values = self.table[name].to_pylist()
        return list(map(_decode, values)) if name in list_text_columns(self.table) else values

    def read_times(self) -> list[TimeSpan | None]:
        """Return when each scene was taken; None where that is unknown or damaged."""
        columns = (self.read_column(name) for name in (*_TIMES, UNKNOWN_TIME))
        return [_read_time_span(*values) for values in zip(*columns, strict=True)]

    def read_outlines(self) -> NDArray[np.object_]:
        """Return the outline of each scene in degrees; None where it has none or a damaged one."""
        outlines = shapely.from_wkb(np.array(self.read_column("geometry"), dtype=object), on_invalid="ignore")
        return np.asarray(outlines, dtype=object)

    def read_scenes(self) -> tuple[list[PublishedScene], dict[str, str]]:
        """Return what is known of each scene, and why of others nothing is, by their ids."""
        columns = [name for name in self.table.column_names if name != "geometry"]
        rows, texts = index_rows(self.table.select(columns)), list_text_columns(self.table)
        scenes, reasons = [], {}
        for scene in self.scenes:
            try:
                decoded = {name: _decode(rows[scene][name]) for name in texts if name in rows[scene]}
                scenes.append(PublishedScene.from_row(scene, rows[scene] | decoded))
            except ValueError as error:
                reasons[scene] = f"a damaged item ({' '.join(str(error).split())[:120]})"
        return scenes, reasons


def _decode(value: str | None) -> Any:
    """Return the value of a cell of a column that holds JSON text."""
    return None if value is None else json.loads(value)


def _read_time_span(
    moment: datetime | None, start: datetime | None, end: datetime | None, is_unknown: bool | None
) -> TimeSpan | None:
    first, last = moment or start, moment or end
    if is_unknown or first is None or last is None or last < first:
        return None
    return TimeSpan(first.astimezone(UTC), last.astimezone(UTC))


def _read_grid(row: Mapping[str, Any]) -> SceneGrid | None:
    """Return the grid of a row; None without a CRS."""
    crs = row.get("proj:code") or row.get("proj:wkt2")
    if crs is None:
        return None
    grid = SceneGrid(crs=crs, transform=tuple(row["proj:transform"][:6]), shape=tuple(row["proj:shape"]))
    try:
        _ = grid.geobox
    except CRSError as error:
        raise ValueError(f"no CRS that PROJ knows: {str(crs)[:60]}") from error
    return grid
