"""Small files that stand for those which README and guides name: the reader's scenes, labels and networks."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import torch
from affine import Affine
from numpy.typing import NDArray
from shapely.geometry import box

from seamline.model.networks.onnx_graphs import export_unet
from seamline.model.networks.unet import UNet
from seamline.model.spec.config import UNetConfig
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.synthetic.simulate import Simulation
from tests.support.small_models import save_model
from tests.support.small_rasters import write_tiled

EDGE = 192
"""Pixels on a side of each scene."""
_CRS = "EPSG:32633"
_TRANSFORM = Affine(10, 0, 380_000, 0, -10, 5_065_000)
_SENTINEL = ("coastal", "blue", "green", "red", "re1", "re2", "re3", "nir", "nir08", "nir09", "swir16", "swir22")
"""The twelve bands of a level 2A product; those that are simulated have numbers 2, 3, 4, 8, 11 and 12."""
_SIMULATED = ("B2", "B3", "B4", "B8", "B11", "B12")
_LANDSAT_SCALE, _LANDSAT_OFFSET = 2.75e-5, -0.2


def write_guide_files(folder: Path) -> None:
    """Write every file that a block of README or guides reads; what a block itself writes is not among them."""
    numbers, truth = Simulation(EDGE, EDGE, seed=3).render_block(Window(0, 0, EDGE, EDGE))
    _write_scenes(folder, numbers)
    _write_labels(folder, numbers, truth)
    _write_networks(folder)


def _write_scene(path: Path, numbers: NDArray[Any], names: tuple[str, ...], **profile: Any) -> Path:
    return write_tiled(path, numbers, names=names, crs=_CRS, transform=_TRANSFORM, **{"nodata": 0, **profile})


def _write_scenes(folder: Path, numbers: NDArray[np.uint16]) -> None:
    """``scene.tif``, ``scenes/*.tif``, a folder of Landsat bands, an archive of Sentinel-2 bands and a STAC item."""
    places = [int(name[1:]) - 1 for name in _SIMULATED]
    stack = np.repeat(numbers[:1], len(_SENTINEL), axis=0)
    stack[places] = numbers
    _write_scene(folder / "scene.tif", stack, _SENTINEL)
    common = tuple(_SENTINEL[place] for place in places)
    for name in ("scenes/a.tif", "scenes/b.tif", "data/scenes/a.tif", "data/inbox/c.tif"):
        _write_scene(folder / name, numbers[:, :64, :64], common)
    landsat = "LC09_L2SP_231062_20230723"
    reflectance = numbers.astype(float) / 10_000
    digital = np.where(numbers > 0, (reflectance - _LANDSAT_OFFSET) / _LANDSAT_SCALE, 0).astype(np.uint16)
    for place, band in enumerate(digital):
        _write_scene(folder / landsat / f"{landsat}_SR_B{place + 2}.TIF", band[None, :64, :64], ())
    with zipfile.ZipFile(folder / "S2B_T31TGL.zip", "w") as archive:
        for name, band in zip(_SIMULATED, numbers, strict=True):
            part = _write_scene(folder / "part.tif", band[None, :64, :64], ())
            archive.write(part, f"S2B_T31TGL/{name}.tif")
            part.unlink()
    assets = {
        "image": {
            "href": "./scenes/a.tif",
            "roles": ["data"],
            "eo:bands": [{"name": name, "common_name": name} for name in common],
        }
    }
    item = {"type": "Feature", "stac_version": "1.0.0", "id": "item", "geometry": None, "links": [], "assets": assets}
    (folder / "item.json").write_text(json.dumps(item | {"properties": {"datetime": "2024-06-21T10:20:00Z"}}))
    inner = box(380_200, 5_064_000, 381_000, 5_064_800)
    districts = [box(380_000, 5_063_000, 381_000, 5_065_000), box(381_000, 5_063_000, 382_000, 5_065_000)]
    frame = geopandas.GeoDataFrame({"name": ["West", "East"]}, geometry=districts, crs=_CRS)
    frame.to_file(folder / "districts.gpkg")
    geopandas.GeoDataFrame(geometry=[inner], crs=_CRS).to_crs("EPSG:4326").to_file(folder / "area.geojson")


def _write_labels(folder: Path, numbers: NDArray[np.uint16], truth: NDArray[np.uint8]) -> None:
    """Images with labels: ``truth.tif``, ``tiles/`` with ``masks/``, and ``DATA`` with polygons of buildings."""
    water = (truth == 1).astype(np.uint8)
    _write_scene(folder / "truth.tif", water[None], (), nodata=255)
    blue, green, red, nir, *_ = numbers[:, :128, :128]
    for name in ("one.tif", "two.tif"):
        _write_scene(folder / "tiles" / name, np.stack([red, green, blue, nir]), ("red", "green", "blue", "nir"))
        _write_scene(folder / "masks" / name, water[None, :128, :128] * 255, (), nodata=None)
    _write_scene(folder / "DATA" / "mosaic.tif", np.stack([red, green, blue]), ("red", "green", "blue"))
    houses = [box(x, 5_064_200, x + 60, 5_064_260) for x in range(380_100, 381_200, 200)]
    geopandas.GeoDataFrame(geometry=houses, crs=_CRS).to_file(folder / "DATA" / "buildings.gpkg")


def _write_networks(folder: Path) -> None:
    """``my-model`` and ``unet.onnx``: small U-Nets with random weights."""
    torch.manual_seed(1)
    network = UNet(UNetConfig(4, 2, depth=2, base_width=4)).eval()
    (folder / "my-model").mkdir()
    save_model(folder / "my-model", network, names=("red", "green", "blue", "nir"), assumed_nodata=0)
    (folder / "unet.onnx").write_bytes(export_unet(network, network.config, 0))
