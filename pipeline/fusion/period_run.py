"""The run of a period of a map: its store, and the chunks that workers fuse and write to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seamline.pipeline.common.memory import read_peak_memory
from seamline.pipeline.common.stopwatch import Stopwatch
from seamline.pipeline.execution.run_directory import Report, RunDirectory
from seamline.pipeline.fusion.fusing import FusedChunk
from seamline.pipeline.fusion.scene_votes import fuse_window, open_map_scene
from seamline.pipeline.geometry.area_mask import mask_area
from seamline.pipeline.geometry.map_grid import MapGrid, list_touched_chunks
from seamline.pipeline.geometry.tiling import Index
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.mosaic.map_record import MapRecord, MapScene, read_map_record
from seamline.pipeline.products.layers import LAYERS
from seamline.pipeline.products.store_files import list_chunk_files, renew_store
from seamline.pipeline.products.zarr_store import LABELS_ARRAY, list_store_rasters, write_store_raster
from seamline.pipeline.storage.atomic import link_or_copy, remove, sync_files


@dataclass(frozen=True)
class PeriodRun:
    """A period of a map while its chunks are fused. It is small; workers read the map's record from the disk.

    Attributes:
        period: name of the period.
        record: folder with the record of the map as it is to be.
        directory: run directory of the period; its store takes the chunks.
    """

    period: str
    record: Path
    directory: RunDirectory

    def fuse_chunk(self, chunk: Index) -> Report:
        """Fuse a chunk, write it, and report it in the run directory; runs on a worker.

        Raises:
            SeamlineError: the files of a scene cannot be read; names the scene.
        """
        watch = Stopwatch()
        with watch.stage("fuse"):
            fused = _load_votes(self.record, self.period).fuse(chunk)
        with watch.stage("write"):
            files = self._write(_load_votes(self.record, self.period).grid.window_of(chunk), fused)
        digests = self.directory.compute_digests(files)
        report = Report(chunk, watch.seconds, peak_memory=read_peak_memory(), files=digests)
        self.directory.report_written(report)
        return report

    def _write(self, window: Window, fused: FusedChunk) -> list[Path]:
        """Write a chunk to the store; return its files."""
        store, files = self.directory.store, list[Path]()
        # Nodata, not 0, where nobody has seen the ground, so that chunks of nothing else take no space.
        seen = np.where(fused.observations == 0, LAYERS["observations"].nodata, fused.observations).astype(np.uint16)
        rasters = {LABELS_ARRAY: fused.labels, **fused.layers, "observations": seen}
        for name in list_store_rasters(store):
            write_store_raster(store, name, window, rasters[name])
            files += [path for path in list_chunk_files(store, name, window) if path.exists()]
        sync_files(files)
        return files


def open_period_store(
    run: PeriodRun,
    create: Callable[[Path], None],
    kept: Mapping[Index, Index],
    old: Path | None,
    old_grid: MapGrid | None,
) -> None:
    """Make the store of a period, with the chunks that are taken over from the map as it is; or go on with it.

    Args:
        run: the run of the period.
        create: creates the store, empty.
        kept: chunks of the map as it is, by the chunks that have the same content now.
        old: store of the period as it is; None if nothing is taken over.
        old_grid: its grid.
    """
    run.directory.make_folders()
    store = run.directory.store
    if store.exists():
        renew_store(store, create)
        return
    part = store.with_name("part.zarr")
    remove(part)
    create(part)
    if old is not None and old_grid is not None:
        grid = _load_votes(run.record, run.period).grid
        for name in list_store_rasters(part):
            for chunk, twin in kept.items():
                _link_chunk(old, old_grid.window_of(twin), part, grid.window_of(chunk), name)
    part.rename(store)


def _link_chunk(old: Path, old_window: Window, new: Path, new_window: Window, name: str) -> None:
    """Give a store the files of a window of another store, where there are any."""
    pairs = zip(list_chunk_files(old, name, old_window), list_chunk_files(new, name, new_window), strict=True)
    for source, target in pairs:
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(source, target)


def find_fused(run: PeriodRun) -> dict[Index, Report]:
    """Return the reports of the chunks that an earlier start of the run fused, and whose files are as they were."""
    reports = run.directory.read_written()
    return {chunk: report for chunk, report in reports.items() if run.directory.has_files_of(report)}


@dataclass(frozen=True)
class _PeriodVotes:
    """What votes on the pixels of a period.

    Attributes:
        grid: grid of the map.
        record: the record of the map.
        scenes: scenes of the period, in order.
    """

    grid: MapGrid
    record: MapRecord
    scenes: tuple[MapScene, ...]

    def fuse(self, chunk: Index) -> FusedChunk:
        """Return the fused rasters of a chunk."""
        definition, window = self.record.definition, self.grid.window_of(chunk)
        classes = definition.label_classes
        sources = [open_map_scene(scene, classes) for scene in self._list_scenes(window)]
        fused = fuse_window(self.grid, window, sources, classes, definition.unseen_positions)
        area = definition.area
        return fused if area is None else fused.mask(mask_area(area, self.grid.geobox, window))

    def _list_scenes(self, window: Window) -> Sequence[MapScene]:
        """Return the scenes that may have pixels in a window."""
        row, col, stop_row, stop_col = self._boxes.T
        meets = (row < window.stop_row) & (stop_row > window.row) & (col < window.stop_col) & (stop_col > window.col)
        return [self.scenes[position] for position in np.flatnonzero(meets)]

    @cached_property
    def _boxes(self) -> NDArray[np.int64]:
        """First row and column of each scene on the map, and those behind its last ones, (scenes, 4)."""
        boxes = np.zeros((len(self.scenes), 4), np.int64)
        for box, scene in zip(boxes, self.scenes, strict=True):
            windows = [self.grid.window_of(chunk) for chunk in list_touched_chunks(self.grid, scene.grid.geobox)]
            if windows:
                box[:] = (
                    min(window.row for window in windows),
                    min(window.col for window in windows),
                    max(window.stop_row for window in windows),
                    max(window.stop_col for window in windows),
                )
        return boxes


@lru_cache(maxsize=8)
def _load_votes(record: Path, period: str) -> _PeriodVotes:
    """Return what votes in a period. The folder of the record is of one start of a run, and never changes."""
    found = read_map_record(record)
    if found is None:
        raise FileNotFoundError(f"{record} has no record of a map")
    return _PeriodVotes(found.map_grid, found, found.periods[period])
