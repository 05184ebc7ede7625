"""The Prefect flow ``update-mosaic``: bring a map up to date with the scenes that were published since."""

# Without `from __future__ import annotations`: Prefect pickles a flow that is served by value, and finds the types of
# its parameters only as objects, not by their names.

import time
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from seamline.pipeline.common.extras import explain_missing_extra

with explain_missing_extra("the flow update-mosaic", "flows"):
    from prefect import flow, get_run_logger, task
    from prefect.cache_policies import NO_CACHE

from seamline.flows.maps.make_map import make_map
from seamline.flows.maps.observer import MapObserver, MapResult
from seamline.flows.maps.options import MosaicOptions
from seamline.flows.settings.credentials import use_credentials
from seamline.flows.tracking import artifacts
from seamline.flows.tracking.best_effort import show
from seamline.flows.tracking.scene_task import quieten_dask
from seamline.pipeline.common.errors import InUseError

_PAUSE_S = 5.0
"""Seconds between two looks whether another run has ended."""

Wait = Annotated[float, Field(ge=0, description="Seconds to wait for another run that works on the map")]


@flow(name="update-mosaic", flow_run_name="map {out}", persist_result=False, validate_parameters=True)
def update_mosaic(results: str | Path, out: str | Path, options: MosaicOptions, wait: Wait = 3600.0) -> dict[str, Any]:
    """Make a map of the published scenes of a catalogue, or bring it up to date; a run that was stopped goes on.

    While another run works on the map, this one waits: what was published meanwhile is then in it.

    Args:
        results: Folder of the catalogue of the scenes, or s3://BUCKET/PREFIX.
        out: The map's folder, or s3://BUCKET/PREFIX.
        options: What the map is.
        wait: Seconds to wait for another run that works on the map.

    Returns:
        Folder of the map, its periods with the number of their scenes, and how many chunks were computed.

    Raises:
        InputError: There is no such map to be made, or another run works on it for too long.
        SeamlineError: The run failed; what was done is kept and the next run goes on.
    """
    quieten_dask()
    use_credentials(options.credentials)
    result = mosaic_task(results, out, options, wait)
    show(get_run_logger(), "the report", lambda: artifacts.show_map(result))
    return {
        "folder": result.url or str(result.folder),
        "periods": {name: len(scenes) for name, scenes in result.record.periods.items()},
        "chunks": result.chunks,
        "computed": result.computed,
    }


@task(name="fuse scenes", persist_result=False, cache_policy=NO_CACHE)
def mosaic_task(results: str | Path, out: str | Path, options: MosaicOptions, wait: float) -> MapResult:
    """Make or update the map; wait while another run works on it.

    Args:
        results: Folder of the catalogue of the scenes, or s3://BUCKET/PREFIX.
        out: The map's folder, or s3://BUCKET/PREFIX.
        options: What the map is.
        wait: Seconds to wait for another run that works on the map.
    """
    observer, end = MapObserver(say=get_run_logger().warning), time.monotonic() + wait
    while True:
        try:
            return make_map(results, out, options, observer)
        except InUseError:
            if time.monotonic() > end:
                raise
            time.sleep(_PAUSE_S)
