"""Sources of published scenes, opened by their ids without a selection."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, date
from pathlib import Path

from affine import Affine
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import COG, ITEM, ZARR
from seamline.pipeline.common.time_span import TimeSpan
from seamline.pipeline.fusion.fusing import UNKNOWN_DATE
from seamline.pipeline.fusion.scene_votes import SceneSource
from seamline.pipeline.products.layers import PROBABILITIES
from seamline.pipeline.products.zarr_store import LABELS_ARRAY
from seamline.pipeline.publishing.uploaded import find_uploaded
from seamline.pipeline.results.open import find_result
from seamline.pipeline.results.result_item import ResultItem
from seamline.pipeline.stac.items import ItemDict
from seamline.pipeline.storage.atomic import make_absolute
from seamline.pipeline.storage.object_store import ObjectFolder

_FIRST_DAY = date(1970, 1, 1)
_PROBABILITIES_COG = f"{PROBABILITIES}.tif"


def open_scene_source(catalogue: Path | ObjectFolder, scene: str, *, with_probabilities: bool = True) -> SceneSource:
    """Find the results of a scene that a map is made of; no pixel is read.

    Args:
        catalogue: folder of results, on disk or in object storage.
        scene: id of the scene.
        with_probabilities: whether the probabilities vote. Otherwise the labels do.

    Raises:
        InputError: there are no results, they are damaged, lie nowhere on Earth, or have no probabilities.
    """
    opened = _open_local(catalogue, scene) if isinstance(catalogue, Path) else _open_uploaded(catalogue, scene)
    if not with_probabilities:
        return replace(opened, probabilities=None)
    if opened.probabilities is None:
        raise InputError(
            f"scene {scene}",
            got="no probabilities",
            expected="the output probabilities, by which scenes vote",
            fix="segment it again with --outputs cog,zarr,probabilities, or take the labels alone with --labels",
        )
    return opened


def _open_local(catalogue: Path, scene: str) -> SceneSource:
    result = find_result(make_absolute(catalogue), scene)  # workers may be in another folder
    files = {name: Path(path).name for name, path in result.arrays.items()}
    return SceneSource(
        scene,
        str(result.folder),
        files[LABELS_ARRAY],
        files.get(PROBABILITIES),
        result.grid,
        tuple(label.value for label in result.classes),
        _find_day(result.item.properties.acquired),
        _get_checksum(result.item),
    )


def _open_uploaded(catalogue: ObjectFolder, scene: str) -> SceneSource:
    place = catalogue.subfolder(scene)
    pointer = place.get_version(ITEM)
    uploaded = find_uploaded(catalogue, scene)
    if uploaded is None:
        raise InputError(
            f"scene {scene} in {catalogue}", got="no results", expected="a published scene", fix="check the name"
        )
    item = ResultItem.model_validate(uploaded.item)
    grid, version = _read_grid(uploaded.item), _get_checksum(item)
    values = tuple(label.value for label in item.label_classes)
    folder = place.subfolder(uploaded.version)
    names = [asset.href.rpartition("/")[2] for asset in item.assets.values()]
    labels = next(name for name in (ZARR, COG) if name in names)
    probabilities = _find_probabilities(folder, names)
    day = _find_day(item.properties.acquired)
    return SceneSource(scene, folder.to_url(), labels, probabilities, grid, values, day, version, pointer)


def _find_probabilities(folder: ObjectFolder, names: Collection[str]) -> str | None:
    """Return which of the files of a version has the probabilities; of two the Zarr store, as on disk."""
    metadata = [f"{ZARR}/{PROBABILITIES}/{name}" for name in ("zarr.json", ".zarray")]
    if ZARR in names and any(folder.get_version(key) is not None for key in metadata):
        return ZARR
    return _PROBABILITIES_COG if _PROBABILITIES_COG in names else None


def _read_grid(item: ItemDict) -> GeoBox:
    """Return the grid of the labels by the scene's item."""
    properties = item["properties"]
    crs = properties["proj:code"] or properties.get("proj:wkt2")
    transform = Affine(*properties["proj:transform"]) if crs else Affine.identity()
    return GeoBox(tuple(properties["proj:shape"]), transform, crs)


def _get_checksum(item: ResultItem) -> str:
    """Return the checksum of the record of the run, whose asset every item of Seamline has."""
    return item.assets["run"].checksum or ""


def _find_day(acquired: TimeSpan | None) -> int | None:
    """Return the day in the middle of a time, in days since 1970-01-01; None if 16 bits do not hold it."""
    if acquired is None:
        return None
    middle = acquired.start + (acquired.end - acquired.start) / 2
    day = (middle.astimezone(UTC).date() - _FIRST_DAY).days
    return day if 0 <= day < UNKNOWN_DATE else None
