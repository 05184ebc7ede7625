"""Check that published results are undamaged: checksums, layout, agreement of the files, valid STAC.

Each check is one that readers of the files rely on, made with their own library where there is one. Memory does not
grow with the scene.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pystac.errors
import pystac.validation
import rasterio
import shapely.errors
import zarr
from numpy.typing import NDArray
from pystac import MediaType
from rasterio.windows import Window as RasterioWindow
from rio_cogeo.cogeo import cog_validate

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.common.errors import InputError, to_plain_line
from seamline.pipeline.common.layout import CATALOG, COG, COLLECTION, ITEM, ITEMS, RECORD, ZARR
from seamline.pipeline.products.overviews import find_stale_overviews
from seamline.pipeline.products.run_record import RunRecord, read_record
from seamline.pipeline.products.seal import has_sealed_content, is_sealed
from seamline.pipeline.products.store_files import iter_row_windows
from seamline.pipeline.products.zarr_store import LABELS_ARRAY, list_store_rasters, open_store_raster
from seamline.pipeline.results.consistency import find_cog_mismatches, find_item_mismatches, find_store_mismatches
from seamline.pipeline.results.map_copies import copy_item, find_original
from seamline.pipeline.results.open import require_catalog
from seamline.pipeline.stac.assets import ASSETS, compute_file_info
from seamline.pipeline.stac.catalog import build_collection
from seamline.pipeline.stac.items import ItemDict, read_item, read_item_table, read_table, round_trip_items
from seamline.pipeline.stac.waiting import list_notes, list_scenes
from seamline.pipeline.storage.damage import READ_ERRORS

DAMAGE_ERRORS = (
    *READ_ERRORS,
    MemoryError,
    InputError,
    shapely.errors.ShapelyError,
    pystac.errors.STACError,
    pystac.errors.STACValidationError,
    pystac.errors.STACTypeError,
)
"""Errors that readers raise on damaged bytes, those of items and footprints among them."""

_Check = tuple[str, Callable[[], Iterable[str]]]
"""A file's name, and what yields its problems."""


_LONGEST_TEXTS = (300, 300, 1200)
"""Characters of the three texts of a finding, which may quote a damaged file."""


@dataclass(frozen=True)
class Finding:
    """Something wrong with published results.

    Attributes:
        scene: Id of the scene; "" for the catalogue.
        subject: Name of the file.
        problem: What is wrong, a sentence without its subject.
    """

    scene: str
    subject: str
    problem: str


def verify(out: Path) -> Iterator[Finding]:
    """Yield what is wrong with a folder of results; nothing where all is well.

    Raises:
        InputError: There is no catalogue.
    """
    yield from map(shorten_finding, _find_all(out))


def shorten_finding(finding: Finding) -> Finding:
    """Return a finding whose texts are short lines, whatever a damaged file put into them."""
    texts = finding.scene, finding.subject, finding.problem
    return Finding(*(to_plain_line(text, most) for text, most in zip(texts, _LONGEST_TEXTS, strict=True)))


def _find_all(out: Path) -> Iterator[Finding]:
    require_catalog(out)
    listed, links = [], []
    try:
        catalog = json.loads((out / CATALOG).read_text(encoding="utf-8"))
        pystac.validation.validate_dict({**catalog, "stac_extensions": []})
        links = [link["href"] for link in catalog["links"]]
        listed = [link["href"].split("/")[-2] for link in catalog["links"] if link["rel"] == "item"]
    except DAMAGE_ERRORS as error:
        yield Finding("", CATALOG, summarize_error(error))
    yield from _check_collection(out, is_linked=f"./{COLLECTION}" in links)
    found = sorted(item.parent.name for item in out.glob(f"*/{ITEM}"))
    wait = list_scenes(list_notes(out))
    for scene in sorted({*listed, *found}):
        if scene not in listed and scene not in wait:
            yield Finding(scene, CATALOG, "does not list the scene")
        yield from _check_scene(out / scene)
    yield from _check_table(out, found, wait)


def _check_collection(out: Path, *, is_linked: bool) -> Iterator[Finding]:
    """Compare the collection with the table that it was made of; catalogues of earlier versions link none."""
    if not (out / COLLECTION).exists():
        if is_linked:
            yield Finding("", COLLECTION, "is not there")
        return
    try:
        collection = json.loads((out / COLLECTION).read_text(encoding="utf-8"))
        pystac.validation.validate_dict({**collection, "stac_extensions": []})
        expected = build_collection(read_table(out / ITEMS)) if (out / ITEMS).exists() else collection
    except DAMAGE_ERRORS as error:
        yield Finding("", COLLECTION, summarize_error(error))
        return
    if collection != json.loads(json.dumps(expected)):
        yield Finding("", COLLECTION, f"is not what {ITEMS} says")


def _check_table(out: Path, scenes: Sequence[str], wait: Collection[str]) -> Iterator[Finding]:
    """Compare the table of items with the items; damaged items are reported by ``_check_scene``.

    Scenes that ``wait`` have no row yet, or that of an earlier item.
    """
    items = {}
    for scene in scenes:
        if scene in wait:
            continue
        with suppress(OSError, ValueError):
            _check_kind(out / scene / ITEM)
            items[scene] = read_item(out / scene / ITEM)
    if not (out / ITEMS).exists():
        if items:
            yield Finding("", ITEMS, "is not there")
        return
    try:
        rows = read_item_table(out / ITEMS)
    except (OSError, ValueError) as error:
        yield Finding("", ITEMS, summarize_error(error))
        return
    expected = round_trip_items(items)
    for scene in sorted({*expected, *rows} - set(wait)):
        if scene not in rows:
            yield Finding(scene, ITEMS, "does not list the scene")
        elif scene not in scenes:
            yield Finding(scene, ITEMS, "lists a scene that is not there")
        elif scene in expected and rows[scene] != expected[scene]:
            yield Finding(scene, ITEMS, f"is not what {ITEM} says")


def _check_scene(folder: Path) -> Iterator[Finding]:
    scene = folder.name
    try:
        _check_kind(folder / ITEM)
        item = json.loads((folder / ITEM).read_text(encoding="utf-8"))
        pystac.validation.validate_dict({**item, "stac_extensions": []})
        assets: ItemDict = item["assets"]
    except FileNotFoundError:
        yield Finding(scene, ITEM, "is not there")
        return
    except DAMAGE_ERRORS as error:
        yield Finding(scene, ITEM, summarize_error(error))
        return
    if item.get("id") != scene:
        yield Finding(scene, ITEM, f"is of another scene, {item.get('id')}")
    if (original := find_original(item, folder)) is not None:
        yield from _check_copy(folder, item, original)
        return
    record = None
    try:
        _check_kind(folder / RECORD)
        record = read_record(folder)
    except DAMAGE_ERRORS as error:
        yield Finding(scene, RECORD, summarize_error(error))
    for name, check in _list_checks(folder, item, record, assets):
        try:
            yield from (Finding(scene, name, problem) for problem in check())
        except DAMAGE_ERRORS as error:
            yield Finding(scene, name, summarize_error(error))


def _check_copy(folder: Path, item: ItemDict, original: Path) -> Iterator[Finding]:
    """Compare the item of a map in the catalogue of its scenes with that in the folder of the map."""
    if not (original / ITEM).is_file():
        yield Finding(folder.name, ITEM, f"is of a map that is not in {original.parent}")
        return
    try:
        expected = copy_item(read_item(original / ITEM), original, folder.parent.absolute())
    except DAMAGE_ERRORS as error:
        yield Finding(folder.name, ITEM, f"is of a map whose item is damaged: {summarize_error(error)}")
        return
    if item != expected:
        yield Finding(folder.name, ITEM, f"is not what the map in {original.parent} says")


def _list_checks(folder: Path, item: ItemDict, record: RunRecord | None, assets: ItemDict) -> list[_Check]:
    """Return the checks of a scene's files; those of rasters only where the raster and a record exist."""
    checks: list[_Check] = [
        (ITEM, partial(_find_unlisted_assets, folder, assets)),
        *((posixpath.normpath(asset["href"]), partial(_check_asset, folder, asset)) for asset in assets.values()),
    ]
    if record is None:
        return checks
    raster_checks: list[_Check] = [
        (COG, partial(_check_cog, folder / COG, record)),
        (COG, partial(find_cog_mismatches, folder / COG, item)),
        (ZARR, partial(_check_store, folder, record)),
        (ZARR, partial(find_store_mismatches, folder / ZARR, item)),
        *((name, partial(_check_cog_layout, folder / name)) for name in _list_other_cogs(assets)),
    ]
    checks += [(name, check) for name, check in raster_checks if _is_file_or_folder(folder / name)]
    return [(ITEM, partial(find_item_mismatches, item, record)), *checks]


def _find_unlisted_assets(folder: Path, assets: ItemDict) -> Iterator[str]:
    """Yield a sentence for each file of a run that should be an asset of the item and is not."""
    for known in ASSETS:
        listed = posixpath.normpath(assets[known.key]["href"]) if known.key in assets else None
        is_data_file = (folder / known.name).exists() and "data" in known.roles
        if (is_data_file or known.name == RECORD or listed is not None) and listed != known.name:
            yield f"{known.name} is not its asset {known.key}"
    if not {COG, ZARR} & {posixpath.normpath(asset["href"]) for asset in assets.values()}:
        yield "has no labels"


def _check_asset(folder: Path, asset: ItemDict) -> Iterator[str]:
    path = (folder / asset["href"]).resolve()
    if not path.is_relative_to(folder.resolve()):
        yield "lies outside of the folder"
    elif not path.exists():
        yield "is not there"
    else:
        _check_kind(path)
        actual = compute_file_info(path)
        for field in ("file:size", "file:checksum"):
            if field in actual and asset.get(field) != actual[field]:
                yield f"{field} is {actual[field]}, {asset.get(field)} when it was published"


def _is_file_or_folder(path: Path) -> bool:
    return path.is_file() or path.is_dir()


def _check_kind(path: Path) -> None:
    """Raise ``ValueError`` for a pipe, socket or device: opening one could block forever."""
    if path.exists() and not _is_file_or_folder(path):
        raise ValueError("is neither a file nor a folder")


def _list_other_cogs(assets: ItemDict) -> list[str]:
    names = [posixpath.normpath(asset["href"]) for asset in assets.values() if asset.get("type") == MediaType.COG]
    return [name for name in names if name != COG and posixpath.dirname(name) == ""]


def _check_cog_layout(path: Path) -> Iterator[str]:
    is_valid, errors, _ = cog_validate(path, quiet=True)
    if not is_valid:
        # rio-cogeo takes a level for striped that is as wide as its tiles.
        yield from (error for error in errors if not ("not tiled" in error and _has_square_blocks(path)))


def _has_square_blocks(path: Path) -> bool:
    """Return whether all levels of a raster consist of square blocks, as tiles are."""
    with rasterio.open(path) as file:
        levels = range(len(file.overviews(1)))
    shapes = []
    for options in ({}, *({"overview_level": level} for level in levels)):
        with rasterio.open(path, **options) as file:
            shapes += file.block_shapes
    return all(height == width for height, width in shapes)


def _check_cog(path: Path, record: RunRecord) -> Iterator[str]:
    yield from _check_cog_layout(path)
    with rasterio.open(path) as file:
        for key, digest in record.digests.items():
            if file.tags().get(key) != digest:
                yield f"{key} is that of another run"
        yield from _check_label_counts((file.read(1, window=window) for _, window in file.block_windows(1)), record)


def _check_label_counts(blocks: Iterable[NDArray[np.uint8]], record: RunRecord) -> Iterator[str]:
    """Compare the labels in ``blocks`` with the classes of the record and their numbers of pixels."""
    counts = np.zeros(NODATA + 1, int)
    for block in blocks:
        counts += np.bincount(block.ravel(), minlength=NODATA + 1)
    known = {row.value for row in record.classes} | {NODATA}
    if unknown := sorted(set(np.flatnonzero(counts).tolist()) - known):
        yield f"has labels of no class: {unknown}"
    for row in record.classes:
        if counts[row.value] != row.pixels:
            yield f"{counts[row.value]} pixels of {row.name}, {row.pixels} in {RECORD}"


def _check_store(folder: Path, record: RunRecord) -> Iterator[str]:
    if not is_sealed(folder / ZARR):
        yield "is not sealed: it was never finished"
        return
    if not has_sealed_content(folder / ZARR):
        yield "its content is not that which was sealed"
    labels = open_store_raster(folder / ZARR, LABELS_ARRAY)
    yield from _check_label_counts((np.asarray(labels[rows.to_slices()]) for rows in iter_row_windows(labels)), record)
    yield from (f"{group} is not the overview of what it is of" for group in find_stale_overviews(folder / ZARR))
    for name in list_store_rasters(folder / ZARR):
        if (folder / f"{name}.tif").is_file():
            yield from _compare_with_raster(open_store_raster(folder / ZARR, name), folder / f"{name}.tif")


def _compare_with_raster(array: zarr.Array[Any], path: Path) -> Iterator[str]:
    """Compare the values of an array (y, x) or (class, y, x) with a raster's, a row of chunks at a time."""
    with rasterio.open(path) as file:
        band_count = array.shape[0] if array.ndim == 3 else 1
        if array.shape[-2:] != file.shape or band_count != file.count:
            yield f"{array.shape} pixels, {(file.count, *file.shape)} in {path.name}"
            return
        different = 0
        for rows in iter_row_windows(array):
            window = RasterioWindow(rows.col, rows.row, rows.width, rows.height)
            values = file.read(1 if array.ndim == 2 else None, window=window)
            different += int((array[(..., *rows.to_slices())] != values).sum())
    if different:
        yield f"{different} values are others than in {path.name}"


def summarize_error(error: Exception) -> str:
    """Return the first line of an error's text, at most 200 characters of it."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
