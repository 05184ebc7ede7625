"""A thinned copy of the scene, kept by the chunks while they read it, so that the preview reads nothing again."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seamline.pipeline.execution.chunk_context import ChunkContext
from seamline.pipeline.geometry.tiling import Index
from seamline.pipeline.scenes.scene import Block, choose_display_bands


def save_quicklook(context: ChunkContext, chunk: Index, block: Block) -> Path:
    """Keep every n-th pixel of a chunk, counted from the scene's first row and column.

    Args:
        context: the run.
        chunk: the chunk whose pixels are kept.
        block: the pixels that the chunk's tiles read, with their halo.

    Returns:
        The file that holds them.
    """
    own, step = context.tiling.write_window_of(chunk), context.quicklook_step
    rows, cols = own.relative_to(context.tiling.read_window_of(chunk)).to_slices()
    thinned = (
        slice(rows.start + -own.row % step, rows.stop, step),
        slice(cols.start + -own.col % step, cols.stop, step),
    )
    shown = choose_display_bands([band.name for band in context.scene.bands])
    return context.directory.save_quicklook(chunk, block.pixels[shown][:, *thinned], block.label_mask[thinned])


def assemble_quicklook(context: ChunkContext) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Put together what the chunks kept.

    Args:
        context: a run whose chunks are all inferred.

    Returns:
        Values (3, height, width) in the scene's quantity, thinned by ``context.quicklook_step``, and a mask
        (height, width) that is True where a label was wanted.
    """
    tiling, step = context.tiling, context.quicklook_step
    shape = math.ceil(tiling.height / step), math.ceil(tiling.width / step)
    pixels = np.zeros((3, *shape), context.scene.dtype)
    valid = np.zeros(shape, np.bool_)
    for chunk in tiling.chunks():
        own = tiling.write_window_of(chunk)
        part, part_valid = context.directory.load_quicklook(chunk)
        row, col = math.ceil(own.row / step), math.ceil(own.col / step)
        place = slice(row, row + part_valid.shape[0]), slice(col, col + part_valid.shape[1])
        pixels[:, *place], valid[place] = part, part_valid
    names = [band.name for band in context.scene.bands]
    bands = [context.scene.bands[position] for position in choose_display_bands(names)]
    with np.errstate(over="ignore"):  # nodata values of float64
        values = [
            layer.astype(np.float32) * band.scale + band.offset for layer, band in zip(pixels, bands, strict=True)
        ]
    return np.stack(values), valid
