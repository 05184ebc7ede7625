"""The pictures of a result: the scene as a small COG, and the preview of scene and segmentation side by side."""

from __future__ import annotations

from collections.abc import Sequence
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
from seamline.pipeline.storage.atomic import atomic_write

_Picture = tuple[NDArray[np.uint8], NDArray[np.bool_]]
"""A thinned scene: its colours (height, width, 3), and where there is anything to show (height, width)."""


@dataclass(frozen=True)
class ResultPictures:
    """Draws the pictures of a result. A worker does so as well as the client.

    Attributes:
        context: the run.
        classes: what the labels mean.
        folder: folder that the pictures are written to.
    """

    context: ChunkContext
    classes: tuple[LabelClass, ...]
    folder: Path

    def stretch_scene(self) -> None:
        """Make the colours of the scene from what the chunks kept of it; both pictures take them."""
        colors, shown = self._stretch(*assemble_quicklook(self.context))
        with atomic_write(self._kept, shared=True) as part, part.open("wb") as file:
            np.save(file, np.dstack([colors, shown]))

    def write_overview(self) -> None:
        """Write the picture of the scene, after ``stretch_scene``."""
        self._write_overview(*self._load_scene())

    def write_preview(self, areas: Sequence[ClassArea], labels: NDArray[np.uint8]) -> None:
        """Write the preview, after ``stretch_scene``.

        Args:
            areas: how much each class covers.
            labels: thinned labels (height, width).
        """
        colors, shown = self._load_scene()
        self._write_preview(colors if shown.any() else None, areas, labels)

    def restore(self, areas: Sequence[ClassArea], labels: NDArray[np.uint8]) -> None:
        """Write the pictures from the files of the scene; without the scene where all of a large one would be read.

        Args:
            areas: how much each class covers.
            labels: thinned labels (height, width).
        """
        scene = self.context.scene
        bands = [scene.bands[position] for position in choose_display_bands(self._band_names)]
        thumbnail = read_thumbnail(scene, bands, QUICKLOOK)
        if thumbnail is None:
            self._write_preview(None, areas, labels)
        else:
            colors, shown = self._stretch(*thumbnail)
            self._write_overview(colors, shown)
            self._write_preview(colors if shown.any() else None, areas, labels)

    @property
    def _kept(self) -> Path:
        return self.context.directory.files / "scene.npy"

    @property
    def _band_names(self) -> list[str]:
        return [band.name for band in self.context.scene.bands]

    def _load_scene(self) -> _Picture:
        kept = np.load(self._kept)
        return np.ascontiguousarray(kept[..., :3]), kept[..., 3] > 0

    def _stretch(self, pixels: NDArray[np.float32], valid: NDArray[np.bool_]) -> _Picture:
        return stretch(pixels, valid, rgb=has_true_color(self._band_names)), valid

    def _write_overview(self, colors: NDArray[np.uint8], shown: NDArray[np.bool_]) -> None:
        step = self.context.quicklook_step
        write_scene_picture(colors, shown, self.context.scene.grid, step, self.folder / OVERVIEW)

    def _write_preview(
        self, rgb: NDArray[np.uint8] | None, areas: Sequence[ClassArea], labels: NDArray[np.uint8]
    ) -> None:
        """Write scene (h, w, 3) and segmentation side by side; the segmentation alone without a scene."""
        scene = self.context.scene
        height, width = scene.grid.shape
        note = f"{format_date(scene)}  ·  {width:,} × {height:,} pixels  ·  {format_crs(scene)}"
        shares = {row.name: row.share for row in areas}
        write_preview(rgb, labels, self.classes, shares, Caption(scene.id, note, scene.grid), self.folder / PREVIEW)
