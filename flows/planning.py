"""``seamline plan``: what a run would do, without doing it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flows.models import open_model
from flows.options import SegmentOptions
from flows.segment import Plan, make_plan, open_input, raster_of, worker_count
from pipeline.cluster import connected
from pipeline.picture import stretch, write_plan_picture
from pipeline.planning import candidates
from pipeline.scene import Scene
from pipeline.thumbnail import read_thumbnail
from pipeline.work import quicklook_bands


def plan_scene(
    sources: Sequence[str | Path], model_name: str | Path, options: SegmentOptions, picture: Path | None
) -> Plan:
    """The plan that ``segment`` would follow, measured on the same kind of workers; drawn to ``picture`` if given."""
    model = open_model(model_name)
    scene = open_input(sources, model, options)
    candidates(raster_of(scene, model), options.plan, model.spec.divisor, model.spec.exact_halo)
    with connected(options.cluster, worker_count(options)) as client:
        plan = make_plan(client, scene, model, options, resumed=None)
    if picture is not None:
        draw_plan(plan, picture)
    return plan


def draw_plan(plan: Plan, path: Path) -> None:
    """Draw windows, supports and chunks over a thumbnail of the scene."""
    tiling = plan.tiling
    tiles = [tile for chunk in tiling.chunks() for tile in tiling.tiles_of(chunk)]
    write_plan_picture(
        (tiling.height, tiling.width),
        [tiling.window_of(tile) for tile in tiles],
        [tiling.support_of(tile) for tile in tiles],
        [tiling.pixels_of(chunk) for chunk in tiling.chunks()],
        tiling.overlap,
        thumbnail(plan.scene),
        plan.scene.id,
        path,
    )


def thumbnail(scene: Scene, size: int = 1000) -> NDArray[np.uint8] | None:
    """A small picture (height, width, 3) of the scene, ``None`` where it would cost reading all of a large one."""
    shown = quicklook_bands([band.name for band in scene.bands])
    thinned = read_thumbnail(scene, [scene.bands[position] for position in shown], size)
    return None if thinned is None else stretch(*thinned)
