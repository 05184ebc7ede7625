"""Choose a plan: window, halo, overlap and chunk, from what the network needs and what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.execution.predictor import CHUNKS_AT_ONCE
from seamline.pipeline.geometry.tiling import Tiling

LARGEST_WINDOW = 2560
"""Edge above which larger windows save little (their halo is a tenth of them) and memory grows on."""

CHUNK_EDGE = 2048
"""About how large a chunk is: large enough that a task's overhead does not count, small enough to balance."""

UNBOUNDED_HALO, UNBOUNDED_OVERLAP = 64, 64
"""For a network whose reach no halo covers: context that is thrown away, and the band that is feathered."""

LARGEST_CANDIDATE_HALO = 128
"""The most context that is tried for a network whose reach no halo covers."""
SMALLEST_CANDIDATE_HALO = 16
"""The least that is taken by itself: a sample of one class shows no change at any, and the scene's rest may."""
NEGLIGIBLE_CHANGE, WORTHWHILE_RATIO = 1e-3, 0.5
"""A margin is enough if more context changes one label in a thousand at most, or if the next one, twice as wide and so
about twice as dear, does not halve what changes."""

TIME_TOLERANCE = 1.1
"""Times of two plans that differ by less are the same."""

MEMORY_HEADROOM = 1.3
"""Over what is counted: the C library keeps freed memory in pieces (``keep_freed_memory`` of the runtime)."""

RASTER_CACHE = 64 * 2**20
"""What GDAL keeps of decoded blocks, in bytes."""


class Costs(Protocol):
    """What was measured of a network on a worker."""

    @property
    def process_bytes(self) -> int:
        """What the process holds with the network loaded."""
        ...

    def forward_bytes(self, window: int) -> int:
        """What the forward of a batch of such windows adds, in the process's memory."""
        ...

    def fits(self, window: int) -> bool:
        """Whether such windows fit into the memory of a device of its own, if there is one."""
        ...

    def seconds_for(self, window: int) -> float:
        """Seconds for one window of this edge."""
        ...


@dataclass(frozen=True)
class PlanOptions:
    """What the user fixes of a plan; ``None`` leaves it to ``choose_tiling``."""

    window: int | None = None
    halo: int | None = None
    overlap: int | None = None
    chunk_tiles: int | None = None


@dataclass(frozen=True)
class Raster:
    """What the plan must know of a scene: size, bands, bytes of a digital number, and what comes of it.

    ``layers`` counts the bands of the layers beside the labels.
    """

    height: int
    width: int
    bands: int
    itemsize: int
    classes: int
    layers: int = 0


@dataclass(frozen=True)
class Reach:
    """What the plan must know of a network, in pixels: the lattice it pools on, and how far it looks.

    ``exact_halo`` is what makes tiling invisible, ``None`` if no halo does: then the plan feathers. ``least_halo``
    is what the network loses at its edge (unpadded convolutions). ``window`` is the only edge it takes, if it does.
    """

    divisor: int
    exact_halo: int | None
    least_halo: int = 0
    window: int | None = None

    def round_up_to_lattice(self, length: int) -> int:
        """The multiple of the divisor that is no less than ``length``."""
        return math.ceil(length / self.divisor) * self.divisor

    @property
    def unbounded_halo(self) -> int:
        """Context for a network whose reach no halo covers: what is affordable of it."""
        affordable = UNBOUNDED_HALO if self.window is None else min(UNBOUNDED_HALO, self.window // 8)
        return max(self.least_halo, self.round_up_to_lattice(affordable))


def choose_tiling(raster: Raster, options: PlanOptions, reach: Reach, costs: Costs, memory: int) -> Tiling:
    """The plan with the least network time whose memory fits, within what the user fixes.

    Of those that differ by no more than measurements do, the one with the fewest network pixels: it reads least.

    Raises:
        InputError: the options contradict each other or the network, or nothing fits into ``memory`` bytes.
    """
    plans = list_candidate_tilings(raster, options, reach)
    fitting = [plan for plan in plans if costs.fits(plan.window) and project_memory(raster, plan, costs) <= memory]
    if not fitting:
        smallest = min(plans, key=lambda plan: plan.window)
        check_memory(raster, smallest, costs, memory)
        raise InputError(
            "memory of the CUDA device",
            got="too little",
            expected=f"room for windows of {smallest.window}",
            fix="take a smaller --window or --halo, or --device cpu",
        )
    seconds = {plan: plan.tile_count * costs.seconds_for(plan.window) for plan in fitting}
    least = min(seconds.values())
    return min(
        (plan for plan in fitting if seconds[plan] <= TIME_TOLERANCE * least),
        key=lambda plan: (plan.redundancy, plan.window),
    )


def list_candidate_tilings(raster: Raster, options: PlanOptions, reach: Reach) -> list[Tiling]:
    """The plans worth a look within what the user fixes; one, if that is the window. Measures nothing.

    Raises:
        InputError: the options contradict each other or the network.
    """
    halo, overlap = get_default_halo(options, reach), options.overlap
    if overlap is None:
        overlap = reach.unbounded_halo if reach.exact_halo is None else 0
    if halo < reach.least_halo:
        raise InputError(
            "--halo",
            got=halo,
            expected=f"at least {reach.least_halo}, what the network's unpadded convolutions lose on every side",
            fix="take a larger --halo, or auto",
        )

    def tiling(window: int) -> Tiling:
        stride = window - 2 * halo - overlap
        tiles = options.chunk_tiles
        if tiles is None:
            tiles = max(1, round(CHUNK_EDGE / max(stride, 1)))
        return Tiling(raster.height, raster.width, window, halo, overlap, tiles, reach.divisor)

    window = options.window if reach.window is None else reach.window
    if window is None:
        return [tiling(edge) for edge in _list_windows(raster, halo, overlap, reach)]
    largest = max(LARGEST_WINDOW, reach.round_up_to_lattice(max(raster.height, raster.width)) + 2 * halo + overlap)
    if reach.window is None and window > largest:
        raise InputError(
            "--window",
            got=window,
            expected=f"at most {largest}, one window over the whole scene",
            fix="take a smaller --window, or auto",
        )
    if options.window not in (None, window):
        raise InputError(
            "--window", got=options.window, expected=f"{window}, the only one that the network takes", fix="leave it"
        )
    return [tiling(window)]


def get_default_halo(options: PlanOptions, reach: Reach) -> int:
    """The halo as asked, otherwise the exact one, otherwise what is affordable of an unbounded reach.

    Where the labels of a scene were looked at, ``choose_halo`` knows better than that.
    """
    if options.halo is not None:
        return options.halo
    return reach.unbounded_halo if reach.exact_halo is None else reach.exact_halo


def candidate_halos(raster: Raster, options: PlanOptions, reach: Reach) -> tuple[int, ...]:
    """The halos whose labels are worth a look: on the lattice, doubled up to the exact one, or to what is affordable.

    Only such as a plan can have beside what the user fixes; the one that the user asks for is one of them.
    """
    window = options.window if reach.window is None else reach.window
    most = reach.exact_halo
    if most is None:
        most = min(LARGEST_CANDIDATE_HALO, (window or 4 * LARGEST_CANDIDATE_HALO) // 4)
    if reach.window is not None:  # what the windows beside one see more
        most = min(most, reach.window // 4)
    ladder, step = {reach.least_halo}, reach.round_up_to_lattice(SMALLEST_CANDIDATE_HALO // 2)
    while step < most:
        ladder.add(step)
        step *= 2
    ladder |= {most // reach.divisor * reach.divisor}
    if options.halo is not None:
        ladder.add(options.halo)

    def possible(halo: int) -> bool:
        try:
            return bool(list_candidate_tilings(raster, replace(options, halo=halo), reach))
        except InputError:
            return False

    return tuple(halo for halo in sorted(ladder) if halo >= reach.least_halo and possible(halo))


def choose_halo(changed: Mapping[int, float], reach: Reach) -> int:
    """The least margin with which the labels no longer change noticeably; ``describe_change`` as it was measured.

    Returns:
        One of the margins, or ``reach.unbounded_halo`` if there is none to choose from.
    """
    found = sorted(margin for margin in changed if margin >= max(reach.least_halo, SMALLEST_CANDIDATE_HALO))
    for margin, following in pairwise(found):
        if changed[margin] <= NEGLIGIBLE_CHANGE or changed[following] > WORTHWHILE_RATIO * changed[margin]:
            return margin
    return found[-1] if found else reach.unbounded_halo


def _list_windows(raster: Raster, halo: int, overlap: int, reach: Reach) -> Iterator[int]:
    """The windows worth a look: for each number of tiles along an axis the smallest that covers it."""
    around = 2 * halo + overlap
    # An overlap larger than the stride is no plan; nor is a stride below the divisor.
    least = max(reach.divisor, reach.round_up_to_lattice(overlap))
    seen = set()
    for extent in (raster.height, raster.width):
        for count in range(1, math.ceil(extent / least) + 1):
            stride = max(least, reach.round_up_to_lattice(math.ceil(extent / count)))
            if (window := stride + around) <= max(LARGEST_WINDOW, least + around):
                seen.add(window)
            if seen and stride <= around and count > 1:  # from here on most of a window is thrown away
                break
    return iter(sorted(seen))


def project_memory(raster: Raster, plan: Tiling, costs: Costs) -> int:
    """Bytes that one worker process needs at most: the network, and the chunks that it has in hand at once."""
    read = (min(plan.chunk_tiles, max(plan.tile_grid)) * plan.stride + plan.overlap + 2 * plan.halo) ** 2
    pixels = min(plan.chunk_size, raster.height) * min(plan.chunk_size, raster.width)
    block = read * (raster.bands * raster.itemsize + 1)
    labels = pixels * (3 + 2 * raster.layers)
    channels = raster.classes + 1  # the squares for disagreement
    sums = 2 * 4 * channels * pixels if plan.overlap else 0
    # What GDAL delivers, the scene's bands put together, and at a scene's edge the mirrored copy.
    chunk = 3 * block + labels + sums
    # Weighing one tile's votes: its probabilities, their products and roundings in double precision.
    weighed = 3 * 8 * raster.classes * plan.support**2 if plan.overlap or raster.layers else 0
    network = costs.forward_bytes(plan.window) + weighed
    return int(MEMORY_HEADROOM * (costs.process_bytes + network + CHUNKS_AT_ONCE * chunk + RASTER_CACHE))


def check_memory(raster: Raster, plan: Tiling, costs: Costs, memory: int) -> None:
    """Refuse a plan that does not fit into ``memory`` bytes."""
    needed = project_memory(raster, plan, costs)
    if needed > memory:
        raise InputError(
            "memory of a worker",
            got=f"{memory / 2**30:.1f} GiB",
            expected=f"{needed / 2**30:.1f} GiB for windows of {plan.window} in chunks of {plan.chunk_tiles}² tiles",
            fix="take a smaller --window or --chunk-tiles, or fewer --workers",
        )
