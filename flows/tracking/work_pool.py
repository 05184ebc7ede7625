"""Prepare a Prefect server for the deployments of ``deploy/prefect.yaml``: work pool, queues with limits, automations.

Run as ``python -m seamline.flows.tracking.work_pool TYPE [--template FILE] [--image IMAGE] [--gpu-limit N]`` with
``PREFECT_API_URL``; ``deploy/pool`` does so. What an operator changed is left alone: what is paused stays paused, and
limits stay as they are unless one is given.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound
from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type

from seamline.flows.tracking.lost_runs import create_automations

_GPU_QUEUE, _INBOX_QUEUE = "gpu", "inbox"
"""Queues with limits. So many runs of ``gpu`` have the devices of the cluster in hand; ``inbox`` runs one at a time."""


async def prepare_work_pool(kind: str, template: dict[str, Any] | None, gpu_limit: int | None) -> None:
    """Create a work pool named after its type, its queues and the automations, as far as they are not there.

    Args:
        kind: type of the pool: ``process``, ``docker`` or ``kubernetes``.
        template: base job template, which replaces the one that is there; None for Prefect's own.
        gpu_limit: runs of the queue ``gpu`` at once; None leaves a limit that is there, and is 1 for a new queue.
    """
    async with get_client() as client:
        try:
            await client.read_work_pool(kind)
        except ObjectNotFound:
            first = template or await get_default_base_job_template_for_infrastructure_type(kind) or {}
            await client.create_work_pool(WorkPoolCreate(name=kind, type=kind, base_job_template=first))
        else:
            if template is not None:
                await client.update_work_pool(kind, WorkPoolUpdate(base_job_template=template))
        await _limit_queue(client, kind, _GPU_QUEUE, gpu_limit)
        await _limit_queue(client, kind, _INBOX_QUEUE, None)


async def _limit_queue(client: PrefectClient, pool: str, name: str, limit: int | None) -> None:
    try:
        queue = await client.read_work_queue_by_name(name, work_pool_name=pool)
    except ObjectNotFound:
        await client.create_work_queue(name, work_pool_name=pool, concurrency_limit=limit or 1)
    else:
        if limit is not None:
            await client.update_work_queue(queue.id, concurrency_limit=limit)


def _read_template(path: Path, image: str | None) -> dict[str, Any]:
    """Return a base job template, in which ``image`` is the image of flow runs unless a deployment names another."""
    template: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if image:
        template["variables"]["properties"]["image"]["default"] = image
    return template


def _main() -> None:
    parser = argparse.ArgumentParser(description="Prepare a work pool at PREFECT_API_URL.")
    parser.add_argument("type", choices=["process", "docker", "kubernetes"])
    parser.add_argument("--template", type=Path, help="base job template, JSON")
    parser.add_argument("--image", help="image of flow runs")
    parser.add_argument("--gpu-limit", type=int, help="runs that have the GPUs in hand at once")
    arguments = parser.parse_args()
    template = _read_template(arguments.template, arguments.image) if arguments.template else None
    asyncio.run(prepare_work_pool(arguments.type, template, arguments.gpu_limit))
    create_automations()
    print(f"work pool {arguments.type}: ready")


if __name__ == "__main__":
    _main()
