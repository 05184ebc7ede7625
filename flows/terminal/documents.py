"""Results of commands as JSON, for programs (``--json``)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seamline.flows.runs.observer import RunResult
    from seamline.flows.runs.planning import Plan


def describe_results(results: Sequence[RunResult]) -> str:
    """Return what runs left as JSON: a list with an object for each scene.

    ``folder`` or ``url`` is where the files are, ``computed`` whether there was anything to infer, ``rewritten`` which
    lost files were written again, ``run`` the content of ``run.json``.
    """
    from seamline.pipeline.products.run_record import encode_record  # imports pydantic

    scenes = [
        {
            "scene": result.record.scene,
            "folder": None if result.url else str(result.folder),
            "url": result.url or None,
            "computed": result.computed,
            "rewritten": list(result.rewritten),
            "run": json.loads(encode_record(result.record)),
        }
        for result in results
    ]
    return json.dumps(scenes, indent=2, ensure_ascii=False)


def describe_plan(plan: Plan) -> str:
    """Return a plan as JSON: tiling, settings of the network, memory in bytes, time in seconds, warnings."""
    tiling = plan.tiling
    content = {
        "scene": plan.scene.id,
        "model": plan.model.spec.name,
        "tiling": asdict(tiling)
        | {
            "stride": tiling.stride,
            "tiles": tiling.tile_count,
            "chunks": tiling.chunk_grid.row * tiling.chunk_grid.col,
            "network_pixels_per_scene_pixel": tiling.redundancy,
        },
        "exact_halo": plan.model.spec.exact_halo,
        "settings": asdict(plan.settings),
        "workers": plan.workers,
        "projected_memory_bytes": plan.projected_memory,
        "network_seconds": plan.seconds,
        "labels_that_more_context_changes": {str(halo): share for halo, share in sorted(plan.measured.changed.items())},
        "warnings": list(plan.scene.warnings),
    }
    return json.dumps(content, indent=2, ensure_ascii=False)
