"""Automations of a Prefect server that end flow runs whose process is gone.

Prefect learns of a state from the process that runs a flow, or from the worker that starts it. When both are lost, with
their host or because the kernel killed them, the run stays Running, Pending or Cancelling. Then it counts against the
limits of its deployment and its queue, and no later run begins. The automations watch for silence: a run that works
sends a heartbeat, and a run that is about to start changes its state. One that does neither for long is marked Crashed.

They only look at runs with the tag ``seamline``, whose deployments set ``HEARTBEAT_VARIABLE``. A run that is marked by
mistake, because its host reached the server only late, loses nothing: it holds its scenes' locks and ends as usual.
"""

from __future__ import annotations

from datetime import timedelta

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.states import Crashed

from seamline.flows.tracking.variables import HEARTBEAT_SECONDS

TAG = "seamline"
"""Tag of the deployments whose lost runs are ended."""
_UNFINISHED = (StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)

_RUNNING_TIMEOUT = timedelta(seconds=4 * HEARTBEAT_SECONDS)
_STARTING_TIMEOUT = timedelta(minutes=15)
"""How long an image may be pulled and a node may start."""


def _watch_silence(name: str, states: set[str], timeout: timedelta, message: str) -> AutomationCore:
    """Return the automation that marks a run as Crashed after ``timeout`` without an event, once it was in a state."""
    return AutomationCore(
        name=name,
        description=f"Marks runs as Crashed that send nothing for {timeout.total_seconds():.0f} s. Made by Seamline.",
        tags=[TAG],
        trigger=EventTrigger(
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification({"prefect.resource.id": f"prefect.tag.{TAG}"}),
            after={f"prefect.flow-run.{state}" for state in states},
            expect={"prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timeout,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=message)],
    )


AUTOMATIONS = (
    _watch_silence(
        "seamline: lost while running",
        {"heartbeat", "Running", "Retrying", "Cancelling"},
        _RUNNING_TIMEOUT,
        "No heartbeat: the process of this run is gone. What it did is kept; another run goes on with it.",
    ),
    _watch_silence(
        "seamline: lost while starting",
        {"Pending", "Submitting", "InfrastructurePending"},
        _STARTING_TIMEOUT,
        "It did not start: the worker or the container that should start it is gone.",
    ),
)


def create_automations() -> list[str]:
    """Create the automations that the server does not have yet; return their names.

    One with the same name is left as it is, since somebody may have changed or paused it.
    """
    with get_client(sync_client=True) as client:
        new = [automation for automation in AUTOMATIONS if not client.read_automations_by_name(automation.name)]
        for automation in new:
            client.create_automation(automation)
    return [automation.name for automation in new]


def end_unfinished_runs() -> int:
    """Mark the runs that work or are about to start as Crashed, and free their places; return their number.

    For a server whose runs all belong to the caller, which has not started any yet. Those that there are belonged to a
    process that was killed. The automations would wait for minutes before they end them.
    """
    states = FlowRunFilterState(type=FlowRunFilterStateType(any_=list(_UNFINISHED)))
    wanted, ended = FlowRunFilter(tags=FlowRunFilterTags(all_=[TAG]), state=states), 0
    with get_client(sync_client=True) as client:
        while runs := client.read_flow_runs(flow_run_filter=wanted):
            for run in runs:
                client.set_flow_run_state(run.id, Crashed(message="What worked on it was killed."), force=True)
            ended += len(runs)
    return ended
