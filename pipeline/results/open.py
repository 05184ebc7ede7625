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
from seamline.pipeline.products.zarr_store import VARIABLE, flags_of, is_sealed, open_raster, rasters_in
from seamline.pipeline.stac.assets import multihash
from seamline.pipeline.stac.query import Box

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""As ``Scene.id``."""
_DIGESTS = ("scene_digest", "model_digest")
_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, RasterioError, CPLE_BaseError)
"""What damaged bytes lead readers to."""


class _Class(BaseModel):
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
    classes: list[_Class] = Field([], alias="classification:classes")


class _Share(BaseModel):
    name: str
    value: int
    share: float
    area_m2: float | None


class _Properties(BaseModel):
    datetime: datetime
    unknown: bool = Field(False, alias="seamline:datetime_unknown")
    shape: tuple[int, int] = Field(alias="proj:shape")
    code: str | None = Field(None, alias="proj:code")
    classes: list[_Share] = Field(alias="seamline:classes")


Sides = tuple[float, float, float, float]


def _on_earth(sides: Sides) -> Sides:
    try:
        Box(*sides)
    except InputError as error:
        raise ValueError(str(error)) from error
    return sides


class Item(BaseModel):
    """What is read of a scene's STAC item; other fields are not looked at."""

    id: str
    geometry: dict[str, Any] | None
    bbox: Annotated[Sides, AfterValidator(_on_earth)] | None = None
    properties: _Properties
    assets: dict[str, _Asset]

    @property
    def placed(self) -> bool:
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
            LabelClass(row.value, row.title or row.name, _color(row.color_hint), row.description)
            for row in listed
            if not row.nodata
        )

    def asset(self, name: str) -> _Asset | None:
        """What the item says of the file ``name`` beside it."""
        return next((asset for asset in self.assets.values() if asset.href.removeprefix("./") == name), None)


@dataclass(frozen=True)
class Result:
    """One scene's results, checked: where each array lies, on which ``grid``, and what its labels mean.

    ``arrays`` maps ``segmentation`` and the layers that are there to the Zarr store or the COG that holds them.
    """

    folder: Path
    record: Mapping[str, Any]
    item: Item
    grid: GeoBox
    classes: tuple[LabelClass, ...]
    arrays: Mapping[str, Path]


def scene_folder(out: Path, scene: str) -> Path:
    """The folder of a scene's results below ``out``.

    Raises:
        InputError: the name is no scene's, or leads out of ``out``, or there is no such folder.
    """
    folder = out / scene
    safe = isinstance(scene, str) and _SAFE.fullmatch(scene) is not None
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


def find_result(out: Path, scene: str) -> Result:
    """The results of ``out``/``scene``, after a look at what can be seen without reading all of it.

    The labels are those of the Zarr store if it is sealed, of the COG otherwise.

    Raises:
        InputError: there are none, they are unfinished, damaged, of another scene or model than their record says,
            or their classes are not those of their item.
    """
    folder = scene_folder(out, scene)
    item, record = published(folder)
    classes, shape = item.labels, item.properties.shape
    digests = {key: str(record[key]) for key in _DIGESTS}
    with _readable(folder, ZARR):
        sealed = is_sealed(folder / ZARR)
    if not sealed and not (folder / COG).is_file():
        state = f"a {ZARR} that is not sealed: it was never finished" if (folder / ZARR).exists() else "no labels"
        raise _refused(folder, state, "run the same command again")
    if sealed:
        with _readable(folder, ZARR):
            grid = _check_store(folder, digests, classes)
        arrays = dict.fromkeys(rasters_in(folder / ZARR), folder / ZARR)
    else:
        with _readable(folder, COG):
            grid = _check_cog(folder, digests, classes)
        arrays = {VARIABLE: folder / COG}
        arrays |= {name: folder / f"{name}.tif" for name in LAYERS if (folder / f"{name}.tif").is_file()}
    if tuple(grid.shape) != shape:
        raise _refused(folder, f"{tuple(grid.shape)} labels, {shape} in {ITEM}", _VERIFY)
    return Result(folder, record, item, grid, classes, arrays)


def published(folder: Path) -> tuple[Item, Mapping[str, Any]]:
    """The item and the record of the results in ``folder``: finished, of this scene, and each what the other says.

    The item is written last and vouches for the record, so that both together seal what a run published.

    Raises:
        InputError: they are not there, damaged, of another scene, or do not belong together.
    """
    for name in (RECORD, ITEM):
        if not (folder / name).is_file():
            unfinished = name == ITEM or (folder / ".run").exists()
            raise _refused(folder, f"no {name}" + (": the run is not finished" if unfinished else ""), "finish the run")
    with _readable(folder, RECORD):
        written = (folder / RECORD).read_bytes()
        record = json.loads(written)
        table = [(int(row["value"]), str(row["name"])) for row in record["classes"]]
        scene, _ = record["scene"], [record[key] for key in _DIGESTS]
    with _readable(folder, ITEM):
        item = Item.model_validate_json((folder / ITEM).read_bytes())
        classes = [(label.value, label.name) for label in item.labels]
    for what, other in {"id of its item": item.id, f"scene of {RECORD}": scene}.items():
        if other != folder.name:
            raise _refused(folder, f"results of another scene: {other!r} is the {what}", "ask for that one")
    if classes != table:
        raise _refused(folder, f"other classes in {ITEM} than in {RECORD}", _VERIFY)
    asset = item.asset(RECORD)
    if asset is None or asset.checksum != multihash(hashlib.sha256(written).hexdigest()):
        raise _refused(folder, f"an {ITEM} that does not speak of the {RECORD} beside it", _VERIFY)
    return item, record


_VERIFY = "`seamline verify` tells more; with --overwrite the scene is segmented anew"


def _refused(folder: Path, got: str, fix: str) -> InputError:
    return InputError(f"results in {folder}", got=got, expected="what a run published, whole", fix=fix)


@contextmanager
def _readable(folder: Path, name: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            yield
    except _DAMAGE as error:
        raise _refused(folder, f"a damaged {name} ({_said(error)})", _VERIFY) from error


def _said(error: Exception) -> str:
    """One line: of an item the first field that is missing or wrong."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        return ": ".join([*filter(None, [".".join(map(str, first["loc"]))[:80]]), first["msg"]])[:160]
    said = (str(error).strip().splitlines() or [""])[0][:160]
    return f"{type(error).__name__}: {said}"


def _color(text: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(text)
    return red, green, blue


def _check_store(folder: Path, digests: Mapping[str, str], classes: tuple[LabelClass, ...]) -> GeoBox:
    store = folder / ZARR
    seal: Any = zarr.open_group(store, mode="r", use_consolidated=False).attrs["seamline"]
    if {key: seal[key] for key in _DIGESTS} != digests:
        raise _refused(folder, f"{ZARR} of another scene or model than {RECORD} says", _VERIFY)
    labels = open_raster(store, VARIABLE)
    if any(labels.attrs.get(key) != value for key, value in flags_of(classes).items()):
        raise _refused(folder, f"other classes in {ZARR} than in {ITEM}", _VERIFY)
    for name in rasters_in(store):
        sizes = open_raster(store, name).shape
        if labels.dtype != "uint8" or sizes[-2:] != labels.shape or sizes[:-2] not in ((), (len(classes),)):
            raise _refused(folder, f"{name} of shape {sizes} beside labels of {labels.shape} in {ZARR}", _VERIFY)
    mapping = zarr.open_array(store / GRID_MAPPING, mode="r").attrs
    transform = Affine.from_gdal(*map(float, str(mapping["GeoTransform"]).split()))
    wkt = mapping.get("spatial_ref")
    return GeoBox(labels.shape, transform, None if wkt is None else str(wkt))


def _check_cog(folder: Path, digests: Mapping[str, str], classes: tuple[LabelClass, ...]) -> GeoBox:
    named = {f"CLASS_{label.value}": label.name for label in classes}
    with rasterio.open(folder / COG) as file:
        tags = file.tags()
        if {key: tags.get(key) for key in _DIGESTS} != digests:
            raise _refused(folder, f"{COG} of another scene or model than {RECORD} says", _VERIFY)
        highest = float(file.tags(1).get("STATISTICS_MAXIMUM", 0))
        strange = highest > max(label.value for label in classes)
        if {key: text for key, text in tags.items() if key.startswith("CLASS_")} != named or strange:
            raise _refused(folder, f"other classes in {COG} than in {ITEM}", _VERIFY)
        return GeoBox(file.shape, file.transform, None if file.crs is None else file.crs.to_wkt())
