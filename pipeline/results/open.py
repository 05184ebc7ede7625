"""Open what a run published of one scene: find its files and check that they belong together."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rasterio
import zarr
from affine import Affine
from odc.geo.geobox import GeoBox
from pydantic import ValidationError
from rasterio.errors import NotGeoreferencedWarning

from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import CATALOG, COG, ITEM, RECORD, RUN_DIRECTORY, ZARR, find_mistaken_folder
from seamline.pipeline.products.geozarr import GRID_MAPPING
from seamline.pipeline.products.layers import LAYERS
from seamline.pipeline.products.run_record import RunRecord, describe_validation_error, parse_record
from seamline.pipeline.products.seal import is_sealed
from seamline.pipeline.products.zarr_store import LABELS_ARRAY, build_class_flags
from seamline.pipeline.results.map_copies import find_original
from seamline.pipeline.results.result_item import ResultItem
from seamline.pipeline.storage.damage import READ_ERRORS
from seamline.pipeline.storage.digests import to_multihash
from seamline.pipeline.storage.object_store import ObjectFolder

SCENE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Form of ``Scene.id``."""
VERIFY_HINT = "`seamline verify` tells more; with --overwrite the scene is segmented anew"
"""What to do about damaged results."""


@dataclass(frozen=True)
class PublishedResult:
    """The checked results of one scene.

    Attributes:
        folder: The folder with the scene's files; of a scene in object storage that of the version that was opened.
        record: The record of the run.
        item: The scene's STAC item.
        grid: Grid of the labels.
        classes: What the labels mean.
        arrays: Path or ``s3://`` address of the Zarr store or COG of each array, by the array's name: ``segmentation``
            and the layers that exist.
    """

    folder: Path | ObjectFolder
    record: RunRecord
    item: ResultItem
    grid: GeoBox
    classes: tuple[LabelClass, ...]
    arrays: Mapping[str, str]


def require_catalog(folder: Path) -> None:
    """Check that ``folder`` holds a catalogue of results.

    Raises:
        InputError: There is no ``catalog.json`` in it.
    """
    if not (folder / CATALOG).is_file():
        raise InputError(
            f"results {folder}",
            got=f"no {CATALOG}",
            expected="a folder that `seamline segment` wrote to",
            fix=find_mistaken_folder(folder),
        )


def _find_scene_folder(out: Path, scene: str) -> Path:
    """Return the folder of a scene's results below the catalogue's folder ``out``.

    Raises:
        InputError: ``scene`` is not a valid id, leads out of ``out``, or has no folder there.
    """
    folder = out / scene
    safe = isinstance(scene, str) and SCENE_ID.fullmatch(scene) is not None
    if safe and folder.is_dir() and folder.resolve().is_relative_to(out.resolve()):
        return follow_copy(out, folder)
    there = sorted(path.parent.name for path in out.glob(f"*/{ITEM}"))
    known = ", ".join(there[:5]) + (f" and {len(there) - 5} more" if len(there) > 5 else "")
    raise InputError(
        f"scene in {out}",
        got=f"{str(scene)[:80]!r}" + ("" if safe else ", which is no name of a scene"),
        expected=f"one of {known}" if there else "a folder that `seamline segment` wrote to, and there is none",
        fix="check the name and the path",
    )


def follow_copy(out: Path, folder: Path) -> Path:
    """Return the folder with the files of a result: another one below ``out`` for a map that the catalogue lists.

    Args:
        out: the catalogue's folder.
        folder: the folder of the result in it.

    Raises:
        InputError: the map lies elsewhere.
    """
    original = None
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        original = find_original(json.loads((folder / ITEM).read_bytes()), folder)
    if original is None:
        return folder
    if not original.resolve().is_relative_to(out.resolve()) or original.name != folder.name:
        raise InputError(
            f"results in {out}",
            got=f"{folder.name} of a map that lies in {original.parent}",
            expected="files below the catalogue's folder",
            fix=f"open it as a result in {original.parent}",
        )
    return original


def find_result(out: Path, scene: str) -> PublishedResult:
    """Find the results of ``out``/``scene`` and check them as far as metadata allow; no pixel is read.

    The labels are those of the Zarr store if it is sealed, otherwise those of the COG.

    Raises:
        InputError: There are no results; they are unfinished, damaged, of another scene or model than their record
            says; or their classes are not those of their item.
    """
    folder = _find_scene_folder(out, scene)
    item, record = read_item_and_record(folder)
    classes, shape = item.label_classes, item.properties.shape
    digests = record.digests
    with catch_damage(folder, ZARR):
        sealed = is_sealed(folder / ZARR)
    if not sealed and not (folder / COG).is_file():
        state = f"a {ZARR} that is not sealed: it was never finished" if (folder / ZARR).exists() else "no labels"
        raise result_error(folder, state, "run the same command again")
    if sealed:
        with catch_damage(folder, ZARR):
            store = zarr.open_group(folder / ZARR, mode="r", use_consolidated=False)
            grid, names = check_store(folder, store, digests, classes)
        arrays = dict.fromkeys(names, str(folder / ZARR))
    else:
        with catch_damage(folder, COG):
            grid = check_cog(folder, str(folder / COG), digests, classes)
        layers = {name: folder / f"{name}.tif" for name in LAYERS}
        arrays = {LABELS_ARRAY: str(folder / COG)} | {
            name: str(path) for name, path in layers.items() if path.is_file()
        }
    if tuple(grid.shape) != shape:
        raise result_error(folder, f"{tuple(grid.shape)} labels, {shape} in {ITEM}", VERIFY_HINT)
    return PublishedResult(folder, record, item, grid, classes, arrays)


def read_item_and_record(folder: Path) -> tuple[ResultItem, RunRecord]:
    """Read the STAC item and ``run.json`` of a scene's folder, and check that they belong together.

    The item is written last and holds the record's checksum, so a valid pair shows that the run was published.

    Raises:
        InputError: They are missing, damaged, of another scene, or do not belong together.
    """
    for name in (RECORD, ITEM):
        if not (folder / name).is_file():
            unfinished = name == ITEM or (folder / RUN_DIRECTORY).exists()
            state = f"no {name}" + (": the run is not finished" if unfinished else "")
            raise result_error(folder, state, "finish the run")
    with catch_damage(folder, RECORD):
        written = (folder / RECORD).read_bytes()
    with catch_damage(folder, ITEM):
        content = (folder / ITEM).read_bytes()
    return check_item_and_record(folder, folder.name, content, written)


def check_item_and_record(
    folder: Path | ObjectFolder, scene: str, content: bytes, written: bytes
) -> tuple[ResultItem, RunRecord]:
    """Return the item and the record of a scene, once it is checked that they belong together.

    Args:
        folder: Where they were read.
        scene: Id of the scene.
        content: The file of the item.
        written: The file of the record.

    Raises:
        InputError: They are damaged, of another scene, or do not belong together.
    """
    with catch_damage(folder, RECORD):
        record = parse_record(written, scene)
        recorded_classes = [(row.value, row.name) for row in record.classes]
    with catch_damage(folder, ITEM):
        item = ResultItem.model_validate_json(content)
        classes = [(label.value, label.name) for label in item.label_classes]
    for what, other in {"id of its item": item.id, f"scene of {RECORD}": record.scene}.items():
        if other != scene:
            raise result_error(folder, f"results of another scene: {other!r} is the {what}", "ask for that one")
    if classes != recorded_classes:
        raise result_error(folder, f"other classes in {ITEM} than in {RECORD}", VERIFY_HINT)
    asset = item.find_asset(RECORD)
    if asset is None or asset.checksum != to_multihash(hashlib.sha256(written).hexdigest()):
        raise result_error(folder, f"an {ITEM} that does not speak of the {RECORD} beside it", VERIFY_HINT)
    return item, record


def result_error(folder: Path | ObjectFolder, got: str, fix: str) -> InputError:
    """Return the error of results that are not what a run published.

    Args:
        folder: Where they lie.
        got: What is there instead.
        fix: What to do.
    """
    return InputError(f"results in {folder}", got=got, expected="what a run published, whole", fix=fix)


@contextmanager
def catch_damage(folder: Path | ObjectFolder, name: str) -> Iterator[None]:
    """Turn what readers raise on damaged bytes of the file ``name`` into an ``InputError``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            yield
    except READ_ERRORS as error:
        raise result_error(folder, f"a damaged {name} ({_summarize_error(error)})", VERIFY_HINT) from error


def _summarize_error(error: Exception) -> str:
    """Return one line about an error; of a validation error the first field that is missing or wrong."""
    if isinstance(error, ValidationError):
        return describe_validation_error(error)
    line = (str(error).strip().splitlines() or [""])[0][:160]
    return f"{type(error).__name__}: {line}"


def check_store(
    folder: Path | ObjectFolder, store: zarr.Group, digests: Mapping[str, str], classes: tuple[LabelClass, ...]
) -> tuple[GeoBox, tuple[str, ...]]:
    """Check digests, classes and shapes of a Zarr store against record and item.

    Args:
        folder: The folder that it lies in.
        store: Its root group.
        digests: Digests of the record.
        classes: Classes of the item.

    Returns:
        Its grid, and the names of its arrays of labels and layers.

    Raises:
        InputError: The store is another one.
    """
    seal: Any = store.attrs["seamline"]
    if {key: seal[key] for key in digests} != digests:
        raise result_error(folder, f"{ZARR} of another scene or model than {RECORD} says", VERIFY_HINT)
    names = tuple(name for name in (LABELS_ARRAY, *LAYERS) if name in store)
    labels: Any = store[LABELS_ARRAY]
    if any(labels.attrs.get(key) != value for key, value in build_class_flags(classes).items()):
        raise result_error(folder, f"other classes in {ZARR} than in {ITEM}", VERIFY_HINT)
    for name in names:
        array: Any = store[name]
        sizes, dtype = array.shape, LAYERS[name].dtype if name in LAYERS else "uint8"
        if array.dtype != dtype or sizes[-2:] != labels.shape or sizes[:-2] not in ((), (len(classes),)):
            problem = f"{name} {array.dtype} of shape {sizes} beside labels of {labels.shape} in {ZARR}"
            raise result_error(folder, problem, VERIFY_HINT)
    mapping: Any = store[GRID_MAPPING].attrs
    transform = Affine.from_gdal(*map(float, str(mapping["GeoTransform"]).split()))
    wkt = mapping.get("spatial_ref")
    return GeoBox(labels.shape, transform, None if wkt is None else str(wkt)), names


def check_cog(
    folder: Path | ObjectFolder, path: str, digests: Mapping[str, str], classes: tuple[LabelClass, ...]
) -> GeoBox:
    """Check digests and classes of the COG of the labels against record and item; return its grid.

    Args:
        folder: The folder that it lies in.
        path: Its path, as GDAL takes it.
        digests: Digests of the record.
        classes: Classes of the item.

    Raises:
        InputError: It is another one.
    """
    expected = {f"CLASS_{label.value}": label.name for label in classes}
    with rasterio.open(path) as file:
        tags = file.tags()
        if {key: tags.get(key) for key in digests} != digests:
            raise result_error(folder, f"{COG} of another scene or model than {RECORD} says", VERIFY_HINT)
        highest = float(file.tags(1).get("STATISTICS_MAXIMUM", 0))
        has_unknown_labels = highest > max(label.value for label in classes)
        named = {key: text for key, text in tags.items() if key.startswith("CLASS_")}
        if named != expected or has_unknown_labels:
            raise result_error(folder, f"other classes in {COG} than in {ITEM}", VERIFY_HINT)
        return GeoBox(file.shape, file.transform, None if file.crs is None else file.crs.to_wkt())
