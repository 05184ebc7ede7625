"""Serve the deployments of ``seamline up``: run flows by schedule and on demand.

Run as ``python -m seamline.flows.up.deployments STATE_FILE``.
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
import threading
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

from prefect import serve
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment

from seamline.flows.collection.scene_sources import Inbox
from seamline.flows.publish_catalog import publish_catalog_flow
from seamline.flows.segment_collection import segment_collection
from seamline.flows.segment_scene import segment_scene
from seamline.flows.settings.options import SegmentOptions
from seamline.flows.tracking.best_effort import show
from seamline.flows.tracking.idle_runs import delete_idle_runs, tells_more_than_a_skipped_run
from seamline.flows.tracking.lost_runs import TAG, create_automations, end_unfinished_runs
from seamline.flows.up.stack import LAST_DEPLOYMENT, TEMPORARY, Stack

_INBOX = "inbox"
_SECONDS_BETWEEN_DELETIONS = 60.0
_NIGHTLY = "0 3 * * *"
_ONE_AT_ONCE = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
"""A run that is due while another is still working is cancelled, and deleted by ``_delete_idle_runs``."""


def _serve_deployments(stack: Stack) -> None:
    """Serve the deployments ``inbox``, ``scene`` and ``check`` until SIGTERM."""
    options = SegmentOptions(**stack.options, cluster=stack.scheduler).model_dump(mode="json", exclude_defaults=True)
    common = {"model": stack.model, "out": str(stack.results), "options": options}
    inbox = Inbox(folder=stack.inbox, settle=stack.settle, allow=stack.allow, notes=True).model_dump(mode="json")
    create_automations()
    if lost := end_unfinished_runs():
        logging.getLogger(__name__).warning("%d runs were lost when the services were killed", lost)
    logging.getLogger("prefect.runner.state_proposer").addFilter(tells_more_than_a_skipped_run)
    threading.Thread(target=_delete_idle_runs, daemon=True).start()
    _keep_temporary_files(stack.folder / TEMPORARY)
    serve(
        RunnerDeployment.from_flow(
            segment_collection,
            _INBOX,
            interval=timedelta(seconds=stack.every),
            parameters={"scenes": inbox, **common},
            concurrency_limit=_ONE_AT_ONCE,
            tags=[TAG],
            description="What is dropped into the inbox.",
        ),
        RunnerDeployment.from_flow(
            segment_scene, "scene", parameters=common, tags=[TAG], description="One scene, by hand."
        ),
        RunnerDeployment.from_flow(
            publish_catalog_flow,
            LAST_DEPLOYMENT,
            cron=_NIGHTLY,
            parameters={"out": str(stack.results)},
            tags=[TAG],
            description="Is everything as published?",
        ),
        pause_on_shutdown=False,  # so that the schedules go on after the next start
        print_starting_message=False,
    )


def _delete_idle_runs() -> None:
    """Delete again and again what looks into the inbox leave that found nothing; does not return."""
    log = logging.getLogger(__name__)
    while True:
        time.sleep(_SECONDS_BETWEEN_DELETIONS)
        with get_client(sync_client=True) as client:
            show(log, "the end of idle runs", partial(delete_idle_runs, client, _INBOX))


def _keep_temporary_files(folder: Path) -> None:
    """Have this process, not its flow runs, use an empty folder for temporary files: Prefect's runner leaves some."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(folder)


if __name__ == "__main__":
    _serve_deployments(Stack.read(Path(sys.argv[1]))[0])
