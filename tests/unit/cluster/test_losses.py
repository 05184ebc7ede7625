"""What a watch makes of the workers that a scheduler shows, without a cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from seamline.pipeline.cluster import losses
from seamline.pipeline.cluster.losses import NO_WORKER_TIMEOUT, WorkersDiedError, WorkerWatch
from seamline.pipeline.cluster.workers import Capacity, ask_capacity
from seamline.pipeline.common.errors import RunError


def make_worker(status: str = "running", executing: int = 0) -> dict[str, Any]:
    metrics = {"task_counts": {"executing": executing}}
    return {"status": status, "nthreads": 3, "memory_limit": 550_000_000, "metrics": metrics}


HEARTBEATS = count()


@dataclass
class FakeClient:
    """What a watch asks a client, and the time that goes by."""

    workers: list[dict[str, Any]] = field(default_factory=list)
    events: dict[str, list[tuple[float, dict[str, Any]]]] = field(default_factory=dict)
    status: str = "running"
    saturation: float = 1.1

    scheduler = SimpleNamespace(identity=None)

    def sync(self, ask: None, n_workers: int) -> dict[str, Any]:
        return {"workers": {str(n): worker | {"last_seen": next(HEARTBEATS)} for n, worker in enumerate(self.workers)}}

    def run_on_scheduler(self, ask: Callable[..., Any], **named: Any) -> Any:
        states = [
            SimpleNamespace(nthreads=w["nthreads"], status=SimpleNamespace(name=w["status"])) for w in self.workers
        ]
        return ask(SimpleNamespace(workers=dict(enumerate(states)), WORKER_SATURATION=self.saturation), **named)

    def get_events(self, topic: str) -> tuple[tuple[float, dict[str, Any]], ...]:
        return tuple(self.events.get(topic, []))

    def wait_for_workers(self, n_workers: int, timeout: float) -> None:
        assert self.workers

    def lose(self, when: float, *, expected: bool = False) -> None:
        self.events.setdefault("all", []).append((when, {"action": "remove-worker", "expected": expected}))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(losses.time, "monotonic", lambda: now[0])
    return now


def test_two_short_absences_of_all_workers_are_not_one_long(clock: list[float]) -> None:
    watch = WorkerWatch(FakeClient(), "a scene")
    watch.check()
    watch.mark_alive()  # a result came from a worker that was back before the next check
    clock[0] = 10.0 * NO_WORKER_TIMEOUT
    watch.check()
    clock[0] += NO_WORKER_TIMEOUT + 1
    with pytest.raises(RunError, match=r"a scene: the cluster is gone \(no worker for 300 s"):
        watch.check()


def test_paused_workers_are_told_and_given_up(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    client = FakeClient([make_worker("paused"), make_worker("paused")])
    watch = WorkerWatch(client, "a scene")
    watch.check()
    assert "Dask paused all workers (2)" in caplog.text
    clock[0] = NO_WORKER_TIMEOUT + 1
    with pytest.raises(RunError, match=r"more than 80% of their memory limit \(524.52 MiB\) for 300 s; give each"):
        watch.check()
    assert ask_capacity(client).held == 0


def test_more_is_submitted_than_workers_hold_only_where_the_scheduler_keeps_it() -> None:
    three, many = make_worker(), make_worker() | {"nthreads": 16}
    assert ask_capacity(FakeClient([three, three, make_worker("paused")])) == Capacity(6, 25)
    assert ask_capacity(FakeClient([three, many])) == Capacity(6, 7)
    assert ask_capacity(FakeClient([three, three], saturation=float("inf"))) == Capacity(6, 7)
    assert ask_capacity(FakeClient()) == ask_capacity(FakeClient([three], status="closed")) == Capacity(0, 1)


@pytest.mark.parametrize("other", [make_worker("running"), make_worker("paused", executing=1)])
def test_one_worker_that_works_is_enough(clock: list[float], other: dict[str, Any]) -> None:
    watch = WorkerWatch(FakeClient([make_worker("paused"), other]), "a scene")
    for clock[0] in (0, NO_WORKER_TIMEOUT + 1, 3 * NO_WORKER_TIMEOUT):
        watch.check()


def test_workers_that_die_again_and_again_are_told_and_given_up(caplog: pytest.LogCaptureFixture) -> None:
    client = FakeClient([make_worker()])
    client.lose(1.0)  # before the run
    client.events["worker-restart-memory"] = [(1.0, {"rss": 530_000_000})]
    watch = WorkerWatch(client, "a scene")
    watch.check()
    assert not caplog.text
    for when in (2.0, 3.0, 4.0):
        client.lose(when)
        watch.check()
    assert "3 workers died since something was done last (Dask restarted 1 that came near" in caplog.text
    client.lose(5.0)
    with pytest.raises(WorkersDiedError, match=r"4 workers died one after the other.*limit of 524.52 MiB.*505.45 MiB"):
        watch.check()


def test_a_host_that_is_taken_away_and_workers_that_leave_are_no_reason_to_give_up() -> None:
    client = FakeClient([make_worker() for _ in range(8)])
    watch = WorkerWatch(client, "a scene")
    watch.check()
    client.workers = client.workers[:1]
    for worker in range(7):
        client.lose(2.0 + worker)
    for worker in range(100):
        client.lose(20.0 + worker, expected=True)
    watch.check()
    for death in range(30):  # something is done between any two of them
        client.lose(200.0 + death)
        watch.check()
        watch.mark_alive()
