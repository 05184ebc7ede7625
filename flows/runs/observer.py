"""The result of a run, and the functions that are called while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:  # the command line answers at once, without what a run needs
    from seamline.flows.runs.planning import Plan
    from seamline.pipeline.execution.run_chunks import Totals
    from seamline.pipeline.products.run_record import RunRecord

T = TypeVar("T")


@dataclass(frozen=True)
class RunResult:
    """What a run left.

    Attributes:
        folder: the scene's folder. Of a scene in object storage only the preview is left there.
        record: the record of the run.
        computed: whether there was anything to infer.
        rewritten: results of a finished run that were lost, or not asked for before, and were written now.
        url: address of the scene in object storage; empty if the results are on disk.
    """

    folder: Path
    record: RunRecord
    computed: bool
    rewritten: tuple[str, ...] = ()
    url: str = ""

    @property
    def is_changed(self) -> bool:
        """Whether the run wrote any of the scene's files."""
        return self.computed or bool(self.rewritten)


class RunStage(Protocol):
    """Runs a stage of a scene's run, as a step that can be shown on its own."""

    def __call__(self, name: str, work: Callable[[], T]) -> T:
        """Return ``work()``; its errors pass through."""
        ...


def _run_plainly(name: str, work: Callable[[], T]) -> T:
    return work()


@dataclass(frozen=True)
class RunObserver:
    """Functions that are called while scenes are segmented. By default stages run plainly, and nothing is shown.

    Attributes:
        say: is called with a sentence about what takes a while before there is a plan.
        planned: is called with the plan of each scene.
        progress: is called with totals and plan after each step of a chunk.
        finished: is called with what each scene's run left.
        run_stage: runs each stage ("check", "plan", "infer", "publish", "upload") of a scene's run.
    """

    say: Callable[[str], None] = lambda text: None
    planned: Callable[[Plan], None] = lambda plan: None
    progress: Callable[[Totals, Plan], None] = lambda totals, plan: None
    finished: Callable[[RunResult], None] = lambda result: None
    run_stage: RunStage = _run_plainly
