"""The stores of several periods as one Zarr store, whose arrays have a dimension ``time``; pixels are not copied.

A chunk of one period in an array (time, y, x) has the same bytes as that of the array (y, x) in the period's own store.
So the chunk files are hard links of those of the periods, or copies where the file system has no links.
Georeference, overviews and seal are those of a store of one period (``zarr_store.py``). The coordinate ``time`` holds
the first day of each period, ``time_bnds`` that day and the first one after the period, as CF has them.
"""

from __future__ import annotations

import base64
import filecmp
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from odc.geo.geobox import GeoBox
from zarr.storage import LocalStore

from seamline.pipeline.common.classes import LabelClass, format_count
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.geozarr import JSON
from seamline.pipeline.products.layers import DAYS_DECODING, EPOCH
from seamline.pipeline.products.overviews import create_overviews, describe_overviews, list_levels, read_layout
from seamline.pipeline.products.seal import has_sealed_content, is_sealed, list_store_files, seal
from seamline.pipeline.products.store_files import StoredFile, describe_chunk_files
from seamline.pipeline.products.zarr_store import ZarrLayout, create_store, list_store_rasters, open_store_raster
from seamline.pipeline.storage.atomic import remove, sync

_BOUNDS = "time_bnds"


@dataclass(frozen=True)
class PeriodStore:
    """The store of one period.

    Attributes:
        name: name of the period.
        start: its first day.
        end: the first day after it.
        path: its sealed Zarr store.
        files: the files of the chunks of its labels and layers, by their paths below the store, as ``write_overviews``
            returns them. ``None``: they are read.
    """

    name: str
    start: date
    end: date
    path: Path
    files: Mapping[str, StoredFile] | None = None

    def __post_init__(self) -> None:
        if not self.start < self.end:
            raise ValueError(f"period {self.name}: got {self.start} to {self.end}, expected an end after the start")


def write_time_store(
    path: Path,
    periods: Sequence[PeriodStore],
    grid: GeoBox,
    classes: Sequence[LabelClass],
    *,
    title: str,
    attributes: Mapping[str, JSON],
) -> int:
    """Write and seal a store of several periods, which appears whole or not at all.

    Its pixels take no space, and no file of a period is read whose digest is known.

    Args:
        path: folder of the store.
        periods: the stores of all periods, the earliest first.
        grid: the grid that all of them have.
        classes: classes of the labels.
        title: title of the dataset.
        attributes: what the seal says of the run.

    Returns:
        How many bytes the store has, those of linked files counted.

    Raises:
        FileExistsError: the folder exists.
        ValueError: there is no period, they are not in order, or their stores differ in more than their pixels.
        OSError: the disk is full.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists; remove it, or write the store to another folder")
    _check_periods(periods)
    part = path.with_name(f".{path.name}.part")
    remove(part)
    try:
        _create_time_store(part, periods, grid, classes, title)
        files: dict[str, StoredFile] = {}
        for number, period in enumerate(periods):
            _check_form(period, part)
            files |= _link_period(period, number, part)
        for folder in {(part / name).parent for name in files}:
            sync(folder)
        size = seal(part, attributes, files)
        part.rename(path)
    finally:
        remove(part)
    return size


def _create_time_store(
    path: Path, periods: Sequence[PeriodStore], grid: GeoBox, classes: Sequence[LabelClass], title: str
) -> None:
    """Create the store of several periods with its time axis, every pixel nodata, laid out as that of the first one."""
    layout, (_, *layers) = read_layout(periods[0].path), list_store_rasters(periods[0].path)
    create_store(path, grid, classes, layout, title=title, layers=layers, periods=len(periods))
    levels = [path, *create_overviews(path, grid, classes, layout, layers, len(periods))]
    describe_overviews(path, grid)
    for level in levels:
        _write_time_axis(level, periods, layout)


def write_time_references(
    path: Path,
    periods: Sequence[PeriodStore],
    grid: GeoBox,
    classes: Sequence[LabelClass],
    chunks: Mapping[str, Mapping[str, str]],
    title: str,
) -> dict[str, str | list[str]]:
    """Return a store of several periods as references, in the form of kerchunk and fsspec.

    Metadata and the time axis are in the references themselves. Each chunk of pixels refers to that of a period.

    Args:
        path: folder that the metadata are written to, which does not exist.
        periods: all periods, the earliest first; of their stores only the metadata of the first one are read.
        grid: the grid that all of them have.
        classes: classes of the labels.
        chunks: addresses of the files of the chunks of each period, by the names of the periods and by the paths of the
            files below the stores.
        title: title of the dataset.

    Returns:
        The content of each file as text, or the address of another file in a list, by the paths below the store.
    """
    _create_time_store(path, periods, grid, classes, title)
    with warnings.catch_warnings():
        # Readers use consolidated metadata, although the v3 specification does not have it yet.
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        zarr.consolidate_metadata(LocalStore(path))
    references: dict[str, str | list[str]] = {
        file.relative_to(path).as_posix(): f"base64:{base64.b64encode(file.read_bytes()).decode()}"
        for file in list_store_files(path)
    }
    for number, period in enumerate(periods):
        there = chunks[period.name]
        for own, shared in _iterate_chunk_names(periods[0].path, path, number):
            if own in there:
                references[shared] = [there[own]]
    return references


def _check_periods(periods: Sequence[PeriodStore]) -> None:
    if not periods:
        raise ValueError("got no period, expected one or more")
    for one, following in pairwise(periods):
        if not one.start < following.start:
            raise ValueError(f"period {following.name} begins at {following.start}, expected a day after {one.start}")
    for period in periods:
        if not is_sealed(period.path):
            raise ValueError(f"period {period.name}: {period.path} is not sealed, expected a store that is complete")


def _check_form(period: PeriodStore, store: Path) -> None:
    """Refuse a store whose chunks would mean something else in the time store."""
    names = list_store_rasters(store)
    if list_store_rasters(period.path) != names:
        raise ValueError(f"period {period.name} has {list_store_rasters(period.path)}, expected {names}")
    for name in names:
        own, shared = open_store_raster(period.path, name), open_store_raster(store, name)
        expected = _describe_form(shared, shared.shape[1:])
        for key, value in _describe_form(own, own.shape).items():
            if value != expected[key]:
                raise ValueError(f"period {period.name}: {name} has {key} {value}, expected {expected[key]}")


def _describe_form(array: zarr.Array[Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """Return all of an array but its pixels that must be the same in all periods."""
    attributes = {key: value for key, value in array.attrs.asdict().items() if key != "_ARRAY_DIMENSIONS"}
    return {
        "shape": shape,
        "type": array.dtype,
        "chunks": array.chunks[-2:],
        "shards": array.shards and array.shards[-2:],
        "format": array.metadata.zarr_format,
        "codecs": (array.compressors, array.filters, array.order),
        "attributes": attributes,
    }


def _link_period(period: PeriodStore, number: int, store: Path) -> dict[str, StoredFile]:
    """Link the chunk files of a period, the ``number``-th one, into a store of several ones, and return all links.

    Chunks of nothing but nodata have no file.
    """
    files, links = _describe_files(period.path) if period.files is None else period.files, {}
    for own, shared in _iterate_chunk_names(period.path, store, number):
        if own in files:
            _link_or_copy(period.path / own, store / shared)
            links[shared] = files[own]
    return links


def find_time_store_problems(path: Path, periods: Sequence[PeriodStore]) -> Iterator[str]:
    """Yield what is wrong with a store of several periods, a sentence without its subject each.

    All of its files are read and compared with its seal: chunks, coordinates, metadata. Then the files of its chunks
    are compared with those of the periods: the same file is the same, another one must have the same bytes.

    Args:
        path: the store.
        periods: the stores of all periods, the earliest first.
    """
    if not is_sealed(path):
        yield "is not sealed: it is lost, or was never finished"
        return
    if not has_sealed_content(path):
        yield "its content is not that which was sealed"
    names = zarr.open_group(path, mode="r", use_consolidated=False)["time"].attrs.get("periods")
    if names != [period.name for period in periods]:
        yield f"has the periods {names}, the map has {[period.name for period in periods]}"
        return
    for number, period in enumerate(periods):
        pairs = _iterate_chunk_names(period.path, path, number)
        different = sum(not _have_same_bytes(period.path / own, path / shared) for own, shared in pairs)
        if different:
            yield f"{format_count(different, 'chunk')} of {period.name} differ from {period.path.parent.name}"


def _have_same_bytes(first: Path, second: Path) -> bool:
    """Return whether two files are one, have the same bytes, or are both not there."""
    if not (first.exists() and second.exists()):
        return first.exists() == second.exists()
    return first.samefile(second) or filecmp.cmp(first, second, shallow=False)


def _iterate_chunk_names(own: Path, shared: Path, number: int) -> Iterator[tuple[str, str]]:
    """Yield the paths of a chunk's file below the store of a period, the ``number``-th one, and below that of all."""
    for source, target in zip(list_levels(own), list_levels(shared), strict=True):
        for name in list_store_rasters(source):
            array, joint = open_store_raster(source, name), open_store_raster(target, name)
            counts = (-(-size // unit) for size, unit in zip(array.shape, array.shards or array.chunks, strict=True))
            for place in product(*map(range, counts)):
                file = source / name / array.metadata.encode_chunk_key(place)
                link = target / name / joint.metadata.encode_chunk_key((number, *place))
                yield file.relative_to(own).as_posix(), link.relative_to(shared).as_posix()


def _describe_files(store: Path) -> dict[str, StoredFile]:
    """Read the files of all chunks of labels and layers of a store, at all levels."""
    files: dict[str, StoredFile] = {}
    for level in list_levels(store):
        for name in list_store_rasters(level):
            everything = Window(0, 0, *open_store_raster(level, name).shape[-2:])
            files |= describe_chunk_files(level, name, everything, level.relative_to(store).as_posix())
    return files


def _link_or_copy(file: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        link.hardlink_to(file)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one that has no links or no more of this file
        shutil.copyfile(file, link)
        sync(link)


def _write_time_axis(level: Path, periods: Sequence[PeriodStore], layout: ZarrLayout) -> None:
    """Write the coordinate ``time`` and its bounds to a group."""
    group = zarr.open_group(level, mode="r+", use_consolidated=False)
    days = np.array([[(day - EPOCH).days for day in (period.start, period.end)] for period in periods], np.int32)
    attributes: dict[str, JSON] = {
        "standard_name": "time",
        "long_name": "first day of the period",
        "axis": "T",
        **DAYS_DECODING,
        "bounds": _BOUNDS,
        "periods": [period.name for period in periods],
    }
    for name, dims, values, described in (
        ("time", ("time",), days[:, 0], attributes),
        (_BOUNDS, ("time", "nv"), days, {}),
    ):
        axis = layout.create_array(
            group, name, values.shape, dims, described, chunks=values.shape, dtype="int32", fill_value=None
        )
        axis[:] = values
