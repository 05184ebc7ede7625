"""Items and the catalogue: fields, footprints, areas and tables."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pystac.validation
import pytest
import rasterio
import rasterio.warp
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from pystac import STACObjectType
from pystac.extensions.classification import ClassificationExtension
from pystac.extensions.file import FileExtension
from pystac.extensions.projection import ProjectionExtension
from pystac.extensions.render import RenderExtension
from pystac.validation.stac_validator import JsonSchemaSTACValidator

from seamline.pipeline.common.classes import NODATA, LabelClass
from seamline.pipeline.common.time_span import TimeSpan
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.layers import LAYERS
from seamline.pipeline.results.verify import verify
from seamline.pipeline.stac import catalog as catalog_module
from seamline.pipeline.stac.assets import ASSETS
from seamline.pipeline.stac.catalog import update_catalog, write_item
from seamline.pipeline.stac.extent import Box
from seamline.pipeline.stac.footprint import compute_footprint, compute_labelled_area, find_hull_corners, join_hulls
from seamline.pipeline.stac.items import read_item_table
from seamline.pipeline.stac.query import query_items
from seamline.pipeline.stac.scene_item import read_acquired
from seamline.pipeline.stac.stamped_table import StampedTable
from tests.support.sample_data import MANAUS, find_shared
from tests.support.small_rasters import write_geotiff
from tests.support.stac_items import (
    ACQUIRED,
    CLASSES,
    PROCESSED,
    UTM,
    check_core_schema,
    make_scene_item,
    tabulate_classes,
)

NOWHERE = GeoBox((20, 30), Affine.identity(), None)
LAEA = "+proj=laea +lat_0=-3 +lon_0=-60 +datum=WGS84 +units=m +type=crs"


@pytest.mark.parametrize("acquired", [ACQUIRED, None])
@pytest.mark.parametrize("crs", ["EPSG:32620", LAEA, None])
def test_the_item_is_valid_and_reads_back(tmp_path: Path, crs: str | None, acquired: datetime | None) -> None:
    grid = GeoBox((300, 200), Affine(30, 0, 600000, 0, -30, 9700000), crs)
    path = write_item(make_scene_item(tmp_path / "scene", grid, acquired), tmp_path / "scene")
    document = check_core_schema(json.loads(path.read_text()))
    item = pystac.Item.from_file(str(path))

    assert item.datetime == acquired
    assert read_acquired(item.properties) == (acquired and TimeSpan.at(acquired))
    span = (item.common_metadata.start_datetime, item.common_metadata.end_datetime)
    assert span == ((None, None) if acquired else (datetime(1900, 1, 1, tzinfo=UTC), PROCESSED))
    assert item.properties.get("seamline:datetime_unknown") is (None if acquired else True)
    assert (item.geometry is None) == (crs is None)
    projection = ProjectionExtension.ext(item)
    assert projection.shape == [300, 200]
    assert projection.code == ("EPSG:32620" if crs == "EPSG:32620" else None)
    if crs == LAEA:
        assert type(grid.crs)(projection.wkt2) == grid.crs
    if crs:
        assert Affine(*projection.transform) == grid.transform
    assert document["properties"]["processing:software"] == {"seamline": "0.1.0"}
    assert document["properties"]["seamline:classes"][1]["pixels"] == 60_000
    assert [link["href"] for link in document["links"] if link["rel"] == "derived_from"] == [
        "/scenes/a.tif",
        "./model.json",
    ]


def test_assets_say_what_lies_there(tmp_path: Path) -> None:
    item = make_scene_item(tmp_path / "scene", UTM)
    assert set(item.assets) == {"segmentation", "zarr"}
    cog, zarr = item.assets["segmentation"], item.assets["zarr"]
    described = ClassificationExtension.ext(cog).classes
    assert [(entry.value, entry.name, entry.color_hint) for entry in described] == [
        (0, "land", "C8B478"),
        (1, "water", "1E5AC8"),
        (NODATA, "nodata", None),
    ]
    assert [entry.to_dict().get("nodata") for entry in described] == [None, None, True]
    assert described[1].description == "open water"
    assert (cog.extra_fields["data_type"], cog.extra_fields["nodata"]) == ("uint8", NODATA)
    file = FileExtension.ext(cog)
    assert file.checksum == "1220" + hashlib.sha256(b"labels").hexdigest()
    assert file.size == 6
    written = [path for path in (tmp_path / "scene" / "segmentation.zarr").rglob("*") if path.is_file()]
    assert FileExtension.ext(zarr).size == sum(path.stat().st_size for path in written)
    assert FileExtension.ext(zarr).checksum is None
    assert all(asset.href.startswith("./") for asset in item.assets.values())


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32620", Affine(3000, 0, 500000, 0, -3000, 9700000)),
        ("EPSG:3857", Affine(3000, 0, 0, 0, -3000, 8500000)),
        ("EPSG:4326", Affine(0.03, 0, 12, 0, -0.02, 61)),
        ("EPSG:2249", Affine(3000, 0, 700000, 0, -3000, 3000000)),  # Massachusetts, in US feet
        (LAEA, Affine(3000, 0, 0, 0, -3000, 0)),
    ],
)
def test_areas_are_those_on_the_ellipsoid(crs: str, transform: Affine) -> None:
    grid = GeoBox((70, 40), transform, crs)
    labels = np.random.default_rng(0).choice([0, 1, NODATA], size=grid.shape).astype(np.uint8)
    table = tabulate_classes(labels, grid, CLASSES)
    assert [row.pixels for row in table] == [(labels == 0).sum(), (labels == 1).sum()]
    assert sum(row.share for row in table) == pytest.approx(1)

    geod, to_lonlat = (
        grid.crs.proj.get_geod(),
        Transformer.from_crs(crs, grid.crs.proj.geodetic_crs, always_xy=True),
    )
    expected = {0: 0.0, 1: 0.0}
    for row, col in zip(*np.nonzero(labels != NODATA), strict=True):
        corners = [grid.transform @ (col + x, row + y) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
        lon, lat = to_lonlat.transform(*np.transpose(corners))
        expected[labels[row, col]] += abs(geod.polygon_area_perimeter(lon, lat)[0])
    for row in table:
        assert row.area_m2 == pytest.approx(expected[row.value], rel=1e-5)


def numbers(*counts: int) -> Callable[[Any], bool]:
    return lambda value: len(value) in counts and all(type(one) in (int, float) for one in value)


def text(value: Any) -> bool:
    return type(value) is str


FIELDS: dict[str, Callable[[Any], bool]] = {
    "proj:code": lambda value: value is None or text(value),
    "proj:wkt2": text,
    "proj:shape": lambda value: len(value) == 2 and all(type(one) is int for one in value),
    "proj:transform": numbers(6, 9),
    "proj:bbox": numbers(4, 6),
    "processing:software": lambda value: all(text(one) for pair in value.items() for one in pair),
    "processing:lineage": text,
    "processing:level": lambda value: value in ("RAW", "L0", "L1", "L1A", "L1B", "L1C", "L2", "L2A", "L3", "L4"),
    "raster:scale": lambda value: type(value) in (int, float),
    "raster:offset": lambda value: type(value) in (int, float),
    "raster:spatial_resolution": lambda value: type(value) is float,
}
"""What projection 2.0, processing 1.2 and raster 2.0 say of the fields that items have of them."""


DRAWN: dict[str, Callable[[Any], bool]] = {
    "assets": lambda value: value and all(map(text, value)),
    "title": text,
    "nodata": lambda value: type(value) in (int, float),
    "resampling": text,
    "colormap_name": text,
    "colormap": lambda value: all(key.isdigit() and numbers(4)(color) for key, color in value.items()),
    "rescale": lambda value: all(numbers(2)(pair) for pair in value),
    "bidx": lambda value: all(type(band) is int and band > 0 for band in value),
}
"""And render 2.0 of what it draws; ``assets`` must be there."""


@pytest.mark.parametrize("grid", [UTM, GeoBox((70, 40), Affine(3000, 0, 0, 0, -3000, 0), LAEA), NOWHERE])
def test_fields_are_as_their_extensions_want_them(tmp_path: Path, grid: GeoBox) -> None:
    """Also of those extensions whose schemas are not at hand."""
    folder = tmp_path / "scene"
    folder.mkdir()
    for name, bands in (("confidence", 1), ("probabilities", 2)):
        write_geotiff(folder / f"{name}.tif", np.ones((bands, 8, 8), np.uint8))
    item = make_scene_item(folder, grid).to_dict(include_self_link=False, transform_hrefs=False)
    rasters = [asset for asset in item["assets"].values() if "raster:scale" in asset]
    assert len(rasters) == 2 and item["properties"]["processing:lineage"]
    for owner in (item, item["properties"], *item["assets"].values(), *(b for a in rasters for b in a["bands"])):
        for name, value in owner.items():
            if name.startswith(("proj:", "processing:", "raster:")):
                assert FIELDS[name](value), (name, value)
    assert ("proj:wkt2" in item["properties"]) == (grid.crs is not None and grid.crs.epsg is None)
    for render in item["properties"]["renders"].values():
        assert all(DRAWN[name](value) for name, value in render.items()), render
        assert set(render["assets"]) <= item["assets"].keys()
        described = item["assets"][render["assets"][0]]["bands"]
        assert all(band <= len(described) for band in render.get("bidx", ()))
    prefixes = {name.partition(":")[0] for asset in item["assets"].values() for name in asset if ":" in name}
    said = {uri.split("/")[3] for uri in item["stac_extensions"]}
    assert prefixes | {"projection", "processing", "render"} == said


def test_parts_of_killed_writers_are_cleared_after_a_day(tmp_path: Path) -> None:
    """Those of others, who may be at work, and of other files stay."""
    days = {".catalog.json.ab.part": 2, ".items.parquet.cd.part": 2, ".catalog.json.ef.part": 0.5, ".mine.part": 9}
    write_item(make_scene_item(tmp_path / "scene", UTM), tmp_path / "scene")
    for name, age in days.items():
        (tmp_path / name).touch()
        then = time.time() - age * 24 * 3600
        os.utime(tmp_path / name, (then, then))
    update_catalog(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"scene", "catalog.json", "collection.json", "items.parquet", ".catalog.json.ef.part", ".mine.part"}


def test_a_scene_without_valid_pixels_or_place_has_shares_but_no_area() -> None:
    grid = GeoBox((20, 30), Affine.identity(), None)
    table = tabulate_classes(np.full(grid.shape, NODATA, np.uint8), grid, CLASSES)
    assert [(row.pixels, row.share, row.area_m2) for row in table] == [(0, 0.0, None), (0, 0.0, None)]


@settings(max_examples=40, deadline=None)
@given(zone=st.integers(1, 60), easting=st.integers(2, 8), northing=st.integers(0, 90), angle=st.integers(0, 90))
def test_every_pixel_lies_in_the_footprint(zone: int, easting: int, northing: int, angle: int) -> None:
    corner = Affine(1000, 0, easting * 1e5, 0, -1000, northing * 1e5) @ Affine.rotation(angle)
    grid = GeoBox((90, 110), corner, f"EPSG:{32600 + zone}")
    outline = compute_footprint(grid)
    assert outline is not None and outline.is_valid
    row, col = np.meshgrid(np.arange(1.0, 90, 8), np.arange(1.0, 110, 8))
    x, y = grid.pix2wld(col.ravel(), row.ravel())
    lon, lat = Transformer.from_crs(grid.crs.proj, "OGC:CRS84", always_xy=True).transform(x, y)
    assert shapely.contains_xy(outline, lon, lat).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1), angle=st.integers(0, 90), zone=st.sampled_from([1, 33]))
def test_the_footprint_is_where_labels_are(seed: int, share: float, angle: int, zone: int) -> None:
    """With nodata along the edges and an area of interest, on both sides of the antimeridian."""
    corner = Affine.translation(300_000, 8_000_000) @ Affine.rotation(angle) @ Affine.scale(2000, -2000)
    grid = GeoBox((90, 110), corner, f"EPSG:{32600 + zone}")
    rng = np.random.default_rng(seed)
    row, col = np.mgrid[:90, :110] + 0.5
    aoi = shapely.union_all([shapely.box(*np.sort(rng.uniform(-5, 115, 4))) for _ in range(3)])
    aoi = shapely.difference(aoi, shapely.Point(50, 40).buffer(9))
    known = (col + row * share > 40) & shapely.contains_xy(aoi, col, row)
    labels, split = np.where(known, 0, NODATA).astype(np.uint8), int(rng.integers(1, 90))
    parts = [Window(0, 0, split, 110), Window(split, 0, 90 - split, 110)]
    hull = join_hulls([find_hull_corners(labels[part.to_slices()], part) for part in parts])
    assert (hull is None) == (not known.any())
    placed = shapely.transform(aoi, lambda xy: np.column_stack(corner @ xy.T))
    outline = compute_footprint(grid, compute_labelled_area(grid, hull, placed.wkt))
    lon, lat = Transformer.from_crs(grid.crs.proj, "OGC:CRS84", always_xy=True).transform(*grid.pix2wld(col, row))
    if not known.any():
        return
    assert outline is not None and outline.is_valid and hull is not None
    assert shapely.covers(outline.buffer(1e-2), shapely.points(lon[known], lat[known])).all()
    off = np.array([np.hypot(row - 40, col - 50) < 7, ~shapely.contains_xy(hull.buffer(2), col, row)]).any(0)
    assert not shapely.contains_xy(outline, lon[off], lat[off]).any()


@pytest.mark.parametrize(
    ("grid", "inside", "outside", "bbox"),
    [
        (
            GeoBox((100, 100), Affine(2000, 0, 300000, 0, -2000, 8000000), "EPSG:32601"),
            [(179.9, 71.5), (-179.9, 71.5)],
            [(0, 71.5)],
            lambda w, s, e, n: 170 < w < 180 and -180 < e < -170,
        ),
        (
            GeoBox((100, 100), Affine(20000, 0, -1e6, 0, -20000, 1e6), "EPSG:3995"),
            [(0, 89.9), (123, 85), (-179, 82)],
            [(0, 70)],
            lambda w, s, e, n: (w, e, n) == (-180, 180, 90) and 75 < s < 80,
        ),
        (
            GeoBox((300, 260), Affine(1000, 0, -140_000, 0, -1000, 170_000), "EPSG:3031"),
            [(0, -89.9), (123, -89.5)],
            [(0, -80)],
            lambda w, s, e, n: (w, s, e) == (-180, -90, 180) and -89 < n < -87,
        ),
        (
            GeoBox((180, 360), Affine(1, 0, -180, 0, -1, 90), "EPSG:4326"),
            [(0, 0), (179, 89), (-179, -89)],
            [],
            lambda *bbox: bbox == (-180, -90, 180, 90),
        ),
        (
            GeoBox((180, 360), Affine(1, 0, 0, 0, -1, 90), "EPSG:4326"),
            [(1, 0), (-1, 0)],
            [],
            lambda *bbox: bbox == (-180, -90, 180, 90),
        ),
    ],
    ids=["antimeridian", "pole", "pole, not in the middle", "globe", "globe from 0 to 360"],
)
def test_footprints_that_wrap_around_the_earth(
    tmp_path: Path, grid: GeoBox, inside: list[Any], outside: list[Any], bbox: Any
) -> None:
    item = make_scene_item(tmp_path / "scene", grid)
    outline = shapely.geometry.shape(item.geometry)
    assert outline.is_valid
    assert all(outline.covers(shapely.Point(point)) for point in inside)
    assert not any(outline.intersects(shapely.Point(point)) for point in outside)
    assert item.bbox is not None and bbox(*item.bbox)
    check_core_schema(item.to_dict(include_self_link=False, transform_hrefs=False))


@pytest.mark.parametrize("shift", [0, 3_000_000])
def test_the_footprint_of_a_full_disk_ends_at_the_limb(shift: float) -> None:
    """The corners of the raster look past the Earth; shifted, three of its sides do."""
    edge, pixel = 128, 86_000
    crs = "+proj=geos +h=35785831 +lon_0=0 +sweep=y +ellps=WGS84 +units=m"
    transform = Affine(pixel, 0, -pixel * edge / 2 + shift, 0, -pixel, pixel * edge / 2)
    outline = compute_footprint(GeoBox((edge, edge), transform, crs))
    col, row = np.meshgrid(np.arange(edge) + 0.5, np.arange(edge) + 0.5)
    lon, lat = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True).transform(*(transform @ (col, row)))
    seen = np.isfinite(lon)
    assert shapely.contains_xy(outline.buffer(0.5), lon[seen], lat[seen]).all()
    assert 0.75 < seen.mean() + (shift > 0) < 1.75
    hull = shapely.MultiPoint(np.column_stack([lon[seen], lat[seen]])).convex_hull
    assert hull.buffer(12).contains(outline)
    nowhere = GeoBox((4, 4), transform @ Affine.translation(-8, -8), crs)
    assert compute_footprint(nowhere) is None


def test_a_real_scene_lies_where_rasterio_sees_it() -> None:
    with rasterio.open(find_shared(MANAUS)) as scene:
        grid = GeoBox.from_rio(scene)
        expected = rasterio.warp.transform_bounds(scene.crs, "OGC:CRS84", *scene.bounds, densify_pts=64)
    outline = compute_footprint(grid)
    assert outline is not None
    assert outline.bounds == pytest.approx(expected, abs=3e-5)
    assert len(outline.exterior.coords) < 20


@pytest.mark.parametrize(("owner", "step"), [(catalog_module, "_write_json"), (StampedTable, "write")])
def test_what_was_written_from_old_items_is_put_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, step: str
) -> None:
    """Between our reading and our writing, another process publishes an item and rewrites one."""

    def publish(name: str, turn: int) -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        item = {"id": name, "geometry": None, "properties": {"turn": turn}, "links": [], "assets": {}}
        (tmp_path / name / "item.json").write_text(json.dumps(item))
        update_catalog(tmp_path)

    original = getattr(owner, step)

    def overtaken(*given: Any) -> None:
        monkeypatch.setattr(owner, step, original)
        publish("b", 1)
        publish("a", 2)
        original(*given)

    monkeypatch.setattr(owner, step, overtaken)
    publish("a", 1)
    links = json.loads((tmp_path / "catalog.json").read_text())["links"]
    assert [link["href"] for link in links if link["rel"] == "item"] == ["./a/item.json", "./b/item.json"]
    assert {name: row["turn"] for name, row in read_item_table(tmp_path / "items.parquet").items()} == {"a": 2, "b": 1}


def test_every_file_that_is_there_is_an_asset(tmp_path: Path) -> None:
    """And says how it is drawn; the extensions' own modules read it."""
    folder = tmp_path / "scene"
    folder.mkdir()
    for known in ASSETS:
        if known.name.endswith(".zarr"):
            continue
        if known.key in LAYERS:
            layer = LAYERS[known.key]
            bands = np.full((2 if layer.per_class else 1, 30, 20), 125, layer.dtype)
            write_geotiff(folder / known.name, bands, nodata=layer.nodata)
            with rasterio.open(folder / known.name, "r+") as file:
                file.update_tags(1, **{f"STATISTICS_{tag}": 125 for tag in ("MINIMUM", "MAXIMUM", "MEAN", "STDDEV")})
        else:
            (folder / known.name).write_bytes(b"x")
    item = make_scene_item(folder, UTM)
    assert {asset.href for asset in item.assets.values()} == {f"./{known.name}" for known in ASSETS}
    assert all(asset.title and asset.media_type and asset.roles for asset in item.assets.values())
    probabilities = item.assets["probabilities"].extra_fields
    assert [band["name"] for band in probabilities["bands"]] == ["land", "water"]
    assert [probabilities[name] for name in ("raster:scale", "nodata", "data_type")] == [0.004, NODATA, "uint8"]
    assert item.assets["segmentation"].extra_fields["raster:spatial_resolution"] == pytest.approx(30, abs=0.1)
    statistics = {"minimum": 125, "maximum": 125, "mean": 125, "stddev": 125}
    assert [band.get("statistics") for band in probabilities["bands"]] == [statistics, None]
    drawn = RenderExtension.ext(item).renders
    layers = {name for name, layer in LAYERS.items() if not layer.per_class}
    assert set(drawn) == {"segmentation", "probability_land", "probability_water", *layers}
    assert drawn["last_date"].rescale == [[125, 126]] and drawn["confidence"].rescale == [[0, 250]]
    days = item.assets["last_date"].extra_fields
    assert (days["data_type"], days["nodata"], days["unit"]) == ("uint16", 65535, "days since 1970-01-01")
    assert days["bands"] == [{"name": "last_date", "statistics": statistics}]
    assert drawn["segmentation"].colormap == {"0": [200, 180, 120, 255], "1": [30, 90, 200, 255]}
    assert all(set(render.assets) <= set(item.assets) for render in drawn.values())
    document = item.to_dict(include_self_link=False, transform_hrefs=False)
    check_core_schema(document)
    by_the_extensions_own_schemas(document)


@pytest.mark.parametrize("crs", ["EPSG:32620", LAEA, None])
def test_items_are_valid_by_the_extensions_own_schemas(tmp_path: Path, crs: str | None) -> None:
    odd = [LabelClass(0, "bare land", (0, 0, 0)), LabelClass(1, "Öl", (1, 1, 1))]
    grid = GeoBox((300, 200), Affine(30, 0, 600000, 0, -30, 9700000), crs)
    item = make_scene_item(tmp_path / "scene", grid, classes=odd)
    assert item.properties["bare_land_share"] == 0 and item.properties["ol_share"] == 1
    by_the_extensions_own_schemas(item.to_dict(include_self_link=False, transform_hrefs=False))


def by_the_extensions_own_schemas(item: dict[str, Any], kind: STACObjectType = STACObjectType.ITEM) -> None:
    """Of those extensions whose schemas lie there, as <extension>/<version>/schema.json."""
    schemas, validator = find_shared("stac-schemas"), JsonSchemaSTACValidator()
    for path in schemas.glob("*/*/schema.json"):
        uri = f"https://stac-extensions.github.io/{path.parent.relative_to(schemas)}/schema.json"
        validator.schema_cache[uri] = json.loads(path.read_text())
    for uri in item["stac_extensions"]:
        if uri in validator.schema_cache:
            validator.validate_extension(item, kind, "1.1.0", uri)


def test_the_model_is_linked_as_its_extension_wants(tmp_path: Path) -> None:
    item = make_scene_item(tmp_path / "scene", UTM)
    link = next(link for link in item.links if "mlm:name" in link.extra_fields)
    assert (link.rel, link.target, link.media_type) == ("derived_from", "./model.json", "application/geo+json")
    assert link.extra_fields == {"mlm:name": "a U-Net", "file:checksum": "1220" + "ab" * 32}
    assert [item.properties[name] for name in ("model", "model_digest")] == ["a U-Net", "ab" * 32]


ODD: list[dict[str, Any]] = [
    {"bbox": [1, 2]},
    {"geometry": {"type": "Blob"}},
    {"geometry": "here"},
    {"links": None},
    {"links": ["a"]},
    {"assets": []},
    {"assets": {"a": {}}},
    {"properties": []},
    {"properties": {"datetime": "gestern"}},
    {"properties": {"datetime": 5}},
    {"properties": {"geometry": 1}},
    {"properties": {"title": "\ud800"}},
]


def test_an_odd_item_keeps_no_other_from_being_published(tmp_path: Path) -> None:
    write_item(make_scene_item(tmp_path / "scene", UTM), tmp_path / "scene")
    item = json.loads((tmp_path / "scene" / "item.json").read_text())
    for number, change in enumerate(ODD):
        odd = {**item, "id": f"odd-{number}", **change}
        (tmp_path / f"odd-{number}").mkdir()
        (tmp_path / f"odd-{number}" / "item.json").write_text(json.dumps(odd))
    solid = {**item, "bbox": [*item["bbox"][:2], 0, *item["bbox"][2:], 9], "links": [{**item["links"][0], "n": 5}]}
    (tmp_path / "solid").mkdir()
    (tmp_path / "solid" / "item.json").write_text(json.dumps(solid))
    update_catalog(tmp_path)
    assert set(read_item_table(tmp_path / "items.parquet")) == {"scene", "solid"}
    assert len(query_items(tmp_path, Box(-180, -90, 180, 90))) == 2
    found = {finding.scene for finding in verify(tmp_path)}
    assert {f"odd-{number}" for number in range(len(ODD))} <= found


def publish_dated(out: Path, name: str, acquired: datetime | None, crs: str | None = "EPSG:32620") -> None:
    out.mkdir(exist_ok=True)
    grid = GeoBox(UTM.shape, UTM.transform, crs)
    write_item(make_scene_item(out / name, grid, acquired), out / name)
    update_catalog(out, name)


def read_collection(out: Path) -> dict[str, Any]:
    return check_core_schema(json.loads((out / "collection.json").read_text()))


def test_the_collection_says_what_the_items_have_in_common(tmp_path: Path) -> None:
    publish_dated(tmp_path, "unknown", None, None)
    first = read_collection(tmp_path)
    assert first["extent"]["spatial"]["bbox"] == [[-180, -90, 180, 90]]
    assert first["extent"]["temporal"]["interval"] == [["1900-01-01T00:00:00Z", "2026-11-22T12:00:00Z"]]
    for year in (2021, 2023):
        publish_dated(tmp_path, f"scene-{year}", datetime(year, 7, 23, tzinfo=UTC))
    found = read_collection(tmp_path)
    items = [json.loads(path.read_text()) for path in tmp_path.glob("*/item.json")]
    assert {item["collection"] for item in items} == {found["id"]}
    assert found["extent"]["temporal"]["interval"] == [["2021-07-23T00:00:00Z", "2023-07-23T00:00:00Z"]]
    assert found["extent"]["spatial"]["bbox"] == [next(item["bbox"] for item in items if item.get("bbox"))]
    assert found["summaries"]["model"] == ["a U-Net"] and found["summaries"]["proj:code"] == ["EPSG:32620"]
    assert found["summaries"]["water_share"] == {"minimum": 1.0, "maximum": 1.0}
    assert set(found["item_assets"]) == set().union(*(item["assets"] for item in items))
    catalog = pystac.Catalog.from_file(str(tmp_path / "catalog.json"))
    assert sorted(item.id for item in catalog.get_items(recursive=True)) == sorted(item["id"] for item in items)
    collections = {item.get_collection().id for item in catalog.get_items()}  # type: ignore[union-attr]
    assert collections == {child.id for child in catalog.get_children()} == {found["id"]}
    by_the_extensions_own_schemas(found, STACObjectType.COLLECTION)


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"a": 1}},
        {"model": 5, "water_share": float("nan")},
        {"seamline:datetime_unknown": "perhaps", "proj:code": ["EPSG:32620"]},
        {"seamline:datetime_unknown": 1.5, "land_share": "much"},
    ],
)
def test_an_odd_item_does_not_keep_the_others_from_the_collection(tmp_path: Path, change: dict[str, Any]) -> None:
    for name in ("scene", "odd"):
        publish_dated(tmp_path, name, datetime(2023, 7, 23, tzinfo=UTC))
        path = tmp_path / name / "item.json"
        item = json.loads(path.read_text())
        path.write_text(json.dumps({**item, "properties": item["properties"] | change}))
        update_catalog(tmp_path)
        text = (tmp_path / "collection.json").read_text()
        assert read_collection(tmp_path)["extent"]["temporal"]["interval"][0][0] == "2023-07-23T00:00:00Z"
        assert "NaN" not in text and set(json.loads(text)["item_assets"]) == {"segmentation", "zarr"}


def test_a_collection_across_the_antimeridian_is_as_wide_as_the_earth(tmp_path: Path) -> None:
    publish_dated(tmp_path, "fiji", None)
    path = tmp_path / "fiji" / "item.json"
    item = json.loads(path.read_text())
    path.write_text(json.dumps({**item, "bbox": [179, -17, -178, -16]}))
    update_catalog(tmp_path)
    assert read_collection(tmp_path)["extent"]["spatial"]["bbox"] == [[-180, -17, 180, -16]]
