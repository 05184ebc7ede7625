"""What a run published, as a static STAC 1.1 catalogue: one item per scene, one catalogue above them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pystac.utils
import shapely
import shapely.affinity
import shapely.geometry
import zarr
from numpy.typing import NDArray
from pyproj import Transformer

from pipeline.classes import NODATA, LabelClass
from pipeline.cog import row_bands
from pipeline.files import replacing
from pipeline.grid import GeoBox
from pipeline.store import JSON, VARIABLE, crs_code

__all__ = ["ClassArea", "class_table", "footprint", "scene_item", "update_catalog", "write_item"]

CATALOG = "catalog.json"
_EXTENSIONS = {
    name: f"https://stac-extensions.github.io/{name}/v{version}/schema.json"
    for name, version in {
        "projection": "2.0.0",
        "classification": "2.0.0",
        "file": "2.1.0",
        "processing": "1.2.0",
    }.items()
}


@dataclass(frozen=True)
class ClassArea:
    """How much of a scene a class covers; ``share`` of the valid pixels, ``area_m2`` None without a CRS."""

    name: str
    value: int
    pixels: int
    share: float
    area_m2: float | None


def class_table(labels: zarr.Array[Any], grid: GeoBox, classes: Sequence[LabelClass]) -> tuple[ClassArea, ...]:
    """Pixels, share and area of every class, reading ``labels`` (y, x) one row of Zarr chunks at a time.

    The area is that on the ellipsoid, also where the projection stretches it (four times in Web Mercator at
    60° north), with the scale of the middle of each row.
    """
    values = [label.value for label in classes]
    pixels, area = dict.fromkeys(values, 0), dict.fromkeys(values, 0.0)
    valid = 0
    row_area = pixel_area(grid)
    for band in row_bands(labels):
        block = labels[band.slices()]
        valid += int(np.count_nonzero(block != NODATA))
        for value in values:
            counts = np.count_nonzero(block == value, axis=1)  # of each row
            pixels[value] += int(counts.sum())
            if row_area is not None:
                area[value] += float(row_area[band.row : band.stop_row] @ counts)
    return tuple(
        ClassArea(
            name=label.name,
            value=label.value,
            pixels=pixels[label.value],
            share=pixels[label.value] / max(1, valid),
            area_m2=None if row_area is None else area[label.value],
        )
        for label in classes
    )


def pixel_area(grid: GeoBox) -> NDArray[np.float64] | None:
    """What a pixel in the middle of each row (height,) covers of the ellipsoid, in m²; None if unknown."""
    if grid.crs is None or not (grid.crs.projected or grid.crs.geographic):
        return None
    crs, (height, width) = grid.crs.proj, grid.shape
    to_degrees = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    col, row = np.full(height, width / 2), np.arange(height) + 0.5
    west, east, north, south = (
        np.stack(to_degrees.transform(*grid.pix2wld(col + right, row + down)))
        for right, down in ((-0.5, 0), (0.5, 0), (0, -0.5), (0, 0.5))
    )
    across, down = (np.radians((step + 180) % 360 - 180) for step in (east - west, south - north))
    latitude, geod = np.radians((north[1] + south[1]) / 2), crs.get_geod()
    curvature = geod.a**2 * (1 - geod.es) / (1 - geod.es * np.sin(latitude) ** 2) ** 2
    return np.asarray(np.abs(across[0] * down[1] - across[1] * down[0]) * np.cos(latitude) * curvature)


def footprint(grid: GeoBox) -> shapely.Polygon | shapely.MultiPolygon | None:
    """The outline of the grid in longitude and latitude (WGS 84), None without a CRS.

    The edges are densified, since they are curves there. A grid across the antimeridian gives one part on
    each side of it (RFC 7946, section 3.1.9), one over a pole reaches up to the pole.
    """
    if grid.crs is None:
        return None
    ring = _dense_outline(grid)
    lon, lat = Transformer.from_crs(grid.crs.proj, "OGC:CRS84", always_xy=True).transform(*ring)
    seen = np.isfinite(lon) & np.isfinite(lat)  # a corner of a full disk is not on Earth
    lon, lat = np.asarray(lon)[seen], np.asarray(lat)[seen]
    if lon.size < 4:
        return None
    lon = np.unwrap(lon, period=360)
    if abs(lon[-1] - lon[0]) > 180:
        pole = np.copysign(90.0, lat.mean())
        lon, lat = np.append(lon, [lon[-1], lon[0]]), np.append(lat, [pole, pole])
    tolerance = min(np.ptp(lon), np.ptp(lat)) * 1e-4  # a straight edge needs no points on its way
    shape = shapely.make_valid(shapely.Polygon(np.column_stack([lon, lat])).simplify(tolerance))
    worlds = [
        shapely.affinity.translate(shapely.intersection(shape, shapely.box(turn - 180, -90, turn + 180, 90)), -turn)
        for turn in (-360, 0, 360)
    ]
    merged = shapely.union_all(worlds)  # what is left and right of a cut in the middle of the map is one part
    parts = [shapely.geometry.polygon.orient(part) for part in shapely.get_parts(merged) if part.area > 0]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def _dense_outline(grid: GeoBox, points: int = 32) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(x, y) of the closed outline in the grid's CRS, ``points`` along each edge."""
    height, width = grid.shape
    along = np.linspace(0, 1, points, endpoint=False)
    zero, one = np.zeros(points), np.ones(points)
    col = np.concatenate([along, one, 1 - along, zero, [0]]) * width
    row = np.concatenate([zero, along, one, 1 - along, [0]]) * height
    x, y = grid.pix2wld(col, row)
    return x, y


def scene_item(
    folder: Path,
    scene_id: str,
    grid: GeoBox,
    classes: Sequence[LabelClass],
    table: Sequence[ClassArea],
    *,
    source: str,
    acquired: datetime | None,
    processed: datetime,
    software: Mapping[str, str],
    lineage: str,
) -> pystac.Item:
    """The STAC 1.1 item of the scene whose results lie in ``folder``; hrefs are relative to it.

    ``source`` is the scene's path or URL, ``acquired`` when it was taken, ``processed`` when it was segmented
    (both with a time zone), ``software`` names versions. STAC demands a time: where ``acquired`` is None the
    item carries ``processed`` and says so in ``seamline:datetime_unknown``. Files of the known names become
    assets where they exist, with size and checksum, so write them first.
    """
    outline = footprint(grid)
    item = pystac.Item(
        id=scene_id,
        geometry=None if outline is None else _rounded(shapely.geometry.mapping(outline)),
        bbox=None if outline is None else _bbox(outline),
        datetime=acquired or processed,
        properties={
            "title": f"Segmentation of {scene_id}",
            "created": pystac.utils.datetime_to_str(processed),
            **_projection(grid),
            "processing:software": dict(software),
            "processing:lineage": lineage,
            "seamline:classes": [asdict(row) for row in table],
        },
        stac_extensions=list(_EXTENSIONS.values()),
    )
    if acquired is None:
        item.properties["seamline:datetime_unknown"] = True
    for key, asset in _assets(folder, classes).items():
        item.add_asset(key, asset)
    item.add_link(pystac.Link("derived_from", source, title="the scene that was segmented"))
    for relation in ("root", "parent"):
        item.add_link(pystac.Link(relation, "../catalog.json", media_type=pystac.MediaType.JSON))
    return item


def write_item(item: pystac.Item, folder: Path) -> Path:
    """Write ``item`` to ``folder``/item.json in one step; returns its path."""
    path = folder / "item.json"
    _write_json(path, item.to_dict(include_self_link=False, transform_hrefs=False))
    return path


def update_catalog(out: Path) -> Path:
    """Let ``out``/catalog.json list every ``out``/<scene>/item.json; returns its path.

    Needs no lock: whoever writes the catalogue looks again afterwards and goes on until nothing is new, so
    the last one to write has seen every item. Write the item before you call this.
    """
    path = out / CATALOG
    listed: list[str] | None = None
    while (found := sorted(item.parent.name for item in out.glob("*/item.json"))) != listed:
        catalog = pystac.Catalog(
            id="seamline", title="Seamline segmentations", description="Segmented scenes, one item each."
        )
        catalog.add_link(pystac.Link("root", "./catalog.json", media_type=pystac.MediaType.JSON))
        for scene in found:
            catalog.add_link(
                pystac.Link("item", f"./{scene}/item.json", media_type=pystac.MediaType.GEOJSON, title=scene)
            )
        _write_json(path, catalog.to_dict(include_self_link=False, transform_hrefs=False))
        listed = found
    return path


def _projection(grid: GeoBox) -> dict[str, JSON]:
    if grid.crs is None:
        return {"proj:code": None, "proj:shape": list(grid.shape)}
    code = crs_code(grid)
    return {
        "proj:code": code,
        **({"proj:wkt2": grid.crs.proj.to_wkt("WKT2_2019")} if code is None else {}),
        "proj:shape": list(grid.shape),
        "proj:transform": list(grid.transform)[:6],
        "proj:bbox": list(grid.extent.boundingbox.bbox),
    }


def _assets(folder: Path, classes: Sequence[LabelClass]) -> dict[str, pystac.Asset]:
    labels = {
        "bands": [{"name": VARIABLE}],
        "data_type": "uint8",
        "nodata": NODATA,
        "classification:classes": _classification(classes),
    }
    known: list[tuple[str, str, str, str, list[str], dict[str, Any]]] = [
        ("segmentation", "segmentation.tif", pystac.MediaType.COG, "Labels (COG)", ["data"], labels),
        (
            "zarr",
            "segmentation.zarr",
            f"{pystac.MediaType.VND_ZARR}; version=3",
            "Labels (Zarr)",
            ["data"],
            labels,
        ),
        ("polygons", "polygons.parquet", "application/vnd.apache.parquet", "Polygons (GeoParquet)", ["data"], {}),
        ("polygons-fgb", "polygons.fgb", pystac.MediaType.FLATGEOBUF, "Polygons (FlatGeobuf)", ["data"], {}),
        ("polygons-gpkg", "polygons.gpkg", pystac.MediaType.GEOPACKAGE, "Polygons (GeoPackage)", ["data"], {}),
        ("preview", "preview.png", pystac.MediaType.PNG, "Preview", ["overview", "thumbnail"], {}),
        ("run", "run.json", pystac.MediaType.JSON, "Record of the run", ["metadata"], {}),
    ]
    return {
        key: pystac.Asset(
            f"./{name}",
            title=title,
            media_type=kind,
            roles=roles,
            extra_fields=fields | file_info(folder / name),
        )
        for key, name, kind, title, roles, fields in known
        if (folder / name).exists()
    }


def _classification(classes: Sequence[LabelClass]) -> list[dict[str, Any]]:
    described: list[dict[str, Any]] = [
        {
            "value": label.value,
            "name": label.name,
            "description": label.description or label.name,
            "color_hint": "{:02X}{:02X}{:02X}".format(*label.color),
        }
        for label in classes
    ]
    return [*described, {"value": NODATA, "name": "nodata", "description": "no data", "nodata": True}]


def file_info(path: Path) -> dict[str, JSON]:
    """Size and, of a file, checksum: the fields of STAC's file extension."""
    if path.is_dir():
        return {"file:size": sum(file.stat().st_size for file in path.rglob("*") if file.is_file())}
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # A multihash says which hash it is (0x12, SHA-256) and how many bytes (0x20).
    return {"file:size": path.stat().st_size, "file:checksum": f"1220{digest}"}


def _bbox(outline: shapely.Polygon | shapely.MultiPolygon) -> list[float]:
    """West, south, east, north; west > east across the antimeridian (RFC 7946, section 5.2)."""
    west, south, east, north = outline.bounds
    bounds = [part.bounds for part in shapely.get_parts(outline)]
    first = min((part[0] for part in bounds if part[2] == 180), default=west)
    last = max((part[2] for part in bounds if part[0] == -180), default=east)
    if (west, east) == (-180, 180) and first - last > 1e-6:  # a gap, not a cut around a pole
        west, east = first, last
    return [round(number, 7) for number in (west, south, east, north)]


def _rounded(geometry: Any) -> Any:
    """The same GeoJSON with 7 decimals, a centimetre; JSON without tuples."""
    if isinstance(geometry, Mapping):
        return {key: _rounded(value) for key, value in geometry.items()}
    if isinstance(geometry, Sequence) and not isinstance(geometry, str):
        return [_rounded(value) for value in geometry]
    return round(geometry, 7) if isinstance(geometry, float) else geometry


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    with replacing(path, shared=True) as part:
        part.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
