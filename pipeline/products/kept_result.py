"""An older result on the same grid, from which a new one takes what lies beside the changed chunks.

A chunk of an overview stands for two by two chunks of the level below, and a block of a COG for one chunk of its level.
So those of unchanged chunks have the bytes that they would be given anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import rasterio

from seamline.pipeline.common.layout import ZARR
from seamline.pipeline.geometry.tiling import Index
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.store_files import list_chunk_files
from seamline.pipeline.storage.atomic import link_or_copy


@dataclass(frozen=True)
class KeptResult:
    """An older result, undamaged, and where a new one may differ from it.

    Attributes:
        folder: its folder, with a sealed store and COGs.
        cogs: names of those COGs in it that are as they were published.
        changed: chunks of the full resolution whose pixels may be others.
        edge: edge of a chunk in pixels.
    """

    folder: Path
    cogs: frozenset[str]
    changed: frozenset[Index]
    edge: int

    def is_changed(self, level: int, place: Index) -> bool:
        """Return whether a chunk of a level, 0 for the full resolution, stands for pixels that may be others."""
        return place in _coarsen(self.changed, level)

    def link_chunk(self, level: int, window: Window, target: Path, name: str) -> bool:
        """Give an overview the files of a chunk of the older one, unless its pixels may be others.

        Args:
            level: number of the overview, from 1.
            window: the chunk, in pixels of the overview.
            target: group of the overview; it is named as that of the older store.
            name: name of the array.

        Returns:
            Whether the chunk is done.
        """
        if self.is_changed(level, Index(window.row // self.edge, window.col // self.edge)):
            return False
        old = list_chunk_files(self.folder / ZARR / target.name, name, window)
        for source, link in zip(old, list_chunk_files(target, name, window), strict=True):
            if source.exists():  # chunks of nothing but nodata have no file
                link.parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(source, link)
        return True

    def read_blocks(self, cog: str, level: int, places: Sequence[Index]) -> list[bytes | None]:
        """Return the compressed blocks of a level of a COG; None for those whose pixels may be others.

        Args:
            cog: name of the COG.
            level: 0 for the full resolution.
            places: rows and columns of the blocks, which are as large as chunks.
        """
        wanted = [None if self.is_changed(level, place) else place for place in places]
        if cog not in self.cogs or not any(wanted):
            return [None] * len(places)
        path, overview = self.folder / cog, level - 1 if level else None
        with rasterio.open(path) as file, path.open("rb") as data:

            def read(place: Index) -> bytes | None:
                block = f"{place.col}_{place.row}"
                start, size = (
                    file.get_tag_item(f"BLOCK_{what}_{block}", "TIFF", bidx=1, ovr=overview)
                    for what in ("OFFSET", "SIZE")
                )
                if start is None or size is None:
                    return None
                data.seek(int(start))
                return data.read(int(size))

            return [None if place is None else read(place) for place in wanted]


@lru_cache(maxsize=32)
def _coarsen(chunks: frozenset[Index], level: int) -> frozenset[Index]:
    """Return the chunks of a level that stand for any of some chunks of the full resolution."""
    return frozenset(Index(chunk.row >> level, chunk.col >> level) for chunk in chunks)
