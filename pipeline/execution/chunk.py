"""What a worker does to one chunk: read, infer, blend, write. No scheduler in sight.

A chunk is inferred once. Without overlap its labels go straight to the store. With overlap they wait in the run
directory, beside the votes that its tiles cast on the neighbours' pixels; when the neighbours above and to the left
are inferred too, the bands along both borders are decided and the chunk is written, by one writer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.common.memory import peak_memory
from seamline.pipeline.execution.predictor import Predictor
from seamline.pipeline.execution.run_directory import Report, RunDirectory, Votes
from seamline.pipeline.geometry.taper import Array, squares, taper, votes, winners
from seamline.pipeline.geometry.tiling import Index, Tiling
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.layers import DISAGREEMENT, LAYERS, layers_of, layers_of_votes
from seamline.pipeline.products.zarr_store import VARIABLE, write_raster
from seamline.pipeline.scenes.scene import Block, Scene, read_block

Rasters = dict[str, NDArray[np.uint8]]
"""By the name of its array in the store: the labels (height, width) of a chunk and the layers beside them."""

OnDevice = Callable[[Callable[[], Any]], Any]
"""Does what it is given where and when the predictor may compute, and returns what that returns."""

QUICKLOOK = 1000
"""Pixels of a preview's longer side, at most."""


@dataclass(frozen=True)
class Job:
    """All that a worker must know of a run to work on any chunk of it; ``layers`` are wanted beside the labels."""

    scene: Scene
    tiling: Tiling
    classes: int
    directory: RunDirectory
    on_bad_block: Literal["fail", "nodata"] = "fail"
    layers: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """What votes are cast on: the classes, and the squares if windows are compared."""
        return self.classes + (DISAGREEMENT in self.layers)

    @property
    def quicklook_step(self) -> int:
        """Every how many pixels the quicklook has one."""
        return math.ceil(max(self.tiling.height, self.tiling.width) / QUICKLOOK)


@dataclass
class Stopwatch:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @staticmethod
    def now() -> float:
        """Seconds on a clock that never jumps; only differences mean anything."""
        return time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time inside to a stage."""
        started = self.now()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self.now() - started


class AbandonedError(Exception):
    """Nobody waits for the chunk any more; what was inferred of it is thrown away."""


def infer_chunk(
    job: Job, chunk: Index, predictor: Predictor, on_device: OnDevice, wanted: Callable[[], bool] = lambda: True
) -> Report:
    """Infer a chunk's tiles, and write its labels if no neighbour votes on them.

    ``on_device`` runs the network, one chunk after the other; other chunks of this process read and write
    meanwhile. A chunk that was inferred before (its worker died between saving and saying so) is not inferred again.
    Before each window it is asked whether the chunk is still ``wanted``.

    Raises:
        AbandonedError: it is not.
    """
    earlier = job.directory.report_of(chunk)
    if earlier is not None:
        return earlier
    watch = Stopwatch()
    with watch.stage("read"):
        block = read_block(job.scene, job.tiling.reads_of(chunk), job.on_bad_block)
    tiles = _Tiles(job, chunk, block, wanted)
    tiles.save_quicklook()
    if job.tiling.overlap:
        result = on_device(lambda: tiles.blended(predictor, watch))
    else:
        result = on_device(lambda: tiles.decided(predictor, watch))
    report = Report(
        chunk,
        watch.seconds,
        windows=len(tiles.wanted),
        pixels_inferred=len(tiles.wanted) * job.tiling.window**2,
        peak_memory=peak_memory(),
        device_memory=predictor.device_memory,
        bad_blocks=tuple(map(str, block.bad)),
    )
    with watch.stage("write"):
        if isinstance(result, Votes):
            job.directory.save_votes(chunk, result)
        else:
            _write(job, chunk, result)
    job.directory.report_inferred(report)
    return report


def write_chunk(job: Job, chunk: Index) -> Report:
    """Decide the bands of a chunk on which its neighbours vote too, and write it. Overlap only."""
    watch = Stopwatch()
    with watch.stage("blend"):
        own = job.directory.load_votes(chunk)
        labelled = own.rasters[VARIABLE] != NODATA
        for band, summed in _bands(job.tiling, chunk, own):
            for voter in job.tiling.voters_of(chunk):
                _add_strip(job, voter, chunk, band, summed)
            rows, cols = band.relative_to(job.tiling.pixels_of(chunk)).slices()
            for name, decided in _winning(job, summed).items():
                own.rasters[name][..., rows, cols] = np.where(labelled[rows, cols], decided, NODATA)
    with watch.stage("write"):
        _write(job, chunk, own.rasters)
    report = Report(chunk, watch.seconds, peak_memory=peak_memory())
    job.directory.report_written(report)
    return report


def _write(job: Job, chunk: Index, rasters: Rasters) -> None:
    for name, raster in rasters.items():
        write_raster(job.directory.store, name, job.tiling.pixels_of(chunk), raster)


def _winning(job: Job, summed: Array) -> dict[str, Array]:
    """Labels and layers by name of summed votes (``job.channels``, height, width)."""
    return {VARIABLE: winners(summed[: job.classes])} | layers_of_votes(job.layers, summed, job.classes)


@dataclass(frozen=True)
class _Tiles:
    """The tiles of a chunk and the block of pixels that they read."""

    job: Job
    chunk: Index
    block: Block
    still_wanted: Callable[[], bool]

    @property
    def tiling(self) -> Tiling:
        return self.job.tiling

    @property
    def own(self) -> Window:
        return self.tiling.pixels_of(self.chunk)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Which of the chunk's own pixels get a label, (height, width)."""
        return self.block.wanted[self.own.relative_to(self.tiling.reads_of(self.chunk)).slices()]

    @property
    def wanted(self) -> list[Index]:
        """The tiles that vote on at least one pixel that gets a label; the others are not inferred."""
        origin = self.tiling.reads_of(self.chunk)
        return [
            tile
            for tile in self.tiling.tiles_of(self.chunk)
            if self.block.wanted[self._support(tile).relative_to(origin).slices()].any()
        ]

    def save_quicklook(self) -> None:
        """Keep every n-th pixel of the chunk, counted from the scene's first row and column."""
        job, step = self.job, self.job.quicklook_step
        rows, cols = self.own.relative_to(self.tiling.reads_of(self.chunk)).slices()
        thinned = (
            slice(rows.start + -self.own.row % step, rows.stop, step),
            slice(cols.start + -self.own.col % step, cols.stop, step),
        )
        shown = quicklook_bands([band.name for band in job.scene.bands])
        job.directory.save_quicklook(self.chunk, self.block.pixels[shown][:, *thinned], self.block.wanted[thinned])

    def _support(self, tile: Index) -> Window:
        return self.tiling.support_of(tile).intersection(self.tiling.scene)

    def predicted(self, predictor: Predictor, watch: Stopwatch) -> Iterator[tuple[Window, Index, Array]]:
        """(support inside the scene, tile, its scores (classes, S, S)), tile by tile."""
        tiles = self.wanted
        origin = self.tiling.reads_of(self.chunk)
        places = [self.tiling.window_of(tile).relative_to(origin).slices() for tile in tiles]
        predictions = predictor.predict(
            [self.block.pixels[:, rows, cols] for rows, cols in places],
            [self.block.valid[rows, cols] for rows, cols in places],
        )
        for tile in tiles:
            if not self.still_wanted():
                raise AbandonedError
            with watch.stage("infer"):
                scores = next(predictions)
            yield self._support(tile), tile, scores

    def decided(self, predictor: Predictor, watch: Stopwatch) -> Rasters:
        """Labels and layers of the chunk where no two tiles vote on one pixel."""
        sizes = {name: LAYERS[name].shape(self.job.classes, *self.own.shape) for name in self.job.layers}
        rasters = {
            name: np.full(shape, NODATA, np.uint8) for name, shape in ({VARIABLE: self.own.shape} | sizes).items()
        }
        for support, _, scores in self.predicted(predictor, watch):
            with watch.stage("blend"):
                inside = scores[:, : support.height, : support.width]
                rows, cols = support.relative_to(self.own).slices()
                found = {VARIABLE: winners(inside)}
                if self.job.layers:
                    found |= layers_of(self.job.layers, predictor.probabilities(inside))
                for name, raster in found.items():
                    rasters[name][..., rows, cols] = predictor.to_host(raster)
        return self._masked(rasters)

    def blended(self, predictor: Predictor, watch: Stopwatch) -> Votes:
        """Labels, layers and votes of the chunk where neighbouring tiles vote on one pixel."""
        area, own, channels = self.tiling.votes_of(self.chunk), self.own, self.job.channels
        summed: Array = None
        for support, tile, scores in self.predicted(predictor, watch):
            with watch.stage("blend"):
                cast = self._cast(predictor.probabilities(scores)[:, : support.height, : support.width], tile, support)
                if summed is None:  # the first tile tells where the sums live
                    xp = array_namespace(cast)
                    summed = xp.zeros((channels, *area.shape), dtype=xp.int32, device=cast.device)
                rows, cols = support.relative_to(area).slices()
                summed[:, rows, cols] += cast
        if summed is None:  # nothing valid: nobody votes
            summed = np.zeros((channels, *area.shape), np.int32)
        with watch.stage("blend"):
            won = _winning(self.job, summed[:, : own.height, : own.width])
            rasters = self._masked({name: np.array(_host(predictor, raster)) for name, raster in won.items()})
            above, left = (
                _host(predictor, summed[:, : band.height, : band.width])
                for band in (_above(self.tiling, own), _left(self.tiling, own))
            )
            strips: dict[Index, NDArray[np.int32]] = {}
            for receiver in self.tiling.receivers_of(self.chunk):
                rows, cols = area.intersection(self.tiling.pixels_of(receiver)).relative_to(area).slices()
                strips[receiver] = _host(predictor, summed[:, rows, cols])
        return Votes(rasters, above, left, strips)

    def _masked(self, rasters: Rasters) -> Rasters:
        """The same with no data where no label is wanted, in place."""
        hidden = ~self.labelled
        for raster in rasters.values():
            raster[..., hidden] = NODATA
        return rasters

    def _cast(self, probabilities: Array, tile: Index, support: Window) -> Array:
        """A tile's votes on its support inside the scene, (channels, height, width)."""
        tapers = self._tapers(tile, support)
        cast = votes(probabilities, *tapers)
        if self.job.channels == self.job.classes:
            return cast
        return array_namespace(cast).concat([cast, squares(probabilities, *tapers)], axis=0)

    def _tapers(self, tile: Index, support: Window) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        last_row, last_col = self.tiling.tile_grid
        down = taper(self.tiling.support, self.tiling.overlap, tile.row > 0, tile.row < last_row - 1)
        across = taper(self.tiling.support, self.tiling.overlap, tile.col > 0, tile.col < last_col - 1)
        return down[: support.height], across[: support.width]


def quicklook_bands(names: Sequence[str]) -> list[int]:
    """Positions of the bands to show as red, green and blue: by name, otherwise the first ones there are."""
    if are_rgb(names):
        return [names.index(name) for name in ("red", "green", "blue")]
    return [min(position, len(names) - 1) for position in range(3)]


def are_rgb(names: Sequence[str]) -> bool:
    """Whether ``quicklook_bands`` shows red, green and blue as what they are."""
    return {"red", "green", "blue"} <= set(names)


def quicklook(job: Job) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Values (3, height, width) of every n-th pixel and where it is valid, from what the chunks kept."""
    step = job.quicklook_step
    shape = math.ceil(job.tiling.height / step), math.ceil(job.tiling.width / step)
    pixels = np.zeros((3, *shape), job.scene.dtype)
    valid = np.zeros(shape, np.bool_)
    for chunk in job.tiling.chunks():
        own = job.tiling.pixels_of(chunk)
        part, known = job.directory.load_quicklook(chunk)
        row, col = math.ceil(own.row / step), math.ceil(own.col / step)
        place = slice(row, row + known.shape[0]), slice(col, col + known.shape[1])
        pixels[:, *place], valid[place] = part, known
    bands = [job.scene.bands[k] for k in quicklook_bands([band.name for band in job.scene.bands])]
    values = [layer.astype(np.float32) * band.scale + band.offset for layer, band in zip(pixels, bands, strict=True)]
    return np.stack(values), valid


def _host(predictor: Predictor, array: Array) -> NDArray[Any]:
    return array if isinstance(array, np.ndarray) else predictor.to_host(array)


def _above(tiling: Tiling, own: Window) -> Window:
    """The rows of a chunk on which tiles above it vote."""
    return Window(own.row, own.col, min(tiling.overlap, own.height), own.width)


def _left(tiling: Tiling, own: Window) -> Window:
    """The columns of a chunk on which tiles to the left of it vote."""
    return Window(own.row, own.col, own.height, min(tiling.overlap, own.width))


def _bands(tiling: Tiling, chunk: Index, own: Votes) -> Iterator[tuple[Window, NDArray[np.int32]]]:
    """The bands along a chunk's borders with neighbours that vote on it, and its own votes there."""
    pixels = tiling.pixels_of(chunk)
    if chunk.row > 0:
        yield _above(tiling, pixels), own.above.copy()
    if chunk.col > 0:
        yield _left(tiling, pixels), own.left.copy()


def _add_strip(job: Job, voter: Index, chunk: Index, band: Window, summed: NDArray[np.int32]) -> None:
    """Add what ``voter``'s tiles say on the pixels of a band of ``chunk``, in place."""
    area = job.tiling.votes_of(voter).intersection(job.tiling.pixels_of(chunk))
    common = area.intersection(band)
    if not common.pixels:
        return
    strip = job.directory.load_strip(voter, chunk)
    rows, cols = common.relative_to(area).slices()
    into_rows, into_cols = common.relative_to(band).slices()
    summed[:, into_rows, into_cols] += strip[:, rows, cols]
