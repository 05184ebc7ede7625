"""The Prefect flow ``segment-scene``: one scene, one flow run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from flows import display
from flows.options import SegmentOptions
from flows.scene_task import quieten_dask, segment_task
from flows.workforce import Workforce

DEFAULTS = SegmentOptions()


<<<<<<< HEAD
class FlowWatcher:
    """Tells Prefect how a run goes on: a log line for the plan, a progress artifact at most once a second.

    ``also`` is told everything as well: the progress bar, where there is a terminal.
    """

    def __init__(self, also: Watcher) -> None:
        self._also = also
        self._log = get_run_logger()
        self._artifact: UUID | None = None
        self._updated = 0.0
        self.watcher = Watcher(self._say, self._planned, self._progress)

    def _say(self, text: str) -> None:
        self._log.info("%s", text)
        self._also.say(text)

    def _planned(self, plan: Plan) -> None:
        tiling = plan.tiling
        for warning in plan.scene.warnings:
            self._log.warning("%s: %s", plan.scene.id, warning)
        self._log.info(
            "%s: %d windows of %d, halo %d, overlap %d, %.2f network pixels per scene pixel, about %.0f s",
            plan.scene.id, tiling.tile_count, tiling.window, tiling.halo, tiling.overlap,
            tiling.redundancy, plan.seconds,
        )  # fmt: skip
        artifact = create_progress_artifact(progress=0.0, description=f"chunks of {plan.scene.id}")
        self._artifact = artifact if isinstance(artifact, UUID) else None
        self._also.planned(plan)

    def _progress(self, totals: Totals, plan: Plan) -> None:
        self._also.progress(totals, plan)
        now = time.monotonic()
        if self._artifact is None or now - self._updated < SECONDS_BETWEEN_UPDATES:
            return
        self._updated = now
        try:
            update_progress_artifact(self._artifact, progress=100.0 * totals.chunks_done / max(1, totals.chunks))
        except (OSError, PrefectException) as error:  # a picture of progress is not worth the run
            self._log.warning("progress not shown: %s", error)


@task(task_run_name="segment {source}", persist_result=False)
def segment_task(source: str, model: str, out: str | Path, options: SegmentOptions) -> dict[str, Any]:
    """The whole scene as one task: its steps resume by themselves, so a retry goes on where the last try stopped."""
    with display.live() as terminal:
        result = segment(source, model, out, options, FlowWatcher(terminal).watcher)
    create_markdown_artifact(markdown=summary(result), key="segment-scene", description=f"{result.record['scene']}")
    return {"folder": result.place or str(result.folder), "computed": result.computed, "record": result.record}


@flow(name="segment-scene", retries=0, persist_result=False, validate_parameters=True)
=======
@flow(name="segment-scene", flow_run_name="segment {source}", persist_result=False, validate_parameters=True)
>>>>>>> main
def segment_scene(
    source: str,
    model: str = "land-water-cloud",
    out: str | Path = Path("results"),
    options: SegmentOptions = DEFAULTS,
) -> dict[str, Any]:
    """Segment one scene into OUT/<scene id>; a run that was stopped goes on.

    Args:
        source: A raster, a folder of band files, or a STAC item.
        model: Name of an embedded model, or a model folder.
        out: Folder of the catalogue, or s3://BUCKET/PREFIX.
        options: Everything that has a default.
    """
<<<<<<< HEAD
    logging.getLogger("distributed").setLevel(logging.WARNING)
    return segment_task(source, model, out, options)


def summary(result: Result) -> str:
    """A run as Markdown: what the summary artifact shows."""
    record = result.record
    rows = [
        ("windows", f"{record['windows']} of {record['plan']['window']}²"),
        ("network pixels per scene pixel", f"{record['pixels_inferred'] / record['pixels_scene']:.2f}"),
        ("seconds", f"{record['seconds']['total']:.1f}"),
        ("peak memory of a worker", f"{record['peak_memory_bytes'] / 2**20:.0f} MiB"),
        *((row["name"], f"{row['share']:.1%}") for row in record["classes"]),
        ("results", f"`{result.place or result.folder}`"),
    ]
    done = "" if result.computed else "Finished before with this scene, model and plan; nothing was done.\n\n"
    return f"# {record['scene']}\n\n{done}| | |\n|---|---|\n" + "\n".join(f"| {key} | {value} |" for key, value in rows)
=======
    quieten_dask()
    with Workforce(options) as force, display.live() as terminal:
        result = segment_task(Path(source).name, source, model, out, options, force.client, terminal)
    return {"folder": str(result.folder), "computed": result.computed, "record": result.record}
>>>>>>> main
