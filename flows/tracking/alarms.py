"""Automations of a Prefect server that raise an alarm: a run failed, no scene for some hours, little disk left.

Run as ``python -m seamline.flows.tracking.alarms TO [--hours N]`` with ``PREFECT_API_URL``. ``TO`` is a notification
block of the server (``slack-webhook/ops``), or the address of a webhook, which is sent JSON with the field ``text``.
Running it again changes where alarms go and the hours; what an operator paused stays paused.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.extras import explain_missing_extra

with explain_missing_extra("alarms of a Prefect server", "flows"):
    from prefect.blocks.notifications import CustomWebhookNotificationBlock
    from prefect.client.orchestration import PrefectClient, get_client
    from prefect.events.actions import SendNotification
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification
    from prefect.exceptions import ObjectNotFound

    from seamline.flows.tracking.artifacts import DISK_EVENT, PUBLISHED_EVENT
    from seamline.flows.tracking.lost_runs import TAG

_BLOCK_NAME = "seamline-alarms"
"""Name of the block that is made of the address of a webhook."""
_LEAST_HOURS, _MOST_HOURS = 0.01, 24 * 365
"""Prefect waits for ten seconds at least."""


def _make_alarms(block: UUID, hours: float) -> tuple[AutomationCore, ...]:
    """Return the automations that raise alarms.

    Args:
        block: Id of the block that takes the notifications.
        hours: How long no scene may be published.
    """
    return (
        _make_alarm(
            "seamline: a run failed",
            "A flow run with the tag seamline failed or crashed; at most one alarm an hour.",
            EventTrigger(
                match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
                match_related=ResourceSpecification({"prefect.resource.id": f"prefect.tag.{TAG}"}),
                expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
                posture=Posture.Reactive,
                threshold=1,
                within=timedelta(hours=1),
            ),
            "{{ flow_run.name }} ({{ flow_run.state.name }}): {{ flow_run.state.message }}",
            block,
        ),
        _make_alarm(
            "seamline: no scene",
            f"No scene was published for {hours:g} hours.",
            EventTrigger(
                match=ResourceSpecification({"prefect.resource.id": "seamline.scene.*"}),
                expect={PUBLISHED_EVENT},
                posture=Posture.Proactive,
                threshold=1,
                within=timedelta(hours=hours),
            ),
            f"No scene was published for {hours:g} hours: is the schedule on, does anything arrive, do all fail?",
            block,
        ),
        _make_alarm(
            "seamline: little disk",
            "Little is left of the disk of the results; at most one alarm a day.",
            EventTrigger(
                match=ResourceSpecification({"prefect.resource.id": "seamline.disk"}),
                expect={DISK_EVENT},
                posture=Posture.Reactive,
                threshold=1,
                within=timedelta(days=1),
            ),
            "{{ event.payload.folder }}: {{ event.payload.free_bytes }} of {{ event.payload.total_bytes }} bytes free",
            block,
        ),
    )


def _make_alarm(name: str, description: str, trigger: EventTrigger, body: str, block: UUID) -> AutomationCore:
    action = SendNotification(block_document_id=block, subject=name, body=body)
    return AutomationCore(
        name=name, description=f"{description} Made by Seamline.", tags=[TAG], trigger=trigger, actions=[action]
    )


async def install_alarms(to: str, hours: float) -> list[str]:
    """Create the alarms on the server, or change those that are there; return their names.

    Args:
        to: A block as ``TYPE/NAME``, or the address of a webhook.
        hours: How long no scene may be published.

    Raises:
        InputError: There is no such block.
    """
    async with get_client() as client:
        alarms = _make_alarms(await _find_block(client, to), hours)
        for alarm in alarms:
            known = await client.read_automations_by_name(alarm.name)
            for automation in known:
                enabled = alarm.model_copy(update={"enabled": automation.enabled})
                await client.update_automation(automation.id, enabled)
            if not known:
                await client.create_automation(alarm)
    return [alarm.name for alarm in alarms]


async def _find_block(client: PrefectClient, to: str) -> UUID:
    """Return the id of a notification block; one for a webhook is made."""
    if to.startswith(("http://", "https://")):
        block = CustomWebhookNotificationBlock(name=_BLOCK_NAME, url=to, json_data={"text": "{{subject}}: {{body}}"})
        saved = block.save(_BLOCK_NAME, overwrite=True)
        return UUID(str(await saved if asyncio.iscoroutine(saved) else saved))
    kind, _, name = to.partition("/")
    try:
        return (await client.read_block_document_by_name(name, kind)).id
    except ObjectNotFound:
        raise InputError(
            "TO",
            got=to,
            expected="a notification block of Prefect's server as TYPE/NAME, or the address of a webhook",
            fix="make the block in Prefect's page (Blocks), such as slack-webhook/ops",
        ) from None


def main(words: Sequence[str] | None = None) -> int:
    """Install the alarms that a command line asks for; return its exit code."""
    parser = argparse.ArgumentParser(description="Raise alarms from the Prefect server at PREFECT_API_URL.")
    parser.add_argument("to", help="notification block as TYPE/NAME, or the address of a webhook")
    parser.add_argument("--hours", type=float, default=26, help="raise an alarm after so many without a scene")
    arguments = parser.parse_args(words)
    if not _LEAST_HOURS <= arguments.hours <= _MOST_HOURS:
        parser.error(f"--hours must be {_LEAST_HOURS} to {_MOST_HOURS}")
    try:
        names = asyncio.run(install_alarms(arguments.to, arguments.hours))
    except InputError as error:
        print(f"seamline: {error}", file=sys.stderr)
        return 2
    print("alarms: " + ", ".join(names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
