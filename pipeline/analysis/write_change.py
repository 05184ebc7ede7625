"""Write what changed from one result to another: a COG of transitions with legends, a table and a document."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rasterio
import rasterio.shutil
from rasterio.windows import Window as RasterWindow

from seamline.pipeline.analysis.listing import NamedResult
from seamline.pipeline.analysis.transitions import UNKNOWN, ResultPair, Transition, TransitionCounter
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import CATALOG, ITEM
from seamline.pipeline.products.sidecars import write_legend
from seamline.pipeline.raster_io.gdal import gdal_environment
from seamline.pipeline.results.stored_results import refuse_replaced
from seamline.pipeline.storage.atomic import atomic_write, check_writable
from seamline.pipeline.storage.output_place import refuse_inside_results

_RASTER, _TABLE, _DOCUMENT = "transitions.tif", "transitions.csv", "transitions.json"
_HECTARE = 10_000.0
_PROFILE = {
    "driver": "GTiff",
    "dtype": "uint16",
    "count": 1,
    "nodata": UNKNOWN,
    "tiled": True,
    "blockxsize": 512,
    "blockysize": 512,
    "compress": "deflate",
    "predictor": 2,
    "BIGTIFF": "IF_SAFER",
}


@dataclass(frozen=True)
class Change:
    """What changed from one result to another.

    Attributes:
        folder: Folder of the files.
        transitions: The transitions that occur, those that stayed what they were among them.
        pixels: Pixels that both results have.
    """

    folder: Path
    transitions: tuple[Transition, ...]
    pixels: int


def write_change(pair: ResultPair, folder: Path) -> Change:
    """Compare two results pixel by pixel and write the files; each appears whole or not at all.

    Args:
        pair: The results.
        folder: Folder of the files; it is created.

    Returns:
        What changed.

    Raises:
        InputError: The folder cannot be written to, or a file of the results is damaged.
    """
    _check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    counter = TransitionCounter(pair)
    with tempfile.TemporaryDirectory(prefix=".transitions-", dir=folder) as scratch:
        codes = Path(scratch) / "codes.tif"
        grid = pair.overlap.grid
        place = {"height": grid.height, "width": grid.width, "crs": grid.crs and str(grid.crs.to_wkt())}
        with gdal_environment(str(codes)):
            with rasterio.open(codes, "w", transform=grid.transform, **place, **_PROFILE) as file:
                for window, block in pair.iterate_codes():
                    file.write(block, 1, window=RasterWindow(window.col, window.row, window.width, window.height))
                    counter.add(window, block)
                refuse_replaced(pair.before.published)
                refuse_replaced(pair.after.published)
                transitions = counter.list_transitions()
                _describe(file, pair, transitions)
            with atomic_write(folder / _RASTER) as part:
                options = {"OVERVIEW_RESAMPLING": "MODE", "COMPRESS": "DEFLATE", "PREDICTOR": "YES"}
                rasterio.shutil.copy(codes, part, driver="COG", BLOCKSIZE=512, BIGTIFF="IF_SAFER", **options)
    write_legend(folder / _RASTER, transitions, {entry.value: entry.pixels for entry in transitions})
    _write_table(folder / _TABLE, transitions)
    _write_document(folder / _DOCUMENT, pair, transitions)
    return Change(folder, transitions, grid.height * grid.width)


def _check_folder(folder: Path) -> None:
    is_file = folder.exists() and not folder.is_dir()
    if is_file or any((folder / name).exists() for name in (CATALOG, ITEM)):
        got = "a file" if is_file else "a folder of results"
        raise InputError(f"--out {folder}", got=got, expected="a folder of its own", fix="choose another")
    refuse_inside_results(folder, f"--out {folder}")
    check_writable(folder, f"--out {folder}")


def _describe(file: Any, pair: ResultPair, transitions: Sequence[Transition]) -> None:
    """Give a raster a colour table and names of its codes."""
    file.write_colormap(1, {entry.value: (*entry.color, 255) for entry in transitions})
    file.set_band_description(1, "transitions")
    names = {f"TRANSITION_{entry.value}": entry.name for entry in transitions}
    file.update_tags(FROM=pair.before.name, TO=pair.after.name, CODE=_explain_code(pair), **names)


def _explain_code(pair: ResultPair) -> str:
    return f"{pair.factor} × label before + label after"


def describe_transitions(transitions: Sequence[Transition]) -> list[dict[str, Any]]:
    """Return transitions as rows of a table."""
    return [
        {
            "from": entry.before.name,
            "to": entry.after.name,
            "from_value": entry.before.value,
            "to_value": entry.after.value,
            "code": entry.value,
            "pixels": entry.pixels,
            "hectares": None if entry.area_m2 is None else entry.area_m2 / _HECTARE,
            "share": entry.share,
        }
        for entry in transitions
    ]


def _write_table(path: Path, transitions: Sequence[Transition]) -> None:
    columns = ("from", "to", "from_value", "to_value", "code", "pixels", "hectares", "share")
    with atomic_write(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(describe_transitions(transitions))


def _write_document(path: Path, pair: ResultPair, transitions: Sequence[Transition]) -> None:
    document = {
        "from": _describe_result(pair.before),
        "to": _describe_result(pair.after),
        "min_agreement": pair.min_agreement,
        "code": _explain_code(pair),
        "nodata": UNKNOWN,
        "pixels": pair.overlap.grid.height * pair.overlap.grid.width,
        "pixels_compared": sum(entry.pixels for entry in transitions),
        "transitions": describe_transitions(transitions),
    }
    with atomic_write(path) as part:
        part.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _describe_result(result: NamedResult) -> dict[str, Any]:
    span = result.published.item.properties.acquired
    return {
        "id": result.published.record.scene,
        "name": result.name,
        "start": span and span.start.isoformat(),
        "end": span and span.end.isoformat(),
    }
