"""Six segmented scenes of a simulated region, for tests of maps."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from seamline.pipeline.stac.catalog import update_catalog
from seamline.pipeline.synthetic.region import Region
from seamline.pipeline.synthetic.simulation_files import write_region

REGION = Region(scene_size=256, rows=1, seed=3)


@dataclass(frozen=True)
class RegionResults:
    """Published results of a region's scenes.

    Attributes:
        region: The region; ``region.render_truth(grid)`` is the ground without clouds on any grid.
        sources: Files of the scenes, in the order of ``region.scenes``; ``<stem>_truth.tif`` lies beside each,
            ``truth.tif`` on ``region.grid`` in the same folder.
        catalogue: Folder of the results, one ``<id>`` for each of ``region.scenes``.
    """

    region: Region
    sources: tuple[Path, ...]
    catalogue: Path


def publish_region(folder: Path) -> RegionResults:
    """Simulate the scenes and segment them with the embedded model, in three seconds."""
    from seamline.flows.runs.observer import RunObserver
    from seamline.flows.runs.segment import segment_scenes
    from seamline.flows.settings.options import SegmentOptions
    from tests.support.run_folders import FIXED_ENGINE

    results = RegionResults(
        REGION, tuple(folder / "scenes" / f"{scene.id}.tif" for scene in REGION.scenes), folder / "results"
    )
    if not results.catalogue.exists():
        write_region(REGION, folder / "scenes")
        options = SegmentOptions(outputs=("cog", "zarr", "probabilities"), **FIXED_ENGINE)
        part = folder / "part"
        segment_scenes(results.sources, "land-water-cloud", part, options, RunObserver())
        part.rename(results.catalogue)
    return results


def copy_scenes(region: RegionResults, folder: Path, names: Sequence[str] | None = None) -> Path:
    """A catalogue with some of the scenes, whose files are links."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in region.catalogue.iterdir():
        if source.is_dir() and (names is None or source.name in names) and not (folder / source.name).exists():
            shutil.copytree(source, folder / source.name, copy_function=os.link)
    update_catalog(folder)
    return folder


@pytest.fixture(scope="session")
def region_results(tmp_path_factory: pytest.TempPathFactory, own_caches: Path) -> RegionResults:
    """Six scenes of 256² pixels of 10 m, segmented with ``land-water-cloud`` and published into one catalogue.

    They lie in pairs on the border of UTM zones 32 and 33, a western one in EPSG:32632 and an eastern one in
    EPSG:32633, which overlap by a quarter; a pair for each of 2024-05-14, 2024-06-21 and 2024-07-06. Ids are
    ``20240514-32632-0``, ``20240514-32633-0``, ``20240621-…``, ``20240706-…``. No scene lies on the pixels of another,
    corners of each have no data, each has land, water and clouds in other places, all but one cloud shadow. Outputs:
    cog, zarr, probabilities. Classes: 0 land, 1 water, 2 cloud, 3 cloud shadow.

    The folder is shared by all tests, also by those of other processes: copy what is to be changed.
    """
    folder = Path(os.environ["XDG_CACHE_HOME"]) / "region-results"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return publish_region(folder)
