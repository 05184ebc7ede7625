"""Sources of every kind for a collection to find."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from rasterio.shutil import copy as copy_raster

from seamline.flows.collection.discovery import Discovery, discover
from seamline.flows.collection.scene_sources import Inbox
from tests.support.small_rasters import make_noise, write_geotiff
from tests.support.stac_api_server import make_stac_item

SETTLE = 1.0


def scene_names(discovery: Discovery) -> list[str]:
    return [scene.name for scene in discovery.scenes]


def write_band(path: Path, seed: int = 0) -> Path:
    return write_geotiff(path, make_noise(1, 16, 16, seed=seed), names=("red",))


def write_item_file(path: Path, *assets: str) -> Path:
    document = make_stac_item(f"item of {path.stem}", assets[0])
    document["assets"] = {Path(href).stem: {"href": href, "type": "image/tiff"} for href in assets}
    path.write_text(json.dumps(document))
    return path


def write_vrt(path: Path, source: Path) -> Path:
    copy_raster(source, path, driver="VRT")
    return path


def write_every_kind(folder: Path) -> list[str]:
    raster = write_band(folder / "a scene (1).tif")
    write_band(folder / "bands" / "red.tif")
    write_band(folder / "safe" / "GRANULE" / "L2A" / "IMG_DATA" / "red.jp2")
    with zipfile.ZipFile(folder / "packed.zip", "w") as archive:
        archive.write(raster, "red.tif")
    write_band(folder / "plain.tif")
    made = write_item_file(folder / "x.json", "./plain.tif"), write_vrt(folder / "virtual.vrt", raster)
    archived = f"/vsizip/{folder}/packed.zip/red.tif"
    return [*map(str, (raster, folder / "bands", folder / "safe", folder / "packed.zip", *made)), archived]


def look_into_inbox(folder: Path, settle: float = SETTLE) -> Discovery:
    return discover(Inbox(folder=folder, settle=settle))
