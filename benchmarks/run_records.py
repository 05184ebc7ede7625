"""Records of runs that were never made, for results that are made up: by benchmarks, and by tests that need some."""

from __future__ import annotations

from collections.abc import Sequence

from seamline.pipeline.geometry.tiling import Tiling
from seamline.pipeline.products.run_record import ClassArea, InferenceRecord, RunRecord, TilingRecord

MADE_UP_TILING = {"window": 256, "halo": 32, "overlap": 0, "chunk_tiles": 1, "divisor": 16}


def make_up_inference(scene: str, tiling: Tiling, outputs: Sequence[str] = ("cog",)) -> InferenceRecord:
    """Return the record of a run that did nothing, before its results are published."""
    return InferenceRecord(
        scene=scene,
        source="a.tif",
        model="a U-Net",
        scene_digest="a",
        model_digest="b",
        plan=TilingRecord(
            window=tiling.window,
            halo=tiling.halo,
            overlap=tiling.overlap,
            chunk_tiles=tiling.chunk_tiles,
            divisor=tiling.divisor,
            stride=tiling.stride,
        ),
        settings={"engine": "none", "device": "cpu", "precision": "fp32", "batch": 1, "threads": 1},
        outputs=tuple(outputs),
        pixels_scene=tiling.height * tiling.width,
        pixels_inferred=0,
        windows=0,
        chunks=0,
        seconds={},
        workers=1,
        peak_memory_bytes=0,
        projected_memory_bytes=0,
        started="2026-01-01T00:00:00+00:00",
    )


def make_up_record(
    scene: str, shape: tuple[int, int], classes: Sequence[ClassArea], outputs: Sequence[str] = ("cog",)
) -> RunRecord:
    """Return the record of a finished run that did nothing, of a scene of ``shape`` (height, width)."""
    known = make_up_inference(scene, Tiling(*shape, **MADE_UP_TILING), outputs)
    return RunRecord(**known.model_dump(), classes=tuple(classes), finished="2026-01-01T00:00:00+00:00")
