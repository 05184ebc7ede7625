"""Finish a chunk whose tiles overlap their neighbours': add the neighbours' votes along its borders and write it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.common.memory import read_peak_memory
from seamline.pipeline.common.stopwatch import Stopwatch
from seamline.pipeline.execution.chunk_context import ChunkContext, Rasters
from seamline.pipeline.execution.run_directory import Report, Votes
from seamline.pipeline.geometry.tiling import Index, Tiling
from seamline.pipeline.geometry.votes import Array, argmax_classes
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.layer_values import compute_layers_from_votes
from seamline.pipeline.products.store_files import list_chunk_files
from seamline.pipeline.products.zarr_store import LABELS_ARRAY, write_store_raster
from seamline.pipeline.storage.atomic import sync_files


def write_chunk(context: ChunkContext, chunk: Index) -> Report:
    """Decide the pixels of a chunk on which its neighbours vote too, and write the chunk to the store.

    Only runs with overlap need this step: without, ``infer_chunk`` writes the labels.

    Args:
        context: the run.
        chunk: a chunk that is inferred, as are its neighbours above and to the left.

    Returns:
        What the step took.
    """
    watch = Stopwatch()
    with watch.stage("blend"):
        own = context.directory.load_votes(chunk)
        labelled = own.rasters[LABELS_ARRAY] != NODATA
        for band, summed in _iter_shared_bands(context.tiling, chunk, own):
            for voter in context.tiling.voters_of(chunk):
                _add_votes_of(context, voter, chunk, band, summed)
            rows, cols = band.relative_to(context.tiling.write_window_of(chunk)).to_slices()
            for name, decided in decide(context, summed).items():
                own.rasters[name][..., rows, cols] = np.where(labelled[rows, cols], decided, NODATA)
    with watch.stage("write"):
        files = context.directory.compute_digests(write_rasters(context, chunk, own.rasters))
    report = Report(chunk, watch.seconds, peak_memory=read_peak_memory(), files=files)
    context.directory.report_written(report)
    return report


def decide(context: ChunkContext, summed: Array) -> dict[str, Array]:
    """Return labels and layers by name, uint8, of summed votes (``context.vote_channels``, height, width) int32."""
    labels = argmax_classes(summed[: context.classes])
    return {LABELS_ARRAY: labels} | compute_layers_from_votes(context.layers, summed, context.classes)


def write_rasters(context: ChunkContext, chunk: Index, rasters: Rasters) -> list[Path]:
    """Write labels and layers of a chunk to the store of the run, and wait until they are on the disk.

    Args:
        context: the run.
        chunk: the chunk.
        rasters: its labels and layers, by name.

    Returns:
        Their files; Zarr writes none where there is nothing but nodata.
    """
    store, window = context.directory.store, context.tiling.write_window_of(chunk)
    files: list[Path] = []
    for name, raster in rasters.items():
        write_store_raster(store, name, window, raster)
        files += list_chunk_files(store, name, window)
    sync_files(files)
    return files


def find_top_band(tiling: Tiling, pixels: Window) -> Window:
    """Return the rows of a chunk's ``pixels`` on which tiles above it vote."""
    return Window(pixels.row, pixels.col, min(tiling.overlap, pixels.height), pixels.width)


def find_left_band(tiling: Tiling, pixels: Window) -> Window:
    """Return the columns of a chunk's ``pixels`` on which tiles to the left of it vote."""
    return Window(pixels.row, pixels.col, pixels.height, min(tiling.overlap, pixels.width))


def _iter_shared_bands(tiling: Tiling, chunk: Index, own: Votes) -> Iterator[tuple[Window, NDArray[np.int32]]]:
    """Yield each band on which neighbours vote, with a copy of the chunk's own votes there."""
    pixels = tiling.write_window_of(chunk)
    if chunk.row > 0:
        yield find_top_band(tiling, pixels), own.above.copy()
    if chunk.col > 0:
        yield find_left_band(tiling, pixels), own.left.copy()


def _add_votes_of(context: ChunkContext, voter: Index, chunk: Index, band: Window, summed: NDArray[np.int32]) -> None:
    """Add the votes of the tiles of chunk ``voter`` on the pixels of a band of ``chunk``, in place."""
    area = context.tiling.vote_window_of(voter).intersection(context.tiling.write_window_of(chunk))
    common = area.intersection(band)
    if not common.pixel_count:
        return
    strip = context.directory.load_strip(voter, chunk)
    rows, cols = common.relative_to(area).to_slices()
    into_rows, into_cols = common.relative_to(band).to_slices()
    summed[:, into_rows, into_cols] += strip[:, rows, cols]
