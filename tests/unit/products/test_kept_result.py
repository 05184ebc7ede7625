"""Overviews and COGs that take unchanged parts from an older result have the bytes of those made from scratch."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.geometry.tiling import Index
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products import cog, overviews
from seamline.pipeline.products.cog import RasterContent, compress_cog, describe_labels, describe_layer
from seamline.pipeline.products.kept_result import KeptResult
from seamline.pipeline.products.layers import LAYERS
from seamline.pipeline.products.overviews import write_overviews
from seamline.pipeline.products.store_files import list_chunk_files
from seamline.pipeline.products.zarr_store import ZarrLayout, create_store, list_store_rasters, write_store_raster

CHUNK = 512
CLASSES = (LabelClass(0, "land", (1, 2, 3)), LabelClass(1, "water", (4, 5, 6)))
NAMES = ("probabilities", "observations", "last_date")
Values = dict[str, np.ndarray]


def make_values(grid: GeoBox, seed: int, empty: bool = False) -> Values:
    """Rows of equal numbers: quick to compress, and another mode and average in each chunk."""
    height, width = grid.shape
    rows = np.random.default_rng(seed).integers(0, 200, height)
    base = np.broadcast_to(rows[:, None], (height, width))
    values: Values = {
        "segmentation": (base % 2).astype(np.uint8),
        "probabilities": np.stack([base, 250 - base]).astype(np.uint8),
        "observations": (base * 300).astype(np.uint16),
        "last_date": (base * 200 + 9).astype(np.uint16),
    }
    return {name: np.full_like(array, np.iinfo(array.dtype).max) for name, array in values.items()} if empty else values


def list_contents() -> dict[str, RasterContent]:
    return {"segmentation": describe_labels(CLASSES)} | {name: describe_layer(LAYERS[name], CLASSES) for name in NAMES}


def write_result(
    folder: Path,
    grid: GeoBox,
    values: Values,
    layout: ZarrLayout,
    kept: KeptResult | None = None,
) -> None:
    """Write store, overviews and COGs; unchanged chunks of the store are links to those of the kept result."""
    store = folder / "segmentation.zarr"
    create_store(store, grid, CLASSES, layout, title="a", layers=NAMES)
    rows, cols = (range(-(-size // CHUNK)) for size in grid.shape)
    for name in list_store_rasters(store):
        for place in (Index(row, col) for row in rows for col in cols):
            window = Window(place.row * CHUNK, place.col * CHUNK, CHUNK, CHUNK).intersection(Window(0, 0, *grid.shape))
            if kept is None or place in kept.changed:
                write_store_raster(store, name, window, values[name][(..., *window.to_slices())])
            else:
                link_files(kept.folder / "segmentation.zarr", store, name, window)
    write_overviews(store, grid, CLASSES, folder / "scratch", kept=kept)
    for name, content in list_contents().items():
        compress_cog(store, grid, content, folder / "scratch", {"A": "b"}, kept=kept).join(folder / f"{name}.tif")


def link_files(old: Path, new: Path, name: str, window: Window) -> None:
    for source, target in zip(list_chunk_files(old, name, window), list_chunk_files(new, name, window), strict=True):
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, target)


def read_all(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def replace_chunks(old: Values, other: Values, chunks: Sequence[Index]) -> Values:
    mixed = {name: array.copy() for name, array in old.items()}
    for chunk in chunks:
        window = Window(chunk.row * CHUNK, chunk.col * CHUNK, CHUNK, CHUNK)
        for name, array in mixed.items():
            array[(..., *window.to_slices())] = other[name][(..., *window.to_slices())]
    return mixed


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_is_taken_from_an_older_result_has_the_bytes_of_one_from_scratch(data: st.DataObject) -> None:
    height, width = data.draw(st.sampled_from([(1500, 2600), (511, 1025), (700, 513), (1, 1700)]))
    grid = GeoBox((height, width), Affine(10, 0, 500_000, 0, -10, 5_000_000), "EPSG:32632")
    places = [Index(row, col) for row in range(-(-height // CHUNK)) for col in range(-(-width // CHUNK))]
    changed = data.draw(st.lists(st.sampled_from(places), unique=True))
    layout = ZarrLayout(CHUNK, zarr_format=data.draw(st.sampled_from([3, 2])))
    empty_before, empty_after = data.draw(st.sampled_from([(False, False), (True, False), (False, True)]))
    old = make_values(grid, 0, empty_before)
    new = replace_chunks(old, make_values(grid, 1, empty_after), changed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_result(folder / "old", grid, old, layout)
        cogs = data.draw(st.sampled_from([frozenset(f"{array}.tif" for array in old), frozenset({"last_date.tif"})]))
        kept = KeptResult(folder / "old", cogs, frozenset(changed), CHUNK)
        write_result(folder / "new", grid, new, layout, kept)
        write_result(folder / "scratch", grid, new, layout)
        assert read_all(folder / "new") == read_all(folder / "scratch")


def test_only_what_changed_is_reduced_and_compressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One chunk of 24: one chunk of each level of overviews, and one block of each level of each COG."""
    grid = GeoBox((2048, 3072), Affine(10, 0, 500_000, 0, -10, 5_000_000), "EPSG:32632")
    old, layout, changed = make_values(grid, 0), ZarrLayout(CHUNK), [Index(3, 5)]
    write_result(tmp_path / "old", grid, old, layout)
    kept = KeptResult(tmp_path / "old", frozenset(f"{name}.tif" for name in old), frozenset(changed), CHUNK)
    pixels: dict[str, list[int]] = {"_halve": [], "_compress_blocks": []}
    for module, name in ((overviews, "_halve"), (cog, "_compress_blocks")):
        original = getattr(module, name)

        def count(*arguments: object, name: str = name, original: object = original) -> object:
            pixels[name].append(int(np.prod(np.shape(arguments[1])[-2:])))
            return original(*arguments)  # type: ignore[operator]

        monkeypatch.setattr(module, name, count)
    write_result(tmp_path / "new", grid, replace_chunks(old, make_values(grid, 1), changed), layout, kept)
    levels = len(list((tmp_path / "new" / "segmentation.zarr").glob("ovr_*")))
    assert levels == 3
    assert len(pixels["_halve"]) == len(old) * levels and max(pixels["_halve"]) == (2 * CHUNK) ** 2
    assert pixels["_compress_blocks"] == [CHUNK**2] * len(old) * (levels + 1)


def test_chunks_of_another_size_are_made_anew(tmp_path: Path) -> None:
    grid = GeoBox((600, 1100), Affine(10, 0, 500_000, 0, -10, 5_000_000), "EPSG:32632")
    old, new = make_values(grid, 0), make_values(grid, 1)
    write_result(tmp_path / "old", grid, old, ZarrLayout(CHUNK))
    kept = KeptResult(tmp_path / "old", frozenset({"segmentation.tif"}), frozenset(), 256)
    store = tmp_path / "new" / "segmentation.zarr"
    create_store(store, grid, CLASSES, ZarrLayout(CHUNK), title="a", layers=NAMES)
    for name in list_store_rasters(store):
        write_store_raster(store, name, Window(0, 0, *grid.shape), new[name])
    write_overviews(store, grid, CLASSES, tmp_path / "new", kept=kept)
    compress_cog(store, grid, describe_labels(CLASSES), tmp_path / "new", {}, kept=kept).join(tmp_path / "new.tif")
    shutil.rmtree(tmp_path / "old")
    write_overviews(store, grid, CLASSES, tmp_path / "new")
    compress_cog(store, grid, describe_labels(CLASSES), tmp_path / "new", {}).join(tmp_path / "scratch.tif")
    assert (tmp_path / "new.tif").read_bytes() == (tmp_path / "scratch.tif").read_bytes()
