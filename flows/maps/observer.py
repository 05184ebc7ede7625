"""The result of a run of a map, and the functions that are called while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line answers at once, without what a run needs
    from seamline.flows.maps.map_plan import MapPlan
    from seamline.pipeline.mosaic.map_record import MapRecord


@dataclass(frozen=True)
class MapResult:
    """What a run of a map left.

    Attributes:
        folder: the map's folder.
        record: its record.
        chunks: number of chunks that were to be computed.
        computed: whether anything of the map was written.
        seconds: how long the run took.
        url: address of the map in object storage; ``folder`` is then the working folder. Empty on disk.
    """

    folder: Path
    record: MapRecord
    chunks: int
    computed: bool
    seconds: float
    url: str = ""


@dataclass(frozen=True)
class MapObserver:
    """Functions that are called while a map is made. By default nothing is shown.

    Attributes:
        say: is called with a sentence about what is left out, assumed or takes a while.
        planned: is called with the plan.
        progress: is called with the number of chunks that are done, and of all that are to be computed.
    """

    say: Callable[[str], None] = lambda text: None
    planned: Callable[[MapPlan], None] = lambda plan: None
    progress: Callable[[int, int], None] = lambda done, total: None
