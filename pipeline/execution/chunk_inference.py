"""Infer a chunk on a worker: read its pixels, run the network on its tiles, keep labels or votes.

A chunk is inferred once. Without overlap its labels go straight to the store. With overlap they wait in the run
directory, beside the votes that its tiles cast on the neighbours' pixels; when the neighbours above and to the left
are inferred too, ``chunk_blending.write_chunk`` decides the bands along both borders and writes the chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.common.memory import read_peak_memory
from seamline.pipeline.common.stopwatch import Stopwatch
from seamline.pipeline.execution.chunk_blending import decide, find_left_band, find_top_band, write_rasters
from seamline.pipeline.execution.chunk_context import ChunkContext, Rasters
from seamline.pipeline.execution.predictor import DeviceBlock, Fetched, Predictor
from seamline.pipeline.execution.quicklook import save_quicklook
from seamline.pipeline.execution.run_directory import Report, Votes
from seamline.pipeline.geometry.taper import DeviceTapers
from seamline.pipeline.geometry.tiling import Index, Tiling
from seamline.pipeline.geometry.votes import Array, argmax_classes, weighted_scores, weighted_squares
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.layer_values import compute_layers
from seamline.pipeline.products.layers import LAYERS
from seamline.pipeline.products.zarr_store import LABELS_ARRAY
from seamline.pipeline.raster_io.block_cache import BlockCache
from seamline.pipeline.scenes.scene import Block, read_block

OnDevice = Callable[[Callable[[], Any]], Any]
"""Runs a callable on the inference thread and returns its result."""


_ABOVE, _LEFT = "votes above", "votes to the left"
"""Names of what neighbours' votes are added to; strips have the neighbours' own indices."""


class ChunkCancelledError(Exception):
    """Raised when the chunk's task was cancelled; partial output is discarded."""


def infer_chunk(
    context: ChunkContext,
    chunk: Index,
    predictor: Predictor,
    on_device: OnDevice,
    is_cancelled: Callable[[], bool] = lambda: False,
    blocks: BlockCache | None = None,
) -> Report:
    """Infer a chunk's tiles, and write its labels if no neighbour votes on them.

    The network runs on the inference thread, one chunk after the other; other chunks of this process are read, copied
    to the device and written meanwhile. On a device that computes by itself the inference thread only enqueues: it
    begins the next chunk while the device computes the last windows of this one; the chunk's own thread waits for them.

    A chunk that was inferred before (its worker died after it had written the report, before the client had the
    result) is not inferred again.

    Args:
        context: the run.
        chunk: row and column of the chunk.
        predictor: the network, loaded in this process.
        on_device: runs a callable on the inference thread.
        is_cancelled: asked before each window.
        blocks: decoded blocks that the chunks of this process share.

    Returns:
        What the step took.

    Raises:
        BadBlockError: a block of the source cannot be read, and the run does not take such blocks for nodata.
        ChunkCancelledError: ``is_cancelled`` said so.
    """
    earlier = context.directory.read_report(chunk)
    if earlier is not None:
        return earlier
    watch = Stopwatch()
    with watch.stage("read"):
        block = read_block(context.scene, context.tiling.read_window_of(chunk), context.on_bad_block, blocks)
    quicklook = save_quicklook(context, chunk, block)
    tiles = _ChunkTiles(context, chunk, block.label_mask, is_cancelled)
    result = _infer_tiles(tiles, block, predictor, on_device, watch)
    files, votes = [quicklook], None
    with watch.stage("write"):
        if isinstance(result, Votes):
            votes = context.directory.save_votes(chunk, result)
        else:
            files += write_rasters(context, chunk, result)
        digests = context.directory.compute_digests(files)
    report = Report(
        chunk,
        watch.seconds,
        windows=len(tiles.labelled_tiles),
        pixels_inferred=len(tiles.labelled_tiles) * context.tiling.window**2,
        peak_memory=read_peak_memory(),
        device_memory=predictor.device_memory,
        bad_blocks=tuple(map(str, block.bad_blocks)),
        files=digests,
        votes=votes,
    )
    context.directory.report_inferred(report)
    return report


def _infer_tiles(
    tiles: _ChunkTiles, block: Block, predictor: Predictor, on_device: OnDevice, watch: Stopwatch
) -> Rasters | Votes:
    """Return what is inferred of a chunk; nothing of it is on the device any more."""
    if not tiles.labelled_tiles:
        return tiles.make_empty_result()
    with predictor.load(block.pixels, block.valid, block.label_mask, tiles.result_bytes) as loaded:
        return tiles.collect(on_device(lambda: tiles.infer(predictor, loaded, watch)).result())


@dataclass(frozen=True)
class _ChunkTiles:
    """The tiles of a chunk.

    Attributes:
        context: the run.
        chunk: row and column of the chunk.
        label_mask: which pixels of the chunk's block get a label, (height, width).
        is_cancelled: asked before each window.
    """

    context: ChunkContext
    chunk: Index
    label_mask: NDArray[np.bool_]
    is_cancelled: Callable[[], bool]

    @property
    def tiling(self) -> Tiling:
        return self.context.tiling

    @cached_property
    def pixels(self) -> Window:
        """The pixels that the chunk writes."""
        return self.tiling.write_window_of(self.chunk)

    @cached_property
    def area(self) -> Window:
        """The pixels that the chunk's tiles vote on."""
        return self.tiling.vote_window_of(self.chunk)

    @cached_property
    def origin(self) -> Window:
        """The pixels of the chunk's block."""
        return self.tiling.read_window_of(self.chunk)

    @cached_property
    def labelled_tiles(self) -> list[Index]:
        """Tiles that vote on at least one pixel that gets a label; the others are not inferred."""
        return [
            tile
            for tile in self.tiling.tiles_of(self.chunk)
            if self.label_mask[self._support(tile).relative_to(self.origin).to_slices()].any()
        ]

    @property
    def result_bytes(self) -> int:
        """Bytes of labels, layers and votes."""
        votes = np.dtype(np.int32).itemsize * self.context.vote_channels * self.area.pixel_count
        rasters = sum(math.prod(shape) for shape in self._raster_shapes.values())
        return rasters + (votes if self.tiling.overlap else 0)

    @property
    def _raster_shapes(self) -> dict[str, tuple[int, ...]]:
        layers = {name: LAYERS[name].shape(self.context.classes, *self.pixels.shape) for name in self.context.layers}
        return {LABELS_ARRAY: self.pixels.shape, **layers}

    def _support(self, tile: Index) -> Window:
        """The support of a tile inside the scene."""
        return self.tiling.support_of(tile).intersection(self.tiling.scene_window)

    def make_empty_result(self) -> Rasters | Votes:
        """Return what there is of a chunk none of whose tiles is inferred: no labels and no votes."""
        arrays: dict[str | Index, NDArray[Any]] = {}
        for name, shape in self._raster_shapes.items():
            arrays[name] = np.full(shape, NODATA, np.uint8)
        if self.tiling.overlap:
            for place, window in self._vote_windows.items():
                arrays[place] = np.zeros((self.context.vote_channels, *window.shape), np.int32)
        return self.collect(arrays)

    def infer(self, predictor: Predictor, block: DeviceBlock, watch: Stopwatch) -> Fetched[str | Index]:
        """Enqueue all that is inferred of the chunk, and the way back of its labels, layers and votes."""
        if self.tiling.overlap:
            arrays = self._infer_votes(predictor, block, watch)
        else:
            arrays = self._infer_rasters(predictor, block, watch)
        return predictor.fetch(block, arrays)

    def collect(self, arrays: dict[str | Index, NDArray[Any]]) -> Rasters | Votes:
        """Return labels and layers of the arrays that ``infer`` fetches, or votes and the like of overlapping tiles."""
        rasters = {name: arrays[name] for name in self._raster_shapes}
        if not self.tiling.overlap:
            return rasters
        strips = {receiver: arrays[receiver] for receiver in self.tiling.receivers_of(self.chunk)}
        return Votes(rasters, arrays[_ABOVE], arrays[_LEFT], strips)

    def _predict(
        self, predictor: Predictor, block: DeviceBlock, watch: Stopwatch
    ) -> Iterator[tuple[Window, Index, Array]]:
        """Yield (support inside the scene, tile, its scores (classes, S, S)) for each tile that is inferred."""
        places = [self.tiling.window_of(tile).relative_to(self.origin).to_slices() for tile in self.labelled_tiles]
        predictions = predictor.infer(block, places)
        for tile in self.labelled_tiles:
            if self.is_cancelled():
                raise ChunkCancelledError
            with watch.stage("infer"):
                scores = next(predictions)
            yield self._support(tile), tile, scores

    def _infer_rasters(self, predictor: Predictor, block: DeviceBlock, watch: Stopwatch) -> dict[str | Index, Array]:
        """Return labels and layers of a chunk in which no two tiles vote on one pixel."""
        rasters: dict[str, Array] = {}
        for support, _, scores in self._predict(predictor, block, watch):
            with watch.stage("blend"):
                inside = scores[:, : support.height, : support.width]
                rows, cols = support.relative_to(self.pixels).to_slices()
                decided = {LABELS_ARRAY: argmax_classes(inside)}
                if self.context.layers:
                    decided |= compute_layers(self.context.layers, predictor.probabilities(inside))
                for name, values in decided.items():
                    if name not in rasters:  # the first tile shows on which device they live
                        xp = array_namespace(values)
                        rasters[name] = xp.zeros(self._raster_shapes[name], dtype=xp.uint8, device=values.device)
                    rasters[name][..., rows, cols] = values
        with watch.stage("blend"):
            return self._mask(rasters, block)

    def _infer_votes(self, predictor: Predictor, block: DeviceBlock, watch: Stopwatch) -> dict[str | Index, Array]:
        """Return labels, layers and votes of a chunk in which neighbouring tiles vote on the same pixels."""
        summed: Array = None
        tapers = DeviceTapers(self.tiling, predictor.upload)
        for support, tile, scores in self._predict(predictor, block, watch):
            with watch.stage("blend"):
                probabilities = predictor.probabilities(scores)[:, : support.height, : support.width]
                cast = self._weigh(probabilities, *tapers.of(tile, support))
                if summed is None:  # the first tile shows on which device the sums live
                    xp, shape = array_namespace(cast), (self.context.vote_channels, *self.area.shape)
                    summed = xp.zeros(shape, dtype=xp.int32, device=cast.device)
                rows, cols = support.relative_to(self.area).to_slices()
                summed[:, rows, cols] += cast
        with watch.stage("blend"):
            own = self.pixels
            decided = self._mask(decide(self.context, summed[:, : own.height, : own.width]), block)
            bands = {name: window.relative_to(self.area).to_slices() for name, window in self._vote_windows.items()}
            return {**decided, **{name: summed[:, rows, cols] for name, (rows, cols) in bands.items()}}

    @property
    def _vote_windows(self) -> dict[str | Index, Window]:
        """Where votes are kept for later: what chunks above and to the left vote on, too, and what is of neighbours."""
        return {
            _ABOVE: find_top_band(self.tiling, self.pixels),
            _LEFT: find_left_band(self.tiling, self.pixels),
            **{
                receiver: self.area.intersection(self.tiling.write_window_of(receiver))
                for receiver in self.tiling.receivers_of(self.chunk)
            },
        }

    def _mask(self, rasters: dict[str, Array], block: DeviceBlock) -> dict[str | Index, Array]:
        """Return rasters with nodata where the chunk's pixels get no label."""
        labelled = block.label_mask[self.pixels.relative_to(self.origin).to_slices()]
        xp = array_namespace(labelled)
        nodata = xp.full((), NODATA, dtype=xp.uint8, device=labelled.device)
        return {name: xp.where(labelled, raster, nodata) for name, raster in rasters.items()}

    def _weigh(self, probabilities: Array, down: Array, across: Array) -> Array:
        """Return a tile's votes on its support inside the scene, (vote channels, height, width) int32."""
        cast = weighted_scores(probabilities, down, across)
        if self.context.vote_channels == self.context.classes:
            return cast
        return array_namespace(cast).concat([cast, weighted_squares(probabilities, down, across)], axis=0)
