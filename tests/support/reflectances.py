"""Scenes of known reflectances, as products, programs and catalogues describe their numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from seamline.pipeline.scenes.band_matching import BandNeed
from seamline.pipeline.scenes.open_scene import SceneOptions, open_scene
from seamline.pipeline.scenes.scene import Scene
from tests.support.small_rasters import write_geotiff

RGB = [BandNeed("red"), BandNeed("green"), BandNeed("blue")]
SURFACE = np.linspace(0.02, 0.4, 400).reshape(20, 20)
"""Reflectances as a scene has them: some of them dark."""
DESERT = SURFACE + 0.12
SAFE = "S2A_MSIL2A_20230408T095549_N{}_R122_T33TWN_20230408T121212"


def to_numbers(values: NDArray[Any], scale: float, offset: float = 0.0) -> NDArray[np.uint16]:
    return np.rint((values - offset) / scale).astype(np.uint16)


def write_bands(folder: Path, names: str, numbers: NDArray[Any], scale: float = 1) -> Path:
    """Files of three bands; ``names`` with ``{}`` for the number of the band."""
    for number in (4, 3, 2):
        state_scale(write_geotiff(folder / names.format(number), numbers[None]), scale)
    return folder


def write_stack(
    path: Path,
    numbers: NDArray[Any],
    scale: float = 1,
    names: tuple[str, ...] = ("red", "green", "blue"),
    **profile: Any,
) -> Path:
    return state_scale(write_geotiff(path, np.stack([numbers] * 3), names=names, **profile), scale)


def state_scale(path: Path, scale: float) -> Path:
    with rasterio.open(path, "r+") as file:
        file.scales = (scale,) * file.count
    return path


def write_item(folder: Path, numbers: NDArray[Any], band: dict[str, Any], **properties: Any) -> Path:
    """An item of STAC 1.1 whose assets have one band and no list of bands."""
    assets = {}
    for position, name in enumerate(("red", "green", "blue")):
        write_geotiff(folder / f"{position}.tif", numbers[None])
        assets[name] = {"href": f"./{position}.tif", "type": "image/tiff", "eo:common_name": name, **band}
    document = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [],
        "id": properties.pop("id", "item"),
        "collection": properties.pop("collection", None),
        "geometry": None,
        "properties": {"datetime": "2023-04-08T09:55:49Z", **properties},
        "links": [],
        "assets": assets,
    }
    (folder / "item.json").write_text(json.dumps(document))
    return folder / "item.json"


def opened(source: Path, **options: Any) -> Scene:
    return open_scene(source, RGB, SceneOptions(**options))


def calibration(scene: Scene) -> tuple[float, float]:
    (found,) = {(round(band.scale, 12), round(band.offset, 12)) for band in scene.bands}
    return found
