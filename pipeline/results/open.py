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
from typing import Annotated, Any

import rasterio
import shapely.errors
import shapely.geometry
import zarr
from affine import Affine
from odc.geo.geobox import GeoBox
from pydantic import AfterValidator, AwareDatetime, BaseModel, Field, ValidationError, model_validator
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from seamline.pipeline.common.band_statistics import BandStatistics
from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import CATALOG, COG, ITEM, RECORD, RUN_DIRECTORY, ZARR, find_mistaken_folder
from seamline.pipeline.common.time_span import TimeSpan
from seamline.pipeline.products.geozarr import GRID_MAPPING
from seamline.pipeline.products.layers import LAYERS, Layer
from seamline.pipeline.products.run_record import RunRecord, describe_validation_error, parse_record
from seamline.pipeline.products.seal import is_sealed
from seamline.pipeline.products.zarr_store import LABELS_ARRAY, build_class_flags, list_store_rasters, open_store_raster
from seamline.pipeline.results.map_copies import MAP_PROPERTY, PERIOD_PROPERTY, find_original
from seamline.pipeline.stac.extent import Box
from seamline.pipeline.stac.items import UNKNOWN_TIME
from seamline.pipeline.storage.digests import to_multihash

SCENE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Form of ``Scene.id``."""
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
"""Errors that readers raise on damaged bytes."""
_VERIFY_HINT = "`seamline verify` tells more; with --overwrite the scene is segmented anew"

Bounds = tuple[float, float, float, float]
"""West, south, east, north in degrees (WGS 84); west > east across the antimeridian."""


class _ClassEntry(BaseModel):
    name: str
    value: int
    title: str = ""
    description: str = ""
    color_hint: str = ""
    nodata: bool = False


class _Band(BaseModel):
    statistics: BandStatistics | None = None


class _Asset(BaseModel):
    href: str
    size: int | None = Field(None, alias="file:size")
    checksum: str | None = Field(None, alias="file:checksum")
    classes: list[_ClassEntry] = Field([], alias="classification:classes")
    bands: list[_Band] = []


class _ClassShare(BaseModel):
    name: str
    value: int
    share: float
    area_m2: float | None


class _Properties(BaseModel):
    datetime: AwareDatetime | None
    start_datetime: AwareDatetime | None = None
    end_datetime: AwareDatetime | None = None
    is_time_unknown: bool = Field(False, alias=UNKNOWN_TIME)
    shape: tuple[int, int] = Field(alias="proj:shape")
    code: str | None = Field(None, alias="proj:code")
    classes: list[_ClassShare] = Field(alias="seamline:classes")
    map_name: str | None = Field(None, alias=MAP_PROPERTY)
    period: str | None = Field(None, alias=PERIOD_PROPERTY)

    @model_validator(mode="after")
    def _check_times(self) -> _Properties:
        _ = self.acquired
        return self

    @property
    def acquired(self) -> TimeSpan | None:
        """When the scene was taken; None if unknown."""
        start, end = self.datetime or self.start_datetime, self.datetime or self.end_datetime
        if start is None or end is None:
            raise ValueError("no datetime, and no start_datetime and end_datetime")
        return None if self.is_time_unknown else TimeSpan(start, end)


def _validate_bounds(sides: Bounds) -> Bounds:
    try:
        Box(*sides)
    except InputError as error:
        raise ValueError(str(error)) from error
    return sides


def _validate_geometry(geometry: dict[str, Any]) -> dict[str, Any]:
    try:
        shapely.geometry.shape(geometry)
    except (shapely.errors.ShapelyError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"no geometry of GeoJSON ({error})") from error
    return geometry


class ResultItem(BaseModel):
    """The fields of a scene's STAC item that Seamline reads; other fields are ignored.

    Attributes:
        id: The scene's id.
        geometry: Footprint as GeoJSON in WGS 84, or None where the scene's location is unknown.
        bbox: Bounds of ``geometry``.
        properties: Time, shape, CRS and the shares of the classes.
        assets: The files of the scene by asset key.
    """

    id: str
    geometry: Annotated[dict[str, Any], AfterValidator(_validate_geometry)] | None
    bbox: Annotated[Bounds, AfterValidator(_validate_bounds)] | None = None
    properties: _Properties
    assets: dict[str, _Asset]

    @property
    def has_location(self) -> bool:
        """Whether it is known where on Earth the scene lies."""
        return self.geometry is not None and self.bbox is not None

    @property
    def label_classes(self) -> tuple[LabelClass, ...]:
        """The classes of the labels, as the asset of the labels describes them.

        Raises:
            ValueError: No asset describes classes.
        """
        assets = [self.assets[key] for key in ("segmentation", "zarr") if key in self.assets]
        entries = next((asset.classes for asset in assets if asset.classes), [])
        if not entries:
            raise ValueError("no classes")
        # STAC restricts names; a class whose own name is not allowed has it in the title.
        return tuple(
            LabelClass(entry.value, entry.title or entry.name, _parse_color(entry.color_hint), entry.description)
            for entry in entries
            if not entry.nodata
        )

    def find_asset(self, name: str) -> _Asset | None:
        """Return the asset of the file ``name`` in the item's folder, or None."""
        return next((asset for asset in self.assets.values() if asset.href.removeprefix("./") == name), None)

    def find_range(self, layer: Layer) -> tuple[float, float]:
        """Return the values of a layer that get the first and the last colour."""
        asset = self.assets.get(layer.name)
        return layer.find_range(asset.bands[0].statistics if asset and asset.bands else None)


@dataclass(frozen=True)
class PublishedResult:
    """The checked results of one scene.

    Attributes:
        folder: The scene's folder.
        record: The record of the run.
        item: The scene's STAC item.
        grid: Grid of the labels.
        classes: What the labels mean.
        arrays: Zarr store or COG of each array, by the array's name: ``segmentation`` and the layers that exist.
    """

    folder: Path
    record: RunRecord
    item: ResultItem
    grid: GeoBox
    classes: tuple[LabelClass, ...]
    arrays: Mapping[str, Path]


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
        raise _result_error(folder, state, "run the same command again")
    if sealed:
        with catch_damage(folder, ZARR):
            grid = _check_store(folder, digests, classes)
        arrays = dict.fromkeys(list_store_rasters(folder / ZARR), folder / ZARR)
    else:
        with catch_damage(folder, COG):
            grid = _check_cog(folder, digests, classes)
        arrays = {LABELS_ARRAY: folder / COG}
        arrays |= {name: folder / f"{name}.tif" for name in LAYERS if (folder / f"{name}.tif").is_file()}
    if tuple(grid.shape) != shape:
        raise _result_error(folder, f"{tuple(grid.shape)} labels, {shape} in {ITEM}", _VERIFY_HINT)
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
            raise _result_error(folder, state, "finish the run")
    with catch_damage(folder, RECORD):
        written = (folder / RECORD).read_bytes()
        record = parse_record(written, folder.name)
        recorded_classes = [(row.value, row.name) for row in record.classes]
    with catch_damage(folder, ITEM):
        item = ResultItem.model_validate_json((folder / ITEM).read_bytes())
        classes = [(label.value, label.name) for label in item.label_classes]
    for what, other in {"id of its item": item.id, f"scene of {RECORD}": record.scene}.items():
        if other != folder.name:
            raise _result_error(folder, f"results of another scene: {other!r} is the {what}", "ask for that one")
    if classes != recorded_classes:
        raise _result_error(folder, f"other classes in {ITEM} than in {RECORD}", _VERIFY_HINT)
    asset = item.find_asset(RECORD)
    if asset is None or asset.checksum != to_multihash(hashlib.sha256(written).hexdigest()):
        raise _result_error(folder, f"an {ITEM} that does not speak of the {RECORD} beside it", _VERIFY_HINT)
    return item, record


def _result_error(folder: Path, got: str, fix: str) -> InputError:
    return InputError(f"results in {folder}", got=got, expected="what a run published, whole", fix=fix)


@contextmanager
def catch_damage(folder: Path, name: str) -> Iterator[None]:
    """Turn what readers raise on damaged bytes of the file ``name`` into an ``InputError``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            yield
    except _DAMAGE_ERRORS as error:
        raise _result_error(folder, f"a damaged {name} ({_summarize_error(error)})", _VERIFY_HINT) from error


def _summarize_error(error: Exception) -> str:
    """Return one line about an error; of a validation error the first field that is missing or wrong."""
    if isinstance(error, ValidationError):
        return describe_validation_error(error)
    line = (str(error).strip().splitlines() or [""])[0][:160]
    return f"{type(error).__name__}: {line}"


def _parse_color(text: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(text)
    return red, green, blue


def _check_store(folder: Path, digests: Mapping[str, str], classes: tuple[LabelClass, ...]) -> GeoBox:
    """Check digests, classes and shapes of the Zarr store against record and item; return the store's grid."""
    store = folder / ZARR
    seal: Any = zarr.open_group(store, mode="r", use_consolidated=False).attrs["seamline"]
    if {key: seal[key] for key in digests} != digests:
        raise _result_error(folder, f"{ZARR} of another scene or model than {RECORD} says", _VERIFY_HINT)
    labels = open_store_raster(store, LABELS_ARRAY)
    if any(labels.attrs.get(key) != value for key, value in build_class_flags(classes).items()):
        raise _result_error(folder, f"other classes in {ZARR} than in {ITEM}", _VERIFY_HINT)
    for name in list_store_rasters(store):
        array = open_store_raster(store, name)
        sizes, dtype = array.shape, LAYERS[name].dtype if name in LAYERS else "uint8"
        if array.dtype != dtype or sizes[-2:] != labels.shape or sizes[:-2] not in ((), (len(classes),)):
            problem = f"{name} {array.dtype} of shape {sizes} beside labels of {labels.shape} in {ZARR}"
            raise _result_error(folder, problem, _VERIFY_HINT)
    mapping = zarr.open_array(store / GRID_MAPPING, mode="r").attrs
    transform = Affine.from_gdal(*map(float, str(mapping["GeoTransform"]).split()))
    wkt = mapping.get("spatial_ref")
    return GeoBox(labels.shape, transform, None if wkt is None else str(wkt))


def _check_cog(folder: Path, digests: Mapping[str, str], classes: tuple[LabelClass, ...]) -> GeoBox:
    """Check digests and classes of the COG against record and item; return the COG's grid."""
    expected = {f"CLASS_{label.value}": label.name for label in classes}
    with rasterio.open(folder / COG) as file:
        tags = file.tags()
        if {key: tags.get(key) for key in digests} != digests:
            raise _result_error(folder, f"{COG} of another scene or model than {RECORD} says", _VERIFY_HINT)
        highest = float(file.tags(1).get("STATISTICS_MAXIMUM", 0))
        has_unknown_labels = highest > max(label.value for label in classes)
        named = {key: text for key, text in tags.items() if key.startswith("CLASS_")}
        if named != expected or has_unknown_labels:
            raise _result_error(folder, f"other classes in {COG} than in {ITEM}", _VERIFY_HINT)
        return GeoBox(file.shape, file.transform, None if file.crs is None else file.crs.to_wkt())
