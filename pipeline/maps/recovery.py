"""The record of a map whose ``map.json`` was lost or damaged, from what its periods say of themselves.

The ``run.json`` of a period has the definition of the map, and a digest of it and of the scenes of the period. So it
can be told of which periods the scenes are still those that are wanted; these stay as they are.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import ITEM
from seamline.pipeline.geometry.map_grid import MapGrid
from seamline.pipeline.maps.map_folder import list_periods
from seamline.pipeline.mosaic.map_record import MapDefinition, MapRecord, refuse_other_definition
from seamline.pipeline.products.run_record import RunRecord, read_record
from seamline.pipeline.stac.items import ItemDict, read_item


def recover_map_record(folder: Path, wanted: MapRecord) -> MapRecord | None:
    """Return the record of a map as far as its periods are those that are wanted; None if none is.

    Args:
        folder: the map's folder, without a usable ``map.json``.
        wanted: record of the map as it is to be.

    Raises:
        OtherRunError: the periods are of a map of another definition; the message names what differs.
    """
    periods = {}
    for period, path in list_periods(folder).items():
        with suppress(OSError, ValueError):
            record = _read_run(path)
            if record is None:
                continue
            refuse_other_definition(folder, _read_definition(record, wanted.definition), wanted.definition)
            is_wanted = period in wanted.periods and record.scene_digest == wanted.compute_period_digest(period)
            if is_wanted and is_on_grid(read_item(path / ITEM), wanted.map_grid):
                periods[period] = wanted.periods[period]
    return wanted.model_copy(update={"periods": periods}) if periods else None


def is_on_grid(item: ItemDict, grid: MapGrid) -> bool:
    """Return whether the item of a period says that its rasters lie on the grid of the map."""
    shape, transform = (item["properties"].get(name) for name in ("proj:shape", "proj:transform"))
    return bool(shape == list(grid.geobox.shape) and transform == list(grid.geobox.transform)[:6])


def _read_run(path: Path) -> RunRecord | None:
    """Return the record in the folder of a period; None if it cannot be read."""
    with suppress(InputError, OSError, ValueError):
        return read_record(path)
    return None


def _read_definition(record: RunRecord, wanted: MapDefinition) -> MapDefinition:
    """Return the definition that the record of a period has; the classes are those of the model, which it names.

    Raises:
        ValueError: it has none.
    """
    return MapDefinition.model_validate({**record.options, "classes": wanted.classes})
