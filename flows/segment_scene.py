"""The Prefect flow ``segment-scene``: one scene, one flow run."""

# Without `from __future__ import annotations`: Prefect pickles a flow that is served by value, and finds the types of
# its parameters only as objects, not by their names.

from pathlib import Path
from typing import Any

from seamline.pipeline.common.extras import explain_missing_extra

with explain_missing_extra("the flow segment-scene", "flows"):
    from prefect import flow
    from prefect.runtime import flow_run

from seamline.flows.runs.cluster_session import ClusterSession
from seamline.flows.settings.model_folder import open_model
from seamline.flows.settings.options import SegmentOptions
from seamline.flows.terminal.progress import show_live_progress
from seamline.flows.tracking.scene_task import quieten_dask, segment_task
from seamline.pipeline.common.errors import redact_address

_DEFAULTS = SegmentOptions()


def _name_flow_run() -> str:
    return f"segment {redact_address(str(flow_run.parameters['source']))}"


@flow(name="segment-scene", flow_run_name=_name_flow_run, persist_result=False, validate_parameters=True)
def segment_scene(
    source: str,
    model: str = "land-water-cloud",
    out: str | Path = Path("results"),
    options: SegmentOptions = _DEFAULTS,
) -> dict[str, Any]:
    """Segment one scene into OUT/<scene id>; a run that was stopped goes on.

    Args:
        source: A raster, a folder of band files, or a STAC item.
        model: Name of an embedded model, or a model folder.
        out: Folder of the catalogue, or s3://BUCKET/PREFIX.
        options: Everything that has a default.

    Returns:
        Folder or address of the results, whether anything was computed, and the record of the run.

    Raises:
        SeamlineError: The run failed; what was done is kept and the next run goes on.
    """
    quieten_dask()
    with ClusterSession(options) as session, show_live_progress() as terminal:
        open_model(model).tell_limits(terminal.say)
        result = segment_task(
            Path(redact_address(source)).name, source, model, out, options, session.get_client, terminal
        )
    return {
        "folder": result.url or str(result.folder),
        "computed": result.computed,
        "record": result.record.model_dump(mode="json"),
    }
