"""A scene in the inbox cannot make the flow read, run or ask anything that is not in the inbox."""

from __future__ import annotations

import json
import os
import pickle
import tarfile
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

import seamline.flows.collection.inbox as inbox_module
from seamline.flows.collection.containment import make_confinement
from seamline.flows.collection.discovery import discover
from seamline.flows.collection.scene_ref import Discovery
from seamline.flows.collection.scene_sources import Inbox
from seamline.pipeline.common.errors import BadBlockError, InputError
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.raster_io.confined import open_confined_dataset
from seamline.pipeline.raster_io.gdal import gdal_environment
from seamline.pipeline.report.thumbnail import read_thumbnail
from seamline.pipeline.scenes.band_matching import BandNeed
from seamline.pipeline.scenes.open_scene import SceneOptions, open_scene
from seamline.pipeline.scenes.scene import read_block
from seamline.pipeline.storage.confinement import Confinement, confine
from tests.support.small_sources import scene_names

OWN, SECRET = 7, 99
"""Pixels of the rasters in the inbox, and of those that do not belong to it."""


class Asked(BaseHTTPRequestHandler):
    """Notes every request."""

    paths: list[str]

    def do_GET(self) -> None:
        self.paths.append(self.path)
        self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """Address of a server on this machine, and the paths that it was asked for."""
    Asked.paths = []
    with HTTPServer(("127.0.0.1", 0), Asked) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_address[1]}", Asked.paths
        listening.shutdown()


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """An inbox with a scene, beside a raster that does not belong to it."""
    write_raster(tmp_path / "outside" / "secret.tif", SECRET)
    write_raster(tmp_path / "inbox" / "other.tif")
    return tmp_path / "inbox"


def look(inbox: Path, *allow: str) -> Discovery:
    return discover(Inbox(folder=inbox, settle=0, allow=allow))


def write_raster(path: Path, value: int = OWN, driver: str = "GTiff", **options: str) -> Path:
    """Write a raster of one band whose pixels all have one value."""
    grid = {"width": 16, "height": 16, "crs": "EPSG:32633", "transform": from_origin(500_000, 5_000_000, 10, 10)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", driver=driver, count=1, dtype="uint16", **grid, **options) as file:
        file.write(np.full((1, 16, 16), value, np.uint16))
        if driver == "GTiff":  # others keep it in a file beside it
            file.set_band_description(1, "blue")
    return path


def vrt_of(source: str, attributes: str = "", band: str = "", extra: str = "") -> str:
    simple = f"<SimpleSource><SourceFilename {attributes}>{source}</SourceFilename></SimpleSource>"
    return (
        '<VRTDataset rasterXSize="16" rasterYSize="16"><SRS>EPSG:32633</SRS>'
        f"<GeoTransform>500000,10,0,5000000,0,-10</GeoTransform>{extra}"
        f'<VRTRasterBand dataType="UInt16" band="1" {band}>{simple}</VRTRasterBand></VRTDataset>'
    )


def mask_of(source: str) -> str:
    flags = '<Metadata><MDI key="INTERNAL_MASK_FLAGS_1">2</MDI></Metadata>'
    return vrt_of(source, extra=flags).replace("UInt16", "Byte")


def item_of(href: str, **fields: object) -> str:
    asset = {"href": href, "type": "image/tiff; application=geotiff", "eo:bands": [{"common_name": "blue"}]}
    item = {"type": "Feature", "stac_version": "1.0.0", "id": "x", "geometry": None, "links": []}
    document = {**item, "properties": {"datetime": "2024-01-01T00:00:00Z"}, "assets": {"blue": asset}, **fields}
    return json.dumps(document)


def old_item_of(href: str, version: str, collection: str) -> str:
    """Return an item of a version whose items had fields in common with their collection."""
    link = {"rel": "collection", "href": collection}
    return item_of(href, stac_version=version, stac_extensions=["commons"], collection="c", links=[link])


def write_zip(path: Path, *members: tuple[str, str | bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of names that are there twice
        for name, content in members:
            archive.writestr(name, content)


def write_zip_with_other_local_name(path: Path, content: str) -> None:
    write_zip(path, ("a.tif", content))
    path.write_bytes(path.read_bytes().replace(b"a.tif", b"b.tif", 1))


def write_damaged_zip(path: Path, local: int, central: int, value: int) -> None:
    """Write a ZIP file whose member has another number in both of its headers, such as that of its compression."""
    write_zip(path, ("a.tif", read_raster_bytes(path)))
    content = bytearray(path.read_bytes())
    content[local] = content[content.rindex(b"PK\1\2") + central] = value
    path.write_bytes(content)


def write_raster_with(path: Path, suffix: str, content: str) -> None:
    write_raster(path).with_name(path.name + suffix).write_text(content)


def read_raster_bytes(beside: Path) -> bytes:
    """Return a GeoTIFF, of which nothing stays on the disk."""
    path = write_raster(beside.parent / "temporary.part")
    content = path.read_bytes()
    path.unlink()
    return content


def write_tagged(path: Path, overviews: str) -> None:
    write_raster(path)
    with rasterio.open(path, "r+") as file:
        file.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=overviews)


def write_spilled(path: Path) -> None:
    """Write an Imagine file whose pixels lie in another file, by a path that leads outside."""
    write_raster(path.parent.parent / "outside" / "h.img", SECRET, "HFA", USE_SPILL="YES")
    write_raster(path.parent / "hhhhhhhhhhhh.img", OWN, "HFA", USE_SPILL="YES").rename(path)
    path.write_bytes(path.read_bytes().replace(b"hhhhhhhhhhhh.ige", b"../outside/h.ige"))


WMS = '<GDAL_WMS><Service name="TMS"><ServerUrl>{server}/${{z}}</ServerUrl></Service></GDAL_WMS>'
TILE_INDEX = "EHFA_HEADER_TAG\n<GDALTileIndexDataset><IndexDataset>{path}</IndexDataset></GDALTileIndexDataset>"
PYTHON = "<PixelFunctionLanguage>Python</PixelFunctionLanguage>"
OVERVIEWS = '<Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{path}</MDI></Metadata>'
COMMENT = f"<!--{'x' * (17 * 2**20)}-->"
RELATIVE = 'relativeToVRT="1"'
WARPED = (
    '<VRTDataset rasterXSize="16" rasterYSize="16" subClass="VRTWarpedDataset">'
    '<VRTRasterBand dataType="UInt16" band="1" subClass="VRTWarpedRasterBand"/><GDALWarpOptions>'
    '<SourceDataset relativeToVRT="1">other.tif</SourceDataset><Transformer><GenImgProjTransformer>'
    "<ReprojectTransformer><ReprojectionTransformer><SourceSRS>{server}/a.wkt</SourceSRS>"
    "<TargetSRS>EPSG:32633</TargetSRS></ReprojectionTransformer></ReprojectTransformer></GenImgProjTransformer>"
    '</Transformer><BandList><BandMapping src="1" dst="1"/></BandList></GDALWarpOptions></VRTDataset>'
)
PROCESSED = (
    '<VRTDataset subClass="VRTProcessedDataset"><Input><SourceFilename relativeToVRT="1">other.tif</SourceFilename>'
    "</Input><ProcessingSteps><Step><Algorithm>LocalScaleOffset</Algorithm>"
    '<Argument name="gain_dataset_filename_1">/vsicurl/{server}/gain.tif</Argument></Step></ProcessingSteps>'
    "</VRTDataset>"
)

TEXTS: dict[str, tuple[str, Callable[[str, str], str]]] = {
    "a VRT": ("x.vrt", lambda outside, server: vrt_of(outside)),
    "a VRT by another name": ("x.tif", lambda outside, server: vrt_of(outside)),
    "a VRT that looks like a TIFF": ("x.tif", lambda outside, server: "II*\0" + vrt_of(outside)),
    "a VRT that looks like Imagine": ("x.img", lambda outside, server: "EHFA_HEADER_TAG" + vrt_of(outside)),
    "an index that looks like Imagine": ("x.img", lambda outside, server: TILE_INDEX.format(path=outside)),
    "an index on a server": ("x.img", lambda outside, server: TILE_INDEX.format(path=f"{server}/a.gpkg")),
    "names in capitals": ("x.vrt", lambda outside, server: vrt_of(outside).replace("VRTDataset", "vrtDATASET")),
    "a file of text": ("x.vrt", lambda outside, server: vrt_of("/etc/hostname")),
    "a climb": ("x.vrt", lambda outside, server: vrt_of("../outside/secret.tif", RELATIVE)),
    "a climb through a link": ("x.vrt", lambda outside, server: vrt_of("link/../outside/secret.tif", RELATIVE)),
    "a path from the working folder": ("x.vrt", lambda outside, server: vrt_of("x.tif", 'relativeToVRT="no"')),
    "an attribute twice": ("x.vrt", lambda outside, server: vrt_of(outside, 'relativeToVRT="0" RELATIVETOVRT="1"')),
    "a declaration": (
        "x.vrt",
        lambda outside, server: f'<!DOCTYPE x [<!ENTITY p "{outside}">]>' + vrt_of("&p;"),
    ),
    "a function in Python": ("x.vrt", lambda outside, server: vrt_of("other.tif", RELATIVE, extra=PYTHON)),
    "an address in a VRT": ("x.vrt", lambda outside, server: vrt_of(f"/vsicurl/{server}/a.tif")),
    "overviews in a VRT": (
        "x.vrt",
        lambda outside, server: vrt_of("other.tif", RELATIVE, extra=OVERVIEWS.format(path=f"/vsicurl/{server}/a.tif")),
    ),
    "a CRS on a server": (
        "x.vrt",
        lambda outside, server: vrt_of("other.tif", RELATIVE).replace("EPSG:32633", f"{server}/a.wkt"),
    ),
    "a warped VRT": ("x.vrt", lambda outside, server: WARPED.format(server=server)),
    "a processed VRT": ("x.vrt", lambda outside, server: PROCESSED.format(server=server)),
    "a driver in a VRT": ("x.vrt", lambda outside, server: vrt_of(f"GTIFF_DIR:1:{outside}")),
    "XML in a VRT": ("x.vrt", lambda outside, server: vrt_of(vrt_of(outside).replace("<", "&lt;"))),
    "a web service": ("x.tif", lambda outside, server: WMS.format(server=server)),
    "an item": ("x.json", lambda outside, server: item_of(outside)),
    "an item that climbs": ("x.json", lambda outside, server: item_of("%2e%2e/outside/secret.tif")),
    "an item that climbs through a link": ("x.json", lambda outside, server: item_of("./link/../outside/secret.tif")),
    "an item with a URL of a file": ("x.json", lambda outside, server: item_of(f"file://{outside}")),
    "an item with an address": ("x.json", lambda outside, server: item_of(f"{server}/a.tif")),
    "an item with GDAL's address": ("x.json", lambda outside, server: item_of(f"/vsicurl/{server}/a.tif")),
    "metadata of a cloud": ("x.json", lambda outside, server: item_of("http://169.254.169.254/latest/meta-data/x.tif")),
    "a bucket": ("x.json", lambda outside, server: item_of("s3://bucket/x.tif")),
    "a collection on a server": (
        "x.json",
        lambda outside, server: old_item_of("no.tif", "0.9.0", f"{server}/c.json"),
    ),
    "a collection that is a file": (
        "x.json",
        lambda outside, server: old_item_of("no.tif", "0.8.0", "/etc/hostname"),
    ),
}
"""Files of text that lead outside: their names, and what is in them for a raster outside and a server."""

OTHERS: dict[str, Callable[[Path, str, str], object]] = {
    "a link": lambda d, outside, server: (d / "x.tif").symlink_to(outside),
    "a linked folder": lambda d, outside, server: (d / "x").symlink_to(Path(outside).parent),
    "a link in a folder": lambda d, outside, server: ((d / "x").mkdir(), (d / "x" / "blue.tif").symlink_to(outside)),
    "a linked item": lambda d, outside, server: (
        Path(outside).with_name("x.json").write_text(item_of("secret.tif")),
        (d / "x.json").symlink_to(Path(outside).with_name("x.json")),
    ),
    "a linked mask": lambda d, outside, server: (write_raster(d / "x.tif"), (d / "x.tif.msk").symlink_to(outside)),
    "a mask": lambda d, outside, server: write_raster_with(d / "x.tif", ".msk", mask_of(outside)),
    "a mask in capitals": lambda d, outside, server: write_raster_with(d / "x.tif", ".MSK", mask_of(outside)),
    "overviews by a side-car": lambda d, outside, server: write_raster_with(
        d / "x.tif", ".aux.xml", f"<PAMDataset>{OVERVIEWS.format(path=outside)}<SRS>EPSG:4326</SRS></PAMDataset>"
    ),
    "overviews after a long comment": lambda d, outside, server: write_raster_with(
        d / "x.tif", ".aux.xml", f"<PAMDataset>{COMMENT}{OVERVIEWS.format(path=f'/vsicurl/{server}/a')}</PAMDataset>"
    ),
    "overviews by a tag": lambda d, outside, server: write_tagged(d / "x.tif", outside),
    "overviews on a server by a tag": lambda d, outside, server: write_tagged(d / "x.tif", f"/vsicurl/{server}/a.tif"),
    "pixels in another file": lambda d, outside, server: write_spilled(d / "x.img"),
    "a VRT in an archive": lambda d, outside, server: write_zip(d / "x.zip", ("blue.vrt", vrt_of(outside))),
    "a VRT in an archive with two names": lambda d, outside, server: write_zip_with_other_local_name(
        d / "x.zip", vrt_of(outside)
    ),
    "a name twice in an archive": lambda d, outside, server: write_zip(
        d / "x.zip", ("a.tif", vrt_of(outside)), ("a.tif", read_raster_bytes(d / "x.zip"))
    ),
    "a mask in an archive": lambda d, outside, server: write_zip(
        d / "x.zip", ("a.tif", read_raster_bytes(d / "x.zip")), ("a.tif.msk", mask_of(outside))
    ),
    "a Zarr folder": lambda d, outside, server: (
        (d / "x.zarr").mkdir(),
        (d / "x.zarr" / "zarr.json").write_text("{}"),
    ),
    "an unknown compression": lambda d, outside, server: write_damaged_zip(d / "x.zip", 8, 10, 97),
}
"""What else leads outside, or cannot be checked: written to an inbox for a raster outside and a server."""


def write_text(folder: Path, case: str, outside: str, server: str) -> Path:
    name, make = TEXTS[case]
    (folder / name).write_text(make(outside, server))
    return folder / name


def read_all(source: str, inbox: Path, *allow: str) -> np.ndarray:
    """Open a scene of an inbox as a run does, and read all of it; returns the pixels that get a label."""
    with confine(make_confinement(Inbox(folder=inbox, allow=allow))):
        scene = open_scene(source, [BandNeed("blue", ())], SceneOptions(), reflectance=False)
    scene.compute_digest()
    thumbnail = read_thumbnail(scene, scene.bands, 4)
    assert thumbnail is not None and set(np.unique(thumbnail[0])) == {OWN * scene.bands[0].scale}
    block = read_block(pickle.loads(pickle.dumps(scene)), Window(0, 0, *scene.grid.shape))  # as a worker gets it
    return block.pixels[0][block.label_mask]


def refuse_or_read_own(inbox: Path, *allow: str) -> None:
    """Check that the scenes of an inbox are refused in one line or consist of their own pixels, all of them."""
    found = look(inbox, *allow)
    assert "other" in scene_names(found) and not found.waiting
    for scene in found.scenes:
        try:
            assert read_all(scene.source, inbox, *allow).tolist() == [OWN] * 256
        except InputError as error:
            assert scene.name != "other" and "\n" not in str(error)
    assert all("\n" not in rejected.reason for rejected in found.rejected)


@pytest.mark.parametrize("case", TEXTS)
def test_a_text_that_leads_outside_is_refused(case: str, inbox: Path, server: tuple[str, list[str]]) -> None:
    address, asked = server
    path = write_text(inbox, case, str(inbox.parent / "outside" / "secret.tif"), address)
    refuse_or_read_own(inbox)
    with pytest.raises(InputError):
        read_all(str(path), inbox)
    assert not asked


@pytest.mark.parametrize("case", OTHERS)
def test_what_lies_outside_is_not_read(case: str, inbox: Path, server: tuple[str, list[str]]) -> None:
    address, asked = server
    OTHERS[case](inbox, str(inbox.parent / "outside" / "secret.tif"), address)
    refuse_or_read_own(inbox)
    assert not asked


@pytest.mark.parametrize("case", [*TEXTS, "a link"])
def test_a_file_that_was_swapped_after_it_was_found_leads_nowhere(
    case: str, inbox: Path, server: tuple[str, list[str]]
) -> None:
    """The client opens it again for the run, and so does every worker, whatever it is by then."""
    address, asked = server
    outside = inbox.parent / "outside" / "secret.tif"
    path = inbox / (TEXTS[case][0] if case in TEXTS else "x.tif")
    is_item = path.suffix == ".json"
    if is_item:
        path.write_text(item_of("other.tif"))
    else:
        write_raster(path, driver="HFA" if path.suffix == ".img" else "GTiff")
    with confine(make_confinement(Inbox(folder=inbox))):
        opened = open_scene(inbox / "other.tif", [BandNeed("blue", ())], SceneOptions(), reflectance=False)
    assert path.suffix == ".img" or "x" in scene_names(look(inbox))
    path.unlink()
    if case == "a link":
        path.symlink_to(outside)
    else:
        write_text(inbox, case, str(outside), address)
    with pytest.raises(InputError):
        read_all(str(path), inbox)
    # On a worker nothing but the confinement stands between the path and GDAL, if the stamps of the file are forged.
    (band,) = opened.bands
    if not is_item:
        with pytest.raises((InputError, BadBlockError)):
            read_block(replace(opened, bands=(replace(band, path=str(path), stamps=()),)), Window(0, 0, 16, 16))
    assert not asked


def test_archives_that_look_alike_are_told_apart(inbox: Path) -> None:
    """GDAL remembers what is in an archive by its path, size and time; descriptors have few numbers."""
    members = {f"{value}.tif": write_raster(inbox / "x.part", value).read_bytes() for value in (1, 2)}
    confinement = make_confinement(Inbox(folder=inbox))
    for number, names in enumerate((list(members), list(reversed(members)))):
        path = inbox / f"{number}.zip"
        write_zip(path, *((name, members[name]) for name in names))
        os.utime(path, (1_700_000_000, 1_700_000_000))
        with confine(confinement), gdal_environment(str(path)):
            for value in (1, 2):
                dataset = open_confined_dataset(f"/vsizip/{path}/{value}.tif", path, confinement)
                assert set(dataset.read(1).flat) == {value}
                dataset.close()
                del dataset


def test_a_file_is_asked_where_it_lies_after_it_was_opened(inbox: Path) -> None:
    confinement = make_confinement(Inbox(folder=inbox))
    (inbox / "x.tif").symlink_to(inbox.parent / "outside" / "secret.tif")
    with pytest.raises(InputError, match="lies outside"):
        confinement.open_file(str(inbox / "x.tif"))
    file = confinement.open_file(str(inbox / "other.tif"))
    content = (inbox / "other.tif").read_bytes()
    (inbox / "x.tif").replace(inbox / "other.tif")
    assert Path(file.path).read_bytes() == content


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz", "tar.gz"])
def test_archives_of_all_kinds_are_read(kind: str, inbox: Path) -> None:
    path = inbox / f"x.{kind}"
    if kind == "zip":
        write_zip(path, ("blue.tif", read_raster_bytes(path)))
    else:
        with tarfile.open(path, "w:gz" if kind.endswith("gz") else "w") as archive:
            archive.add(inbox / "other.tif", "./blue.tif")
    assert set(scene_names(look(inbox))) == {"other", "x"}
    assert read_all(str(path), inbox).tolist() == [OWN] * 256


STATISTICS = (
    '<PAMDataset><PAMRasterBand band="1"><Metadata><MDI key="STATISTICS_MEAN">1</MDI></Metadata></PAMRasterBand>'
    "</PAMDataset>"
)


@pytest.mark.parametrize(
    ("suffix", "content", "is_read"),
    [
        (".ovr", "overviews of a viewer", True),
        (".aux.xml", STATISTICS, True),
        (".aux.xml", STATISTICS.replace("<Metadata>", "<NoDataValue>7</NoDataValue><Metadata>"), False),
        (".aux.xml", STATISTICS.replace("STATISTICS_MEAN", "scale_factor"), False),
        (".aux.xml", STATISTICS.replace("STATISTICS_MEAN", "blue#add_offset"), False),
        (".aux.xml", STATISTICS.replace("STATISTICS_MEAN", "PRODUCT_URI"), False),
        (".aux.xml", STATISTICS.replace("STATISTICS_MEAN", "wavelength"), False),
        (".aux.xml", STATISTICS.replace("STATISTICS_MEAN", "Central_Wavelength_Units"), False),
        (".aux.xml", STATISTICS.replace("STATISTICS_MEAN", "CENTRAL_WAVELENGTH_UM"), False),
        (".aux.xml", STATISTICS.replace("STATISTICS_MEAN", "NETCDF_DIM_EXTRA"), False),
        (".aux.xml", STATISTICS.replace("STATISTICS_MEAN", "DIM_band_INDEX"), False),
        (".aux.xml", STATISTICS.replace("STATISTICS_MEAN", "ACQUISITIONDATETIME"), False),
        (".aux.xml", "<PAMDataset", False),
        (".msk", "a mask", False),
    ],
)
def test_a_file_beside_a_raster_is_refused_if_it_changes_what_it_means(
    suffix: str, content: str, is_read: bool, inbox: Path
) -> None:
    write_raster_with(inbox / "x.tif", suffix, content)
    found = look(inbox)
    assert ("x" in scene_names(found)) == is_read
    assert is_read or "a file beside it that changes what it means" in found.rejected[0].reason
    refuse_or_read_own(inbox)


def test_a_file_that_cannot_be_looked_at_stops_no_other(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_raster(inbox / "x.tif")

    def fail(source: str) -> None:
        if source.endswith("x.tif"):
            raise Exception("Could not read uri")

    monkeypatch.setattr(inbox_module, "check_sidecars", fail)
    found = look(inbox)
    assert scene_names(found) == ["other"] and [rejected.name for rejected in found.rejected] == ["x.tif"]


@pytest.mark.parametrize("name", ["x.tif", "x.json", "x.zip", "x/blue.tif"])
def test_a_pipe_in_the_inbox_is_not_waited_for(name: str, inbox: Path) -> None:
    (inbox / name).parent.mkdir(exist_ok=True)
    os.mkfifo(inbox / name)
    found = look(inbox)
    assert scene_names(found) == ["other"]
    assert found.waiting or all("a pipe, socket or device" in rejected.reason for rejected in found.rejected)
    with pytest.raises(InputError, match="a pipe, socket or device"):
        open_scene(inbox / name, [BandNeed("blue", ())], SceneOptions(), reflectance=False)


def test_what_lies_in_the_inbox_is_read(inbox: Path) -> None:
    write_raster(inbox / "blue.jp2", driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
    write_raster(inbox / "parts" / "blue.tif")
    (inbox / "item.json").write_text(item_of("./parts/blue.tif"))
    (inbox / "link.tif").symlink_to(inbox / "other.tif")
    found = look(inbox)
    assert not found.rejected and {"blue", "parts", "x"} <= set(scene_names(found))
    for scene in found.scenes:
        assert read_all(scene.source, inbox).tolist() == [OWN] * 256


def test_folders_and_hosts_can_be_allowed(inbox: Path) -> None:
    (inbox / "other.tif").unlink()
    allowed = write_raster(inbox.parent / "allowed" / "x.tif")
    (inbox / "linked.tif").symlink_to(allowed)
    (inbox / "x.json").write_text(item_of(str(allowed)))
    assert scene_names(look(inbox)) == []
    assert scene_names(look(inbox, str(allowed.parent))) == ["linked", "x"]
    assert read_all(str(inbox / "x.json"), inbox, str(allowed.parent)).tolist() == [OWN] * 256
    (inbox / "x.json").write_text(item_of("https://example.org/a.tif"))
    assert scene_names(look(inbox, "example.org", str(allowed.parent))) == ["linked", "x"]
    (inbox / "x.json").write_text(item_of("s3://bucket/a.tif"))
    assert scene_names(look(inbox, "s3://bucket", str(allowed.parent))) == ["linked", "x"]
    assert scene_names(look(inbox, "s3://other", "bucket", str(allowed.parent))) == ["linked"]


@pytest.mark.parametrize(
    "address",
    [
        "http://example.org@127.0.0.1/x.tif",
        "http://127.0.0.1\\@example.org/x.tif",
        "http://example.org.evil/x.tif",
        "ftp://example.org/x.tif",
        "zip+http://example.org/x.zip!x.tif",
        "s3://bucket/../other/x.tif",
        "s3://bucket/%2e%2e/other/x.tif",
        "/vsicurl/http://example.org/x.tif",
        "/vsizip//vsicurl/http://example.org/x.zip/x.tif",
        "/vsizip/{/vsicurl/http://example.org/x.zip}/x.tif",
        "GTIFF_DIR:1:/tmp/x.tif",
        "x.tif",
        "<VRTDataset/>",
    ],
)
def test_addresses_that_programs_read_in_different_ways_are_refused(address: str) -> None:
    with pytest.raises(InputError, match="lies outside"):
        Confinement(("/tmp",), ("example.org", "s3://bucket")).check_address(address)
