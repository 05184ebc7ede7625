"""Keep runs of a collection that found nothing to do, or were skipped, from filling Prefect's database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from logging import LogRecord

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext

IDLE_TAG = "idle"
"""Tag of runs that found nothing new."""
_KEPT = 10
"""Idle runs of a deployment that are kept, the last ones."""
_GRACE = timedelta(minutes=1)
"""How long ago a run was due that is deleted; the runner may still be about to say that it was skipped."""
_MOST_AT_ONCE = 200


def tag_idle_run() -> None:
    """Give the flow run that is at work the tag ``IDLE_TAG``."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    with get_client(sync_client=True) as client:
        client.update_flow_run(context.flow_run.id, tags={*context.flow_run.tags, IDLE_TAG})


def delete_idle_runs(client: SyncPrefectClient, deployment: str) -> int:
    """Delete the runs of a deployment that were skipped, and idle ones but for the last, with their logs and states.

    A run is skipped if it is due while another works: the concurrency limit of the deployment cancels it.

    Args:
        client: Client of Prefect's server.
        deployment: Name of the deployment.

    Returns:
        The number of runs that were deleted.
    """
    skipped = [run for run in _find_runs(client, deployment, StateType.CANCELLED) if run.run_count == 0]
    idle = _find_runs(client, deployment, StateType.COMPLETED, FlowRunFilterTags(all_=[IDLE_TAG]))[_KEPT:]
    for run in (*skipped, *idle):
        client.delete_flow_run(run.id)
    return len(skipped) + len(idle)


def tells_more_than_a_skipped_run(record: LogRecord) -> bool:
    """Return whether a line of Prefect's runner is worth a log, as a filter of ``logging``."""
    return not record.getMessage().startswith("Aborted submission of flow run")


def _find_runs(
    client: SyncPrefectClient, deployment: str, state: StateType, tags: FlowRunFilterTags | None = None
) -> list[FlowRun]:
    """Return runs of a deployment in a state, which were due a while ago, the last first."""
    return client.read_flow_runs(
        deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[deployment])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[state])),
            expected_start_time=FlowRunFilterExpectedStartTime(before_=datetime.now(UTC) - _GRACE),
            tags=tags,
        ),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=_MOST_AT_ONCE,
    )
