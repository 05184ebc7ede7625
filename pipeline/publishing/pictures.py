"""The pictures of a result: the scene as a small COG, and the preview of scene and segmentation side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.common.layout import OVERVIEW, PREVIEW
from seamline.pipeline.execution.chunk_context import QUICKLOOK, ChunkContext
from seamline.pipeline.execution.quicklook import assemble_quicklook
from seamline.pipeline.products.run_record import ClassArea
from seamline.pipeline.report.formatting import format_crs, format_date
from seamline.pipeline.report.preview import Caption, stretch, write_preview
from seamline.pipeline.report.thumbnail import read_thumbnail, write_scene_picture
from seamline.pipeline.scenes.scene import choose_display_bands, has_true_color


@dataclass(frozen=True)
class ResultPictures:
    """What the pictures of a result show. A worker draws them as well as the client.

    Attributes:
        context: the run.
        classes: what the labels mean.
        areas: how much each class covers.
        labels: thinned labels (height, width).
        folder: folder that the pictures are written to.
    """

    context: ChunkContext
    classes: tuple[LabelClass, ...]
    areas: tuple[ClassArea, ...]
    labels: NDArray[np.uint8]
    folder: Path

    def write(self) -> None:
        """Write the pictures from what the chunks kept of the scene."""
        self._write(*assemble_quicklook(self.context))

    def restore(self) -> None:
        """Write the pictures from the files of the scene; without the scene where all of a large one would be read."""
        scene = self.context.scene
        bands = [scene.bands[position] for position in choose_display_bands(self._band_names)]
        thumbnail = read_thumbnail(scene, bands, QUICKLOOK)
        if thumbnail is None:
            self._write_preview(None)
        else:
            self._write(*thumbnail)

    @property
    def _band_names(self) -> list[str]:
        return [band.name for band in self.context.scene.bands]

    def _write(self, pixels: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
        """Write both pictures from the values (3, h, w) of a thinned scene, and where they are valid (h, w)."""
        rgb = stretch(pixels, valid, rgb=has_true_color(self._band_names))
        write_scene_picture(rgb, valid, self.context.scene.grid, self.context.quicklook_step, self.folder / OVERVIEW)
        self._write_preview(rgb if valid.any() else None)

    def _write_preview(self, rgb: NDArray[np.uint8] | None) -> None:
        """Write scene (h, w, 3) and segmentation side by side; the segmentation alone without a scene."""
        scene = self.context.scene
        height, width = scene.grid.shape
        note = f"{format_date(scene)}  ·  {width:,} × {height:,} pixels  ·  {format_crs(scene)}"
        shares = {row.name: row.share for row in self.areas}
        caption = Caption(scene.id, note, scene.grid)
        write_preview(rgb, self.labels, self.classes, shares, caption, self.folder / PREVIEW)
