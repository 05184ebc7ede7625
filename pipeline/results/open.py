"""What a run published of one scene, found again and looked at before anybody relies on it."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import rasterio
import zarr
from affine import Affine
from odc.geo.geobox import GeoBox
from pydantic import AfterValidator, BaseModel, Field, ValidationError
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import COG, ITEM, RECORD, ZARR
from seamline.pipeline.products.geozarr import GRID_MAPPING
from seamline.pipeline.products.layers import LAYERS
from seamline.pipeline.products.zarr_store import (
    LABELS_ARRAY,
    build_class_flags,
    is_sealed,
    list_store_rasters,
    open_store_raster,
)
from seamline.pipeline.stac.assets import to_multihash
from seamline.pipeline.stac.extent import Box

_SCENE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""As ``Scene.id``."""
_DIGEST_KEYS = ("scene_digest", "model_digest")
_DAMAGE_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    RasterioError,
    CPLE_BaseError,
)
"""What damaged bytes lead readers to."""


class _ClassEntry(BaseModel):
    name: str
    value: int
    title: str = ""
    description: str = ""
    color_hint: str = ""
    nodata: bool = False


class _Asset(BaseModel):
    href: str
    size: int | None = Field(None, alias="file:size")
    checksum: str | None = Field(None, alias="file:checksum")
    classes: list[_ClassEntry] = Field([], alias="classification:classes")


class _ClassShare(BaseModel):
    name: str
    value: int
    share: float
    area_m2: float | None


class _Properties(BaseModel):
    datetime: datetime
    is_time_unknown: bool = Field(False, alias="seamline:datetime_unknown")
    shape: tuple[int, int] = Field(alias="proj:shape")
    code: str | None = Field(None, alias="proj:code")
    classes: list[_ClassShare] = Field(alias="seamline:classes")


Bounds = tuple[float, float, float, float]


def _validate_bounds(sides: Bounds) -> Bounds:
    try:
        Box(*sides)
    except InputError as error:
        raise ValueError(str(error)) from error
    return sides


class ResultItem(BaseModel):
    """What is read of a scene's STAC item; other fields are not looked at."""

    id: str
    geometry: dict[str, Any] | None
    bbox: Annotated[Bounds, AfterValidator(_validate_bounds)] | None = None
    properties: _Properties
    assets: dict[str, _Asset]

    @property
    def has_location(self) -> bool:
        """Whether it is known where on Earth the scene lies."""
        return self.geometry is not None and self.bbox is not None

    @property
    def labels(self) -> tuple[LabelClass, ...]:
        """What the labels mean. Raises ``ValueError`` if that is nothing."""
        assets = [self.assets[key] for key in ("segmentation", "zarr") if key in self.assets]
        listed = next((asset.classes for asset in assets if asset.classes), [])
        if not listed:
            raise ValueError("no classes")
        # A name that STAC does not allow stands in the title.
        return tuple(
            LabelClass(row.value, row.title or row.name, _parse_color(row.color_hint), row.description)
            for row in listed
            if not row.nodata
        )

    def find_asset(self, name: str) -> _Asset | None:
        """What the item says of the file ``name`` beside it."""
        return next((asset for asset in self.assets.values() if asset.href.removeprefix("./") == name), None)


@dataclass(frozen=True)
class PublishedResult:
    """One scene's results, checked: where each array lies, on which ``grid``, and what its labels mean.

    ``arrays`` maps ``segmentation`` and the layers that are there to the Zarr store or the COG that holds them.
    """

    folder: Path
    record: Mapping[str, Any]
    item: ResultItem
    grid: GeoBox
    classes: tuple[LabelClass, ...]
    arrays: Mapping[str, Path]


def find_scene_folder(out: Path, scene: str) -> Path:
    """The folder of a scene's results below ``out``.

    Raises:
        InputError: the name is no scene's, or leads out of ``out``, or there is no such folder.
    """
    folder = out / scene
    safe = isinstance(scene, str) and _SCENE_ID.fullmatch(scene) is not None
    if safe and folder.is_dir() and folder.resolve().is_relative_to(out.resolve()):
        return folder
    there = sorted(path.parent.name for path in out.glob(f"*/{ITEM}"))
    found = ", ".join(there[:5]) + (f" and {len(there) - 5} more" if len(there) > 5 else "")
    raise InputError(
        f"scene in {out}",
        got=f"{str(scene)[:80]!r}" + ("" if safe else ", which is no name of a scene"),
        expected=f"one of {found}" if there else "a folder that `seamline segment` wrote to, and there is none",
        fix="check the name and the path",
    )


def find_result(out: Path, scene: str) -> PublishedResult:
    """The results of ``out``/``scene``, after a look at what can be seen without reading all of it.

    The labels are those of the Zarr store if it is sealed, of the COG otherwise.

    Raises:
        InputError: there are none, they are unfinished, damaged, of another scene or model than their record says,
            or their classes are not those of their item.
    """
    folder = find_scene_folder(out, scene)
    item, record = read_item_and_record(folder)
    classes, shape = item.labels, item.properties.shape
    digests = {key: str(record[key]) for key in _DIGEST_KEYS}
    with _catch_damage(folder, ZARR):
        sealed = is_sealed(folder / ZARR)
    if not sealed and not (folder / COG).is_file():
        state = f"a {ZARR} that is not sealed: it was never finished" if (folder / ZARR).exists() else "no labels"
        raise _result_error(folder, state, "run the same command again")
    if sealed:
        with _catch_damage(folder, ZARR):
            grid = _check_store(folder, digests, classes)
        arrays = dict.fromkeys(list_store_rasters(folder / ZARR), folder / ZARR)
    else:
        with _catch_damage(folder, COG):
            grid = _check_cog(folder, digests, classes)
        arrays = {LABELS_ARRAY: folder / COG}
        arrays |= {name: folder / f"{name}.tif" for name in LAYERS if (folder / f"{name}.tif").is_file()}
    if tuple(grid.shape) != shape:
        raise _result_error(folder, f"{tuple(grid.shape)} labels, {shape} in {ITEM}", _VERIFY_HINT)
    return PublishedResult(folder, record, item, grid, classes, arrays)


def read_item_and_record(folder: Path) -> tuple[ResultItem, Mapping[str, Any]]:
    """The item and the record of the results in ``folder``: finished, of this scene, and each what the other says.

    The item is written last and vouches for the record, so that both together seal what a run published.

    Raises:
        InputError: they are not there, damaged, of another scene, or do not belong together.
    """
    for name in (RECORD, ITEM):
        if not (folder / name).is_file():
            unfinished = name == ITEM or (folder / ".run").exists()
            raise _result_error(
                folder, f"no {name}" + (": the run is not finished" if unfinished else ""), "finish the run"
            )
    with _catch_damage(folder, RECORD):
        written = (folder / RECORD).read_bytes()
        record = json.loads(written)
        table = [(int(row["value"]), str(row["name"])) for row in record["classes"]]
        scene, _ = record["scene"], [record[key] for key in _DIGEST_KEYS]
    with _catch_damage(folder, ITEM):
        item = ResultItem.model_validate_json((folder / ITEM).read_bytes())
        classes = [(label.value, label.name) for label in item.labels]
    for what, other in {"id of its item": item.id, f"scene of {RECORD}": scene}.items():
        if other != folder.name:
            raise _result_error(folder, f"results of another scene: {other!r} is the {what}", "ask for that one")
    if classes != table:
        raise _result_error(folder, f"other classes in {ITEM} than in {RECORD}", _VERIFY_HINT)
    asset = item.find_asset(RECORD)
    if asset is None or asset.checksum != to_multihash(hashlib.sha256(written).hexdigest()):
        raise _result_error(folder, f"an {ITEM} that does not speak of the {RECORD} beside it", _VERIFY_HINT)
    return item, record


_VERIFY_HINT = "`seamline verify` tells more; with --overwrite the scene is segmented anew"


def _result_error(folder: Path, got: str, fix: str) -> InputError:
    return InputError(f"results in {folder}", got=got, expected="what a run published, whole", fix=fix)


@contextmanager
def _catch_damage(folder: Path, name: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            yield
    except _DAMAGE_ERRORS as error:
        raise _result_error(folder, f"a damaged {name} ({_summarize_error(error)})", _VERIFY_HINT) from error


def _summarize_error(error: Exception) -> str:
    """One line: of an item the first field that is missing or wrong."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        return ": ".join([*filter(None, [".".join(map(str, first["loc"]))[:80]]), first["msg"]])[:160]
    said = (str(error).strip().splitlines() or [""])[0][:160]
    return f"{type(error).__name__}: {said}"


def _parse_color(text: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(text)
    return red, green, blue


def _check_store(folder: Path, digests: Mapping[str, str], classes: tuple[LabelClass, ...]) -> GeoBox:
    store = folder / ZARR
    seal: Any = zarr.open_group(store, mode="r", use_consolidated=False).attrs["seamline"]
    if {key: seal[key] for key in _DIGEST_KEYS} != digests:
        raise _result_error(folder, f"{ZARR} of another scene or model than {RECORD} says", _VERIFY_HINT)
    labels = open_store_raster(store, LABELS_ARRAY)
    if any(labels.attrs.get(key) != value for key, value in build_class_flags(classes).items()):
        raise _result_error(folder, f"other classes in {ZARR} than in {ITEM}", _VERIFY_HINT)
    for name in list_store_rasters(store):
        sizes = open_store_raster(store, name).shape
        if labels.dtype != "uint8" or sizes[-2:] != labels.shape or sizes[:-2] not in ((), (len(classes),)):
            raise _result_error(
                folder, f"{name} of shape {sizes} beside labels of {labels.shape} in {ZARR}", _VERIFY_HINT
            )
    mapping = zarr.open_array(store / GRID_MAPPING, mode="r").attrs
    transform = Affine.from_gdal(*map(float, str(mapping["GeoTransform"]).split()))
    wkt = mapping.get("spatial_ref")
    return GeoBox(labels.shape, transform, None if wkt is None else str(wkt))


def _check_cog(folder: Path, digests: Mapping[str, str], classes: tuple[LabelClass, ...]) -> GeoBox:
    named = {f"CLASS_{label.value}": label.name for label in classes}
    with rasterio.open(folder / COG) as file:
        tags = file.tags()
        if {key: tags.get(key) for key in _DIGEST_KEYS} != digests:
            raise _result_error(folder, f"{COG} of another scene or model than {RECORD} says", _VERIFY_HINT)
        highest = float(file.tags(1).get("STATISTICS_MAXIMUM", 0))
        strange = highest > max(label.value for label in classes)
        if {key: text for key, text in tags.items() if key.startswith("CLASS_")} != named or strange:
            raise _result_error(folder, f"other classes in {COG} than in {ITEM}", _VERIFY_HINT)
        return GeoBox(file.shape, file.transform, None if file.crs is None else file.crs.to_wkt())
