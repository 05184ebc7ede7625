"""Infer a chunk on a worker: read its pixels, run the network on its tiles, keep labels or votes.

A chunk is inferred once. Without overlap its labels go straight to the store. With overlap they wait in the run
directory, beside the votes that its tiles cast on the neighbours' pixels; when the neighbours above and to the left
are inferred too, ``chunk_blending.write_chunk`` decides the bands along both borders and writes the chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.common.memory import read_peak_memory
from seamline.pipeline.common.stopwatch import Stopwatch
from seamline.pipeline.execution.chunk_blending import decide, find_left_band, find_top_band, write_rasters
from seamline.pipeline.execution.chunk_context import ChunkContext, Rasters
from seamline.pipeline.execution.predictor import Predictor
from seamline.pipeline.execution.quicklook import save_quicklook
from seamline.pipeline.execution.run_directory import Report, Votes
from seamline.pipeline.geometry.taper import make_taper
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

    The network runs on the inference thread, one chunk after the other; other chunks of this process read and write
    meanwhile. A chunk that was inferred before (its worker died after it had written the report, before the client had
    the result) is not inferred again.

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
    tiles = _ChunkTiles(context, chunk, block, is_cancelled)
    if context.tiling.overlap:
        result = on_device(lambda: tiles.infer_votes(predictor, watch))
    else:
        result = on_device(lambda: tiles.infer_rasters(predictor, watch))
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


@dataclass(frozen=True)
class _ChunkTiles:
    """The tiles of a chunk and the block of pixels that they read."""

    context: ChunkContext
    chunk: Index
    block: Block
    is_cancelled: Callable[[], bool]

    @property
    def tiling(self) -> Tiling:
        return self.context.tiling

    @property
    def pixels(self) -> Window:
        """The pixels that the chunk writes."""
        return self.tiling.write_window_of(self.chunk)

    @property
    def label_mask(self) -> NDArray[np.bool_]:
        """Which of the chunk's own pixels get a label, (height, width)."""
        return self.block.label_mask[self.pixels.relative_to(self.tiling.read_window_of(self.chunk)).to_slices()]

    @property
    def labelled_tiles(self) -> list[Index]:
        """Tiles that vote on at least one pixel that gets a label; the others are not inferred."""
        origin = self.tiling.read_window_of(self.chunk)
        return [
            tile
            for tile in self.tiling.tiles_of(self.chunk)
            if self.block.label_mask[self._support(tile).relative_to(origin).to_slices()].any()
        ]

    def _support(self, tile: Index) -> Window:
        """The support of a tile inside the scene."""
        return self.tiling.support_of(tile).intersection(self.tiling.scene_window)

    def predict(self, predictor: Predictor, watch: Stopwatch) -> Iterator[tuple[Window, Index, Array]]:
        """Yield (support inside the scene, tile, its scores (classes, S, S)) for each tile that is inferred."""
        tiles = self.labelled_tiles
        origin = self.tiling.read_window_of(self.chunk)
        places = [self.tiling.window_of(tile).relative_to(origin).to_slices() for tile in tiles]
        predictions = predictor.predict(
            [self.block.pixels[:, rows, cols] for rows, cols in places],
            [self.block.valid[rows, cols] for rows, cols in places],
        )
        for tile in tiles:
            if self.is_cancelled():
                raise ChunkCancelledError
            with watch.stage("infer"):
                scores = next(predictions)
            yield self._support(tile), tile, scores

    def infer_rasters(self, predictor: Predictor, watch: Stopwatch) -> Rasters:
        """Return labels and layers of a chunk in which no two tiles vote on one pixel."""
        shapes = {LABELS_ARRAY: self.pixels.shape} | {
            name: LAYERS[name].shape(self.context.classes, *self.pixels.shape) for name in self.context.layers
        }
        rasters = {name: np.full(shape, NODATA, np.uint8) for name, shape in shapes.items()}
        for support, _, scores in self.predict(predictor, watch):
            with watch.stage("blend"):
                inside = scores[:, : support.height, : support.width]
                rows, cols = support.relative_to(self.pixels).to_slices()
                decided = {LABELS_ARRAY: argmax_classes(inside)}
                if self.context.layers:
                    decided |= compute_layers(self.context.layers, predictor.probabilities(inside))
                for name, raster in decided.items():
                    rasters[name][..., rows, cols] = predictor.to_host(raster)
        return self._mask(rasters)

    def infer_votes(self, predictor: Predictor, watch: Stopwatch) -> Votes:
        """Return labels, layers and votes of a chunk in which neighbouring tiles vote on the same pixels."""
        area, channels = self.tiling.vote_window_of(self.chunk), self.context.vote_channels
        summed: Array = None
        for support, tile, scores in self.predict(predictor, watch):
            with watch.stage("blend"):
                probabilities = predictor.probabilities(scores)[:, : support.height, : support.width]
                cast = self._weigh(probabilities, tile, support)
                if summed is None:  # the first tile shows on which device the sums live
                    xp = array_namespace(cast)
                    summed = xp.zeros((channels, *area.shape), dtype=xp.int32, device=cast.device)
                rows, cols = support.relative_to(area).to_slices()
                summed[:, rows, cols] += cast
        if summed is None:  # no tile has a pixel to label
            summed = np.zeros((channels, *area.shape), np.int32)
        with watch.stage("blend"):
            return self._pack_votes(predictor, summed)

    def _pack_votes(self, predictor: Predictor, summed: Array) -> Votes:
        """Cut the summed votes (channels, height, width) into what is final, what waits, and what neighbours need."""
        area, own = self.tiling.vote_window_of(self.chunk), self.pixels
        decided = decide(self.context, summed[:, : own.height, : own.width])
        rasters = self._mask({name: np.array(_to_host(predictor, raster)) for name, raster in decided.items()})
        above, left = (
            _to_host(predictor, summed[:, : band.height, : band.width])
            for band in (find_top_band(self.tiling, own), find_left_band(self.tiling, own))
        )
        strips: dict[Index, NDArray[np.int32]] = {}
        for receiver in self.tiling.receivers_of(self.chunk):
            rows, cols = area.intersection(self.tiling.write_window_of(receiver)).relative_to(area).to_slices()
            strips[receiver] = _to_host(predictor, summed[:, rows, cols])
        return Votes(rasters, above, left, strips)

    def _mask(self, rasters: Rasters) -> Rasters:
        """Set the pixels that get no label to nodata, in place."""
        hidden = ~self.label_mask
        for raster in rasters.values():
            raster[..., hidden] = NODATA
        return rasters

    def _weigh(self, probabilities: Array, tile: Index, support: Window) -> Array:
        """Return a tile's votes on its support inside the scene, (vote channels, height, width) int32."""
        tapers = self._tapers(tile, support)
        cast = weighted_scores(probabilities, *tapers)
        if self.context.vote_channels == self.context.classes:
            return cast
        return array_namespace(cast).concat([cast, weighted_squares(probabilities, *tapers)], axis=0)

    def _tapers(self, tile: Index, support: Window) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        last_row, last_col = self.tiling.tile_grid
        down = make_taper(self.tiling.support, self.tiling.overlap, tile.row > 0, tile.row < last_row - 1)
        across = make_taper(self.tiling.support, self.tiling.overlap, tile.col > 0, tile.col < last_col - 1)
        return down[: support.height], across[: support.width]


def _to_host(predictor: Predictor, array: Array) -> NDArray[Any]:
    return array if isinstance(array, np.ndarray) else predictor.to_host(array)
