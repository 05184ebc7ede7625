"""Choose the tiling of a run: window, halo, overlap and chunk, from the network's needs and what was measured of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from seamline.pipeline.cluster.workers import CHUNKS_AT_ONCE, count_readers
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.tiling import Tiling
from seamline.pipeline.planning.memory import Costs, Raster, check_memory, project_memory

_LARGEST_WINDOW = 2560
"""Largest window edge that is tried, in pixels. Above it the halo is under a tenth of the edge: larger windows save
little time and take more memory."""

_SMALLEST_STRIDE = 128
"""Stride in pixels from which on no smaller one is tried, even by networks that need little context or none: to hand
out windows would take longer than to run them."""

_CHUNK_EDGE = 2048
"""Approximate edge of a chunk in pixels: large enough to hide a task's overhead, small enough to balance the load."""

_CHUNK_SECONDS = 1.0
"""Seconds that a chunk should last, in the network or where it is read: each costs client and scheduler a few
milliseconds."""

_CHUNKS_PER_WORKER = 8
"""Chunks that there should be for each worker, and each of its threads that read at once, so that they all end at about
the same time."""

_SECONDS_BETWEEN_CHUNKS = 1e-3
"""Seconds that client and scheduler take for a chunk: there should be no more of them than they hand out while the
workers compute."""

UNBOUNDED_HALO = 64
"""Halo in pixels, and overlap, for a network whose reach no halo covers, where nothing better was measured."""

_LARGEST_CANDIDATE_HALO = 128
"""Largest halo in pixels that is tried for a network whose reach no halo covers."""

_SMALLEST_CHOSEN_HALO = 16
"""Smallest halo in pixels that is chosen without being asked for. A sample that holds one class only changes with no
halo; other parts of the scene may."""

_NEGLIGIBLE_CHANGE = 1e-3
"""Share of labels. A halo is enough if more context changes no more labels than this."""

_WORTHWHILE_RATIO = 0.5
"""A halo is also enough if the next candidate, which is twice as wide and costs about twice as much, still leaves more
than this share of its changes."""

_TIME_TOLERANCE = 1.1
"""Estimated times of two tilings within this factor count as equal."""


@dataclass(frozen=True)
class PlanOptions:
    """The parts of a tiling that the user fixes; ``None`` leaves a part open.

    Attributes:
        window: edge of a window in pixels.
        halo: pixels on every side of a window that are thrown away.
        overlap: pixels that neighbouring supports share.
        chunk_tiles: tiles along the edge of a chunk.
    """

    window: int | None = None
    halo: int | None = None
    overlap: int | None = None
    chunk_tiles: int | None = None


@dataclass(frozen=True)
class Reach:
    """The pooling lattice of a network and how far it looks, in pixels.

    Attributes:
        divisor: period of the lattice that the network pools on.
        exact_halo: halo with which tiling changes no label; ``None`` if no halo does. Then tiles are blended.
        least_halo: what the network loses at its edge (unpadded convolutions).
        window: the only window edge that the network takes; ``None`` if it takes any.
    """

    divisor: int
    exact_halo: int | None
    least_halo: int = 0
    window: int | None = None

    def round_up_to_lattice(self, length: int) -> int:
        """Return the smallest multiple of the divisor that is not less than ``length``."""
        return math.ceil(length / self.divisor) * self.divisor

    @property
    def unbounded_halo(self) -> int:
        """An affordable halo for a network whose reach no halo covers."""
        affordable = UNBOUNDED_HALO if self.window is None else min(UNBOUNDED_HALO, self.window // 8)
        return max(self.least_halo, self.round_up_to_lattice(affordable))


def choose_tiling(raster: Raster, options: PlanOptions, reach: Reach, costs: Costs, memory: int) -> Tiling:
    """Return the tiling with the least network time whose memory fits, within what the user fixes.

    Of tilings whose times differ by no more than measurements do, the one with the fewest network pixels is chosen,
    since it reads least.

    Args:
        raster: the scene and what is made of it.
        options: what the user fixes.
        reach: what the network needs.
        costs: what was measured of the network.
        memory: bytes that a worker may take.

    Returns:
        The tiling.

    Raises:
        InputError: the options contradict each other or the network, or no tiling fits into ``memory``.
    """
    tilings = list_candidate_tilings(raster, options, reach)
    fitting = [
        tiling for tiling in tilings if costs.fits(tiling.window) and project_memory(raster, tiling, costs) <= memory
    ]
    if not fitting:
        smallest = min(tilings, key=lambda tiling: tiling.window)
        check_memory(raster, smallest, costs, memory)
        raise InputError(
            "memory of the CUDA device",
            got="too little",
            expected=f"room for windows of {smallest.window}",
            fix="take a smaller --window or --halo, or --device cpu",
        )
    seconds = {tiling: tiling.tile_count * costs.seconds_for(tiling.window) for tiling in fitting}
    least = min(seconds.values())
    return min(
        (tiling for tiling in fitting if seconds[tiling] <= _TIME_TOLERANCE * least),
        key=lambda tiling: (tiling.redundancy, tiling.window),
    )


def enlarge_chunks(
    tiling: Tiling,
    raster: Raster,
    options: PlanOptions,
    costs: Costs,
    memory: int,
    workers: int,
    chunks_at_once: int = CHUNKS_AT_ONCE,
) -> Tiling:
    """Return the tiling with larger chunks where the network would be done with those it has in no time.

    Args:
        tiling: the tiling that was chosen.
        raster: the scene and what is made of it.
        options: what the user fixes; chunks among it stay as they are.
        costs: what was measured of the network.
        memory: bytes that a worker may take.
        workers: number of workers.
        chunks_at_once: chunks that a process is to hold at once, of which all but two are read. One thread reads a
            chunk: the more there are, the longer it takes for one beside the network, which waits for the first.

    Returns:
        A tiling with the same tiles. Its chunks last a second, where they are read or in the network, if the memory
        and the number of workers allow, or as long as keeps client and scheduler from being the slowest.
    """
    if options.chunk_tiles is not None:
        return tiling
    tile_seconds, workers = max(costs.seconds_for(tiling.window), 1e-9), max(workers, 1)
    readers = count_readers(chunks_at_once)
    wanted = math.ceil(math.sqrt(_CHUNK_SECONDS / readers / tile_seconds))
    least = math.ceil(math.sqrt(_SECONDS_BETWEEN_CHUNKS * workers / tile_seconds))
    most = math.isqrt(tiling.tile_count // (_CHUNKS_PER_WORKER * readers * workers))
    larger = (
        replace(tiling, chunk_tiles=count) for count in range(min(wanted, max(least, most)), tiling.chunk_tiles, -1)
    )
    fitting = (
        other for other in larger if project_memory(raster, other, costs, chunks_at_once=chunks_at_once) <= memory
    )
    return next(fitting, tiling)


def list_candidate_tilings(raster: Raster, options: PlanOptions, reach: Reach) -> list[Tiling]:
    """Return the tilings worth comparing within what the user fixes. Measures nothing.

    Args:
        raster: the scene and what is made of it.
        options: what the user fixes; an open halo is the exact one or ``reach.unbounded_halo``.
        reach: what the network needs.

    Returns:
        One tiling for each useful window; a single one where user or network fix the window.

    Raises:
        InputError: the options contradict each other or the network.
    """
    halo, overlap = resolve_halo(options, reach, {}), options.overlap
    if overlap is None:
        overlap = reach.unbounded_halo if reach.exact_halo is None else 0
    if halo < reach.least_halo:
        raise InputError(
            "--halo",
            got=halo,
            expected=f"at least {reach.least_halo}, what the network's unpadded convolutions lose on every side",
            fix="take a larger --halo, or auto",
        )
    if reach.window is not None:
        windows = [reach.window]
        _check_only_window(options.window, reach.window)
    elif options.window is not None:
        windows = [options.window]
        largest = max(_LARGEST_WINDOW, reach.round_up_to_lattice(max(raster.height, raster.width)) + 2 * halo + overlap)
        _check_window_size(options.window, largest)
    else:
        windows = _list_windows(raster, halo, overlap, reach)
    return [
        Tiling(
            raster.height,
            raster.width,
            window,
            halo,
            overlap,
            _choose_chunk_tiles(options, stride=window - 2 * halo - overlap),
            reach.divisor,
        )
        for window in windows
    ]


def _check_only_window(asked: int | None, only: int) -> None:
    if asked not in (None, only):
        raise InputError("--window", got=asked, expected=f"{only}, the only one that the network takes", fix="leave it")


def _check_window_size(window: int, largest: int) -> None:
    if window > largest:
        raise InputError(
            "--window",
            got=window,
            expected=f"at most {largest}, one window over the whole scene",
            fix="take a smaller --window, or auto",
        )


def _choose_chunk_tiles(options: PlanOptions, stride: int) -> int:
    if options.chunk_tiles is not None:
        return options.chunk_tiles
    return max(1, round(_CHUNK_EDGE / max(stride, 1)))


def is_halo_open(options: PlanOptions, reach: Reach) -> bool:
    """Return whether the halo depends on measured labels: the user fixes none, and none is exact."""
    return options.halo is None and reach.exact_halo is None


def resolve_halo(options: PlanOptions, reach: Reach, changed: Mapping[int, float]) -> int:
    """Return the halo of a run in pixels: as asked, otherwise exact, otherwise chosen by measured labels.

    Args:
        options: what the user fixes.
        reach: what the network needs.
        changed: halo → share of labels that more context changes; may be empty.

    Returns:
        The halo.
    """
    if options.halo is not None:
        return options.halo
    return choose_halo(changed, reach) if reach.exact_halo is None else reach.exact_halo


def candidate_halos(raster: Raster, options: PlanOptions, reach: Reach) -> tuple[int, ...]:
    """Return the halos whose effect on the labels is worth measuring.

    They lie on the lattice and double up to the exact halo, or to the largest affordable one. The halo that the user
    asks for is one of them.

    Args:
        raster: the scene and what is made of it.
        options: what the user fixes.
        reach: what the network needs.

    Returns:
        Halos in pixels, ascending; only such as a tiling can have with the other options.
    """
    window = options.window if reach.window is None else reach.window
    largest = reach.exact_halo
    if largest is None:
        largest = min(_LARGEST_CANDIDATE_HALO, (window or 4 * _LARGEST_CANDIDATE_HALO) // 4)
    if reach.window is not None:  # wider context is only seen by windows that are shifted by up to a quarter
        largest = min(largest, reach.window // 4)
    halos = {reach.least_halo, largest // reach.divisor * reach.divisor}
    halo = reach.round_up_to_lattice(_SMALLEST_CHOSEN_HALO // 2)
    while halo < largest:
        halos.add(halo)
        halo *= 2
    if options.halo is not None:
        halos.add(options.halo)
    return tuple(
        halo for halo in sorted(halos) if halo >= reach.least_halo and _is_halo_possible(raster, options, reach, halo)
    )


def _is_halo_possible(raster: Raster, options: PlanOptions, reach: Reach, halo: int) -> bool:
    """Return whether there is a tiling with this halo and the other options."""
    try:
        return bool(list_candidate_tilings(raster, replace(options, halo=halo), reach))
    except InputError:
        return False


def choose_halo(changed: Mapping[int, float], reach: Reach) -> int:
    """Return the smallest halo of at least 16 pixels beyond which more context is not worth its price.

    That is the first halo beyond which at most one label in a thousand changes, or where the next halo, about twice as
    wide, does not halve the changes. ``docs/decisions/0002`` has the reasons.

    Args:
        changed: halo in pixels → share of the labels that more context changes.
        reach: what the network needs.

    Returns:
        One of the halos of ``changed``, or ``reach.unbounded_halo`` if none of them may be chosen.
    """
    halos = sorted(halo for halo in changed if halo >= max(reach.least_halo, _SMALLEST_CHOSEN_HALO))
    for halo, wider in pairwise(halos):
        if changed[halo] <= _NEGLIGIBLE_CHANGE or changed[wider] > _WORTHWHILE_RATIO * changed[halo]:
            return halo
    return halos[-1] if halos else reach.unbounded_halo


def _list_windows(raster: Raster, halo: int, overlap: int, reach: Reach) -> list[int]:
    """Return the window edges worth comparing: for each number of tiles along an axis the smallest that covers it."""
    around = 2 * halo + overlap
    # A tiling needs a stride of at least its overlap and of at least the divisor.
    least_stride = max(reach.divisor, reach.round_up_to_lattice(overlap))
    windows: set[int] = set()
    for extent in (raster.height, raster.width):
        for count in range(1, math.ceil(extent / least_stride) + 1):
            stride = max(least_stride, reach.round_up_to_lattice(math.ceil(extent / count)))
            if stride + around <= max(_LARGEST_WINDOW, least_stride + around):
                windows.add(stride + around)
            if windows and stride <= max(around, _SMALLEST_STRIDE) and count > 1:  # smaller windows are mostly halo
                break
    return sorted(windows)
