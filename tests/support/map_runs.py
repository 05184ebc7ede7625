"""Runs of maps of the simulated region, and the bytes that they leave."""

from __future__ import annotations

import shutil
from pathlib import Path

from seamline.flows.maps.make_map import make_map
from seamline.flows.maps.observer import MapObserver, MapResult
from seamline.flows.maps.options import MosaicOptions
from seamline.pipeline.stac.catalog import update_catalog

UNSEEN = ("cloud", "cloud shadow")
OPTIONS = MosaicOptions(crs="EPSG:32632", resolution=10, unseen=UNSEEN)
MONTHS = OPTIONS.model_copy(update={"period": "month"})


def build(results: Path | str, out: Path, options: MosaicOptions = OPTIONS) -> MapResult:
    return make_map(results, out, options.model_copy(update={"workers": 0}), MapObserver())


def remove_scene(catalogue: Path, name: str) -> None:
    shutil.rmtree(catalogue / name)
    update_catalog(catalogue)


def read_rasters(folder: Path) -> dict[str, bytes]:
    """All that must be the same bytes: COGs, and the chunks of all stores."""
    found = [*folder.glob("*/*.tif"), *folder.glob("**/c/**/*")]
    files = {path.relative_to(folder).as_posix(): path for path in found if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(".run")}
