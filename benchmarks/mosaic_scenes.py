"""Published results of scenes that nobody segmented, as many as a benchmark of maps needs, and zones over them."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from math import isqrt
from pathlib import Path

import numpy as np
import pyogrio.raw
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from PIL import Image
from pyproj import Transformer

from benchmarks.run_records import make_up_record
from seamline.flows.settings.model_folder import open_model
from seamline.pipeline.common.layout import MODEL
from seamline.pipeline.common.time_span import TimeSpan
from seamline.pipeline.geometry.pixel_area import measure_pixel_areas
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.cog import describe_layer, write_cog
from seamline.pipeline.products.layers import LAYERS, PROBABILITIES
from seamline.pipeline.products.overviews import write_overviews
from seamline.pipeline.products.run_record import write_record
from seamline.pipeline.products.seal import seal
from seamline.pipeline.products.zarr_store import ZarrLayout, create_store, write_labels, write_store_raster
from seamline.pipeline.stac.catalog import update_catalog, write_item
from seamline.pipeline.stac.class_areas import compute_class_areas, count_labels
from seamline.pipeline.stac.scene_item import ModelReference, Provenance, build_scene_item
from seamline.pipeline.synthetic.simulate import CLASSES

_ZONES = "EPSG:32632", "EPSG:32633"
_CORNER = 685_000, 5_350_000
"""Upper left corner of the first scene; the sixth column lies on the border of the zones."""
_COLUMNS, _PLACES = 10, 50
_STEP = 0.75
"""Share of a scene's edge from one scene to the next."""
_PIXEL = 10
_FIRST_DAY = datetime(2024, 4, 1, 10, 20, tzinfo=UTC)
_VARIANTS = 8


@dataclass(frozen=True)
class MadeUpScene:
    """A scene that nobody segmented: ten columns in two UTM zones, five rows, and again eight days later.

    Attributes:
        number: Number of the scene, from 0; 50 of them cover the area once.
        size: Rows and columns.
    """

    number: int
    size: int

    @property
    def id(self) -> str:
        """Name of the scene."""
        return f"scene-{self.number:04}"

    @property
    def acquired(self) -> datetime:
        """When it was taken."""
        return _FIRST_DAY + timedelta(days=8 * (self.number // _PLACES))

    @property
    def grid(self) -> GeoBox:
        """Grid of the scene; those of one place lie a few pixels apart."""
        row, column = divmod(self.number % _PLACES, _COLUMNS)
        edge, drift = self.size * _PIXEL, 37 * (self.number // _PLACES)
        x, y = _CORNER[0] + column * edge * _STEP + drift, _CORNER[1] - row * edge * _STEP - drift
        zone = _ZONES[column >= _COLUMNS // 2]
        if zone != _ZONES[0]:
            half = edge / 2
            x, y = Transformer.from_crs(*_ZONES, always_xy=True).transform(x + half, y - half)
            x, y = x - half, y + half
        return GeoBox((self.size, self.size), Affine(_PIXEL, 0, round(x), 0, -_PIXEL, round(y)), zone)

    def publish(self, results: Path) -> None:
        """Write labels, probabilities, record and item into the scene's folder, but no catalogue."""
        folder, whole = results / self.id, Window(0, 0, self.size, self.size)
        folder.mkdir(parents=True)
        probabilities = _make_probabilities(self.number % _VARIANTS, self.size)
        labels = probabilities.argmax(axis=0).astype(np.uint8)
        store = folder / "segmentation.zarr"
        create_store(store, self.grid, CLASSES, ZarrLayout(512), title=self.id, layers=[PROBABILITIES])
        write_labels(store, whole, labels)
        write_store_raster(store, PROBABILITIES, whole, probabilities)
        write_overviews(store, self.grid, CLASSES, folder / "areas")
        layer = describe_layer(LAYERS[PROBABILITIES], CLASSES)
        write_cog(store, self.grid, layer, folder / "probabilities.tif", folder / "areas", {})
        (folder / "areas").rmdir()
        model = open_model("land-water-cloud")
        shutil.copy(model.folder / MODEL, folder / MODEL)
        known = {"scene_digest": self.id, "model_digest": model.digest}
        seal(store, known)
        Image.fromarray(labels[::8, ::8] * 60).save(folder / "preview.png")
        table = compute_class_areas([count_labels(labels, measure_pixel_areas(self.grid))], CLASSES)
        outputs = ("zarr", PROBABILITIES)
        record = make_up_record(self.id, (self.size, self.size), table, outputs)
        write_record(folder, record.model_copy(update={"model": model.spec.name, **known}))
        reference = ModelReference(model.spec.name, model.digest, model.folder / MODEL)
        provenance = Provenance("a.tif", reference, TimeSpan.at(self.acquired), self.acquired, {}, "made up")
        write_item(build_scene_item(folder, self.id, self.grid, CLASSES, table, provenance), folder)


@cache
def _make_probabilities(variant: int, size: int) -> NDArray[np.uint8]:
    """Return smooth probabilities (classes, size, size) in units of 0.004, mostly near 0 or 250, as networks have."""
    coarse = np.random.default_rng(variant).normal(size=(len(CLASSES), size // 16, size // 16)).astype(np.float32)
    fields = [np.asarray(Image.fromarray(band).resize((size, size), Image.Resampling.BICUBIC)) for band in coarse]
    scores = np.exp(6 * np.stack(fields))
    return np.rint(250 * scores / scores.sum(axis=0)).astype(np.uint8)


def make_up_scenes(results: Path, numbers: Sequence[int], size: int) -> None:
    """Publish scenes into a catalogue, on all cores."""
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        pool.starmap(MadeUpScene.publish, [(MadeUpScene(number, size), results) for number in numbers], chunksize=5)
    update_catalog(results)


def write_zones(path: Path, count: int, size: int) -> None:
    """Write so many quadrangles as a GeoPackage with the attribute ``name``; they cover the first 50 scenes."""
    edge = _STEP * size * _PIXEL
    rows = next(rows for rows in range(isqrt(count), 0, -1) if count % rows == 0)
    columns = count // rows
    y, x = np.mgrid[: rows + 1, : columns + 1].astype(float)
    shift = np.random.default_rng(0).uniform(-0.3, 0.3, (2, *x.shape))
    x = _CORNER[0] + (x + shift[0]) * _COLUMNS * edge / columns
    y = _CORNER[1] - (y + shift[1]) * _PLACES // _COLUMNS * edge / rows
    corners = np.dstack([x, y])
    rings = np.stack([corners[:-1, :-1], corners[:-1, 1:], corners[1:, 1:], corners[1:, :-1]], axis=2).reshape(-1, 4, 2)
    names = np.array([f"zone {number}" for number in range(len(rings))], object)
    geometries = shapely.to_wkb(shapely.polygons(rings))
    pyogrio.raw.write(path, geometries, [names], ["name"], crs=_ZONES[0], geometry_type="Polygon", driver="GPKG")
