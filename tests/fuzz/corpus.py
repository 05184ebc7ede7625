"""The undamaged files of every kind, small, each variant in a folder of its own."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pyproj
import rasterio
import rasterio.shutil
import rasterio.vrt
import shapely
from affine import Affine
from rasterio.enums import ColorInterp

from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff, write_tiled
from tests.support.small_recipes import SMALL_RECIPE

EDGE = 96
_AREA = shapely.box(500_300, 5_997_600, 502_400, 5_999_700)
_LANDSAT = "LC08_L1TP_232062_20200801_20200801_02_T1"
_SENTINEL = "S2A_MSIL1C_20230101T101010_N0400_R022_T32TQM_20230101T120000"


def write_scene(path: Path, **profile: Any) -> Path:
    """A scene of six bands with names, on ground that the area of interest meets."""
    options = {"names": BAND_NAMES, "nodata": 0, **profile}
    return write_tiled(path, make_noise(len(BAND_NAMES), EDGE, EDGE), **options)


def write_rasters(folder: Path) -> None:
    write_scene(folder / "tiled" / "scene.tif")
    write_scene(folder / "planar" / "scene.tif", interleave="band", compress="lzw", predictor=2)
    write_scene(folder / "strips" / "scene.tif", tiled=False, compress="packbits")
    write_scene(folder / "plain" / "scene.tif", compress="none")
    write_tiled(folder / "floats" / "scene.tif", make_noise(6, EDGE, EDGE) / np.float32(10_000), names=BAND_NAMES)
    degrees = {"transform": Affine(0.001, 0, 179.95, 0, -0.001, 46), "crs": "EPSG:4326"}
    path = write_tiled(folder / "alpha" / "scene.tif", make_noise(7, EDGE, EDGE, high=255, dtype="uint8"), **degrees)
    with rasterio.open(path, "r+") as file:
        for index, name in enumerate(BAND_NAMES, start=1):
            file.set_band_description(index, name)
        file.colorinterp = [ColorInterp.gray] * 6 + [ColorInterp.alpha]
        file.update_tags(ACQUISITIONDATETIME="2024-06-01T10:00:00")
        file.scales, file.offsets = (1e-4,) * 7, (0.0,) * 7
    with rasterio.Env(GDAL_TIFF_OVR_BLOCKSIZE=64, GDAL_TIFF_INTERNAL_MASK=True):
        path = write_scene(folder / "overviews" / "scene.tif", nodata=None)
        with rasterio.open(path, "r+") as file:
            file.write_mask(np.ones((EDGE, EDGE), bool))
            file.build_overviews([2])


def write_vrts(folder: Path) -> None:
    for variant in ("plain", "stack", "warped", "two"):
        write_scene(folder / variant / "source.tif")
    rasterio.shutil.copy(folder / "plain" / "source.tif", folder / "plain" / "scene.vrt", driver="VRT")
    rasterio.shutil.copy(folder / "two" / "source.tif", folder / "two" / "other.vrt", driver="VRT")
    rasterio.shutil.copy(folder / "two" / "other.vrt", folder / "two" / "scene.vrt", driver="VRT")
    bands = "".join(
        f'<VRTRasterBand dataType="UInt16" band="{n}"><Description>{name}</Description><NoDataValue>0</NoDataValue>'
        f'<ComplexSource><SourceFilename relativeToVRT="1">source.tif</SourceFilename><SourceBand>{n}</SourceBand>'
        f'<SrcRect xOff="0" yOff="0" xSize="96" ySize="96"/><DstRect xOff="0" yOff="0" xSize="96" ySize="96"/>'
        f"<ScaleRatio>1</ScaleRatio><NODATA>0</NODATA></ComplexSource></VRTRasterBand>"
        for n, name in enumerate(BAND_NAMES, start=1)
    )
    grid = "<SRS>EPSG:32620</SRS><GeoTransform>500000, 30, 0, 6000000, 0, -30</GeoTransform>"
    size = 'rasterXSize="96" rasterYSize="96"'
    (folder / "stack" / "scene.vrt").write_text(f"<VRTDataset {size}>{grid}{bands}</VRTDataset>")
    warped = folder / "warped"
    with rasterio.open(warped / "source.tif") as file, rasterio.vrt.WarpedVRT(file, crs="EPSG:3857") as virtual:
        rasterio.shutil.copy(virtual, warped / "scene.vrt", driver="VRT")


def write_sidecars(folder: Path) -> None:
    for variant in ("statistics", "world", "overviews"):
        write_scene(folder / variant / "scene.tif", **({"crs": None} if variant == "world" else {}))
    (folder / "statistics" / "scene.tif.aux.xml").write_text(
        "<PAMDataset><SRS>EPSG:32620</SRS><GeoTransform>500000, 30, 0, 6000000, 0, -30</GeoTransform>"
        '<Metadata><MDI key="ACQUISITIONDATETIME">2024-06-01</MDI></Metadata><PAMRasterBand band="1">'
        '<NoDataValue>7</NoDataValue><Scale>0.0001</Scale><Offset>0</Offset><Metadata domain="IMAGERY">'
        '<MDI key="CENTRAL_WAVELENGTH_UM">0.48</MDI></Metadata></PAMRasterBand></PAMDataset>'
    )
    (folder / "world" / "scene.tif.aux.xml").write_text("<PAMDataset><SRS>EPSG:32620</SRS></PAMDataset>")
    (folder / "world" / "scene.tfw").write_text("30\n0\n0\n-30\n500015\n5999985\n")
    half = write_tiled(folder / "half.tif", make_noise(len(BAND_NAMES), EDGE // 2, EDGE // 2))
    half.rename(folder / "overviews" / "scene.tif.ovr")


def _make_item(**assets: dict[str, Any]) -> dict[str, Any]:
    outline = shapely.geometry.mapping(shapely.box(-63, 54.0, -62.9, 54.1))
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": "an item",
        "collection": "s2",
        "bbox": [-63, 54.0, -62.9, 54.1],
        "geometry": json.loads(json.dumps(outline)),
        "properties": {"datetime": "2024-06-01T10:00:00Z", "s2:processing_baseline": "05.09"},
        "links": [{"rel": "self", "href": "./item.json"}],
        "assets": assets,
    }


def _describe_bands() -> list[dict[str, Any]]:
    return [{"name": f"B{n}", "eo:common_name": name, "nodata": 0} for n, name in enumerate(BAND_NAMES, start=1)]


def write_items(folder: Path) -> None:
    media = {"type": "image/tiff; application=geotiff", "roles": ["data"]}
    for variant, fields in {
        "one": {"bands": _describe_bands(), "alternate": {"s3": {"href": "s3://canary/scene.tif"}}},
        "old": {
            "eo:bands": [{"common_name": name, "center_wavelength": 0.5} for name in BAND_NAMES],
            "raster:bands": [{"scale": 1e-4, "offset": -0.1, "nodata": 0, "spatial_resolution": 30}] * 6,
        },
        "bare": {},
    }.items():
        write_scene(folder / variant / "scene.tif")
        _write_json(folder / variant / "item.json", _make_item(image={"href": "./scene.tif", **media, **fields}))


def write_catalogs(folder: Path) -> None:
    inner = folder / "tree" / "inner"
    write_scene(inner / "scene.tif")
    _write_json(inner / "item.json", _make_item(image={"href": "./scene.tif", "type": "image/tiff"}))
    links = [{"rel": "item", "href": "./item.json"}, {"rel": "root", "href": "../catalog.json"}]
    common = {"stac_version": "1.0.0", "id": "c", "description": "d"}
    _write_json(inner / "collection.json", {"type": "Collection", **common, "license": "x", "links": links})
    links = [{"rel": "child", "href": "./inner/collection.json"}, {"rel": "item", "href": "./inner/item.json"}]
    _write_json(folder / "tree" / "catalog.json", {"type": "Catalog", **common, "links": links})


def write_searches(folder: Path) -> None:
    """The documents of a STAC API; ``@SERVER@`` becomes the address of their folder."""
    place = folder / "api"
    conforms = ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"]
    links = [
        {"rel": "search", "href": "@SERVER@/search.json", "type": "application/geo+json", "method": "GET"},
        {"rel": "self", "href": "@SERVER@/landing.json"},
    ]
    landing = {"type": "Catalog", "stac_version": "1.0.0", "id": "api", "description": "d"}
    place.mkdir(parents=True)
    _write_json(place / "landing.json", {**landing, "conformsTo": conforms, "links": links})
    item = _make_item(image={"href": "http://canary.invalid/scene.tif", "type": "image/tiff"})
    page = {"type": "FeatureCollection", "features": [item, {**item, "id": "b"}], "links": []}
    _write_json(place / "search.json", page)
    (place / "address.txt").write_text("@SERVER@")


def write_manifests(folder: Path) -> None:
    for name, text in {
        "list.txt": "# scenes\nscene.tif\n'item.json'\nsub\\scene.tif\n~/x.tif\n",
        "list.csv": "id;Source;other\n1;scene.tif;x\n2;item.json;y\n",
        "list.json": '["scene.tif", "item.json"]',
    }.items():
        place = folder / name.replace(".", "-")
        write_scene(place / "scene.tif")
        _write_json(place / "item.json", _make_item(image={"href": "./scene.tif", "type": "image/tiff"}))
        (place / name).write_text(text)


def write_products(folder: Path) -> None:
    """A Landsat product of level 1 with its metadata, and a Sentinel-2 product."""
    landsat = folder / "landsat" / _LANDSAT
    lines = ["GROUP = LANDSAT_METADATA_FILE", 'SCENE_CENTER_TIME = "14:12:31.27Z"', "SUN_ELEVATION = 40.5"]
    for number in range(2, 8):
        lines += [f"REFLECTANCE_MULT_BAND_{number} = 2.0E-05", f"REFLECTANCE_ADD_BAND_{number} = -0.1"]
        write_tiled(landsat / f"{_LANDSAT}_B{number}.TIF", make_noise(1, EDGE, EDGE), nodata=0)
    (landsat / f"{_LANDSAT}_MTL.txt").write_text("\n".join([*lines, "END_GROUP = LANDSAT_METADATA_FILE", "END", ""]))
    safe = folder / "sentinel" / f"{_SENTINEL}.SAFE"
    images = []
    for band in ("B02", "B03", "B04", "B08", "B11", "B12"):
        name = f"GRANULE/L1C_T32TQM/IMG_DATA/T32TQM_20230101T101010_{band}"
        write_geotiff(safe / f"{name}.jp2", make_noise(1, EDGE, EDGE))
        images.append(f"<IMAGE_FILE>{name}</IMAGE_FILE>")
    (safe / "MTD_MSIL1C.xml").write_text(
        '<n1:Level-1C_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-1C.xsd">'
        "<n1:General_Info><Product_Info><PROCESSING_BASELINE>04.00</PROCESSING_BASELINE><Product_Organisation>"
        '<Granule_List><Granule granuleIdentifier="L1C_T32TQM" imageFormat="JPEG2000">'
        f"{''.join(images)}</Granule></Granule_List></Product_Organisation></Product_Info></n1:General_Info>"
        "</n1:Level-1C_User_Product>"
    )
    tile = (
        '<n1:Level-1C_Tile_ID xmlns:n1="x"><n1:Geometric_Info><Tile_Geocoding><HORIZONTAL_CS_CODE>EPSG:32620'
        '</HORIZONTAL_CS_CODE><Size resolution="10"><NROWS>96</NROWS><NCOLS>96</NCOLS></Size><Geoposition '
        'resolution="10"><ULX>500000</ULX><ULY>6000000</ULY><XDIM>10</XDIM><YDIM>-10</YDIM></Geoposition>'
        "</Tile_Geocoding></n1:Geometric_Info></n1:Level-1C_Tile_ID>"
    )
    (safe / "GRANULE" / "L1C_T32TQM" / "MTD_TL.xml").write_text(tile)


def write_archives(folder: Path) -> None:
    for variant in ("zip", "tar"):
        scene = write_scene(folder / variant / "source" / "scene.tif")
        if variant == "zip":
            with zipfile.ZipFile(folder / variant / "scene.zip", "w", zipfile.ZIP_DEFLATED) as archive:
                archive.write(scene, "scene.tif")
        else:
            import tarfile

            with tarfile.open(folder / variant / "scene.tar", "w") as tar:
                tar.add(scene, "scene.tif")
        scene.unlink()
        scene.parent.rmdir()


def write_areas(folder: Path) -> None:
    degrees = [[[-63.0, 54.12], [-62.96, 54.12], [-62.96, 54.14], [-63.0, 54.14], [-63.0, 54.12]]]
    feature = {"type": "Feature", "properties": {"a": 1}, "geometry": {"type": "Polygon", "coordinates": degrees}}
    many = {"type": "MultiPolygon", "coordinates": [degrees, degrees]}
    collection = {"type": "FeatureCollection", "features": [feature, {**feature, "geometry": many}]}
    crs = {"type": "name", "properties": {"name": "EPSG:4326"}}
    for variant in ("json", *_VECTOR_DRIVERS):
        write_scene(folder / variant / "scene.tif")
    _write_json(folder / "json" / "area.geojson", {**collection, "crs": crs})
    _write_vectors(folder, "area")


def write_zones(folder: Path) -> None:
    for variant in ("parquet", *_VECTOR_DRIVERS):
        (folder / variant).mkdir(parents=True)
    _write_vectors(folder, "area")
    column = {"encoding": "WKB", "geometry_types": ["Polygon"], "crs": pyproj.CRS(32620).to_json_dict()}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    table = pa.table({"geometry": [shapely.to_wkb(_AREA)], "class": [1]})
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), folder / "parquet" / "area.parquet")


_VECTOR_DRIVERS = {"gpkg": "GPKG", "fgb": "FlatGeobuf", "shp": "ESRI Shapefile", "kml": "KML", "gml": "GML"}


def _write_vectors(folder: Path, stem: str) -> None:
    areas = np.array([_AREA, shapely.box(500_000, 5_998_000, 501_000, 5_999_000)])
    for suffix, driver in _VECTOR_DRIVERS.items():
        crs, shapes = "EPSG:32620", areas
        if driver == "KML":
            crs, shapes = "EPSG:4326", np.array([shapely.box(-63.0, 54.12, -62.96, 54.14)])
        pyogrio.raw.write(
            folder / suffix / f"{stem}.{suffix}",
            shapely.to_wkb(shapes),
            [np.arange(len(shapes))],
            ["class"],
            crs=crs,
            geometry_type="Polygon",
            driver=driver,
        )


def write_labels(folder: Path) -> None:
    for variant in ("tif", *_VECTOR_DRIVERS, "geojson"):
        write_geotiff(folder / variant / "prediction.tif", make_noise(1, EDGE, EDGE, low=0, high=4, dtype="uint8"))
    labels = make_noise(1, EDGE, EDGE, low=0, high=4, dtype="uint8")
    write_tiled(folder / "tif" / "truth.tif", labels, transform=Affine(15, 0, 500_000, 0, -15, 6_000_000), nodata=255)
    _write_vectors(folder, "truth")
    feature = {"type": "Feature", "properties": {"class": 1}, "geometry": shapely.geometry.mapping(_AREA)}
    crs = {"type": "name", "properties": {"name": "EPSG:32620"}}
    document = {"type": "FeatureCollection", "crs": crs, "features": [feature]}
    _write_json(folder / "geojson" / "truth.geojson", document)


def write_recipes(folder: Path) -> None:
    pair = {"kind": "labelled", "name": "pair", "image": "scene.tif", "labels": "truth.tif", "holdout": 0.2}
    pair |= {"values": {"0": 0, "1": 1}, "scale": 1e-4, "part": [0, 0, 1, 1], "weight": 1}
    extras = {"warp": {"elastic": 10, "rotation": 45, "zoom": 0.2}, "loss": {"cross_entropy": 1, "dice": 1}}
    for variant, changes in {"simulated": {}, "pair": {"sources": [pair], **extras}}.items():
        write_scene(folder / variant / "scene.tif")
        labels = make_noise(1, EDGE, EDGE, low=0, high=4, dtype="uint8")
        write_geotiff(folder / variant / "truth.tif", labels)
        _write_json(folder / variant / "recipe.yaml", {**SMALL_RECIPE, **changes})


def write_models(folder: Path) -> None:
    from tests.support.small_models import make_random_network, save_model

    for variant, config in {
        "plain": {},
        "valid": {"padding": "valid", "norm": "group", "upsampling": "bilinear"},
    }.items():
        (folder / variant).mkdir(parents=True)
        save_model(folder / variant, make_random_network(**config), description="a model")


def write_networks(folder: Path) -> None:
    from tests.support.foreign_networks import make_foreign_unet, save_network

    for suffix in ("pth", "pt", "pt2", "onnx"):
        (folder / suffix).mkdir(parents=True)
        save_network(make_foreign_unet(depth=1), folder / suffix / f"network.{suffix}")


def write_results(folder: Path) -> None:
    from odc.geo.geobox import GeoBox

    from tests.support import served_scenes
    from tests.support.small_rasters import UTM

    served_scenes.SHAPE = (EDGE, EDGE)
    labels = make_noise(EDGE, EDGE, low=0, high=3, dtype="uint8")
    grid = GeoBox((EDGE, EDGE), UTM, "EPSG:32620")
    for scene in ("one", "two"):
        served_scenes.publish_labels(folder / "out" / scene, grid, labels)


def write_inboxes(folder: Path) -> None:
    """What is dropped into an inbox, beside a link that leads out of it."""
    for write in (write_vrts, write_items, write_sidecars, write_archives):
        scratch = folder / "scratch"
        write(scratch)
        for variant in sorted(scratch.iterdir()):
            inbox = folder / f"{write.__name__}-{variant.name}" / "inbox"
            inbox.parent.mkdir()
            variant.rename(inbox)
            (inbox / "link.tif").symlink_to("../../outside/secret.tif")
        scratch.rmdir()


def write_outside(folder: Path) -> None:
    """What lies outside of every folder, and would be a scene."""
    scene = write_scene(folder / "secret.tif")
    with zipfile.ZipFile(folder / "secret.zip", "w") as archive:
        archive.write(scene, "secret.tif")
    (folder / "secret.txt").write_text("secret")
    _write_json(folder / "item.json", _make_item(image={"href": "./secret.tif", "type": "image/tiff"}))


def _write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document))
