"""What is dropped into an inbox may name no file, address or program outside of it.

Whoever may write to the inbox is not thereby allowed to read what this process can read. A VRT, whatever its name,
names other files; so do links and STAC items, and GDAL opens descriptions of web services and runs functions in Python
that files bring along. So a scene in an inbox is looked at before GDAL or a server is asked: its rasters are of formats
that hold their own pixels, or VRTs of such rasters, and all of them lie in the inbox or in a folder that is allowed.
"""

from __future__ import annotations

import glob
import html
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit
from xml.etree import ElementTree

from seamline.flows.collection.scene_sources import Inbox
from seamline.pipeline.common.errors import InputError, SeamlineError
from seamline.pipeline.scenes.source_files import detect_source_kind, list_rasters
from seamline.pipeline.scenes.stac_item import read_source_item
from seamline.pipeline.storage.atomic import make_absolute, refuse_special_file

_OWN_PIXELS = (
    b"II*\0",  # TIFF, little and big endian, and BigTIFF
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"\0\0\0\x0cjP  ",  # JPEG 2000, as a file and as a code stream
    b"\xff\x4f\xff\x51",
    b"EHFA_HEADER_TAG",  # Erdas Imagine
)
"""Beginnings of files of formats that hold their own pixels."""

_HEAD_LENGTH = 4096
_LARGEST_VRT = 16 * 2**20
"""Bytes. A VRT of a thousand sources has about 1 MiB."""

_VRT = "vrtdataset"
"""Root element of a VRT. GDAL looks for it anywhere in the first bytes of a file, and ignores case in all names."""

_SOURCE_ELEMENTS = {"sourcefilename", "sourcedataset"}
_PLAIN_PATH = re.compile(r"(?!/vsi)(?![A-Za-z][A-Za-z0-9_+.-]*:)[^<>\0]+")
"""A path, and none of GDAL's other addresses: ``/vsicurl/…``, ``NETCDF:…``, ``http://…``, XML."""

_OVERVIEW_REFERENCE = "OVERVIEW_FILE"
"""Entry of GDAL's side-cars that takes the overviews of a raster from another file."""


class OutsideError(InputError):
    """A scene in an inbox consists of what lies elsewhere."""


@dataclass(frozen=True)
class Enclosure:
    """Where the files of a scene may lie.

    Attributes:
        roots: Resolved folders.
        hosts: Names of hosts, and addresses such as ``s3://bucket``.
    """

    roots: tuple[Path, ...]
    hosts: tuple[str, ...] = ()

    @classmethod
    def of_inbox(cls, inbox: Inbox) -> Enclosure:
        """Return the enclosure of an inbox: its folder and what its settings allow."""
        folders = (inbox.folder, *(Path(place) for place in inbox.allow if place.startswith(("/", "~"))))
        hosts = tuple(place.rstrip("/") for place in inbox.allow if not place.startswith(("/", "~")))
        return cls(tuple(make_absolute(folder).resolve() for folder in folders), hosts)

    def check_scene(self, path: Path) -> None:
        """Refuse a scene in the inbox that consists of anything outside.

        Files that are not there yet are passed over.

        Raises:
            InputError: it names a file, an address or a program that is not allowed, or has an unknown format.
        """
        kind = detect_source_kind(str(path))
        for file in (path, *(path.rglob("*") if path.is_dir() else path.parent.glob(f"{glob.escape(path.stem)}.*"))):
            self._check_place(file, path)
        if kind == "item":
            for _, address in read_source_item(str(path)).rasters:
                self._check_address(address, path)
        elif kind == "archive":
            _check_archive(path)
        elif kind == "folder":
            for raster in list_rasters(str(path)):
                self._check_raster(Path(raster), path)
        elif path.is_file():
            self._check_raster(path, path)

    def _check_address(self, address: str, scene: Path) -> None:
        """Check what an item names: a file, which is checked in turn, or an address on an allowed host."""
        parts = urlsplit(address)
        if parts.scheme in ("http", "https", "s3") and parts.netloc:
            if not {parts.hostname, f"{parts.scheme}://{parts.netloc}"} & set(self.hosts):
                raise _refuse(scene, address, "addresses on hosts that are allowed")
        elif not _PLAIN_PATH.fullmatch(address):
            raise _refuse(scene, address, "plain paths")
        else:
            self._check_raster(Path(address), scene)

    def _check_raster(self, raster: Path, scene: Path, seen: frozenset[Path] = frozenset()) -> None:
        """Check a raster, and those that it names if it is a VRT."""
        self._check_place(raster, scene)
        if raster in seen or not raster.is_file():
            return
        seen |= {raster}
        for sidecar in raster.parent.glob(f"{glob.escape(raster.name)}.*"):
            self._check_place(sidecar, scene)
            if sidecar.suffix in (".ovr", ".msk"):
                self._check_raster(sidecar, scene, seen)
            elif sidecar.suffix == ".xml" and _OVERVIEW_REFERENCE in html.unescape(_read(sidecar).decode("latin-1")):
                raise _refuse(scene, f"{sidecar.name}, which takes overviews from another file", "its own pixels")
        with raster.open("rb") as file:
            head = file.read(_HEAD_LENGTH)
        if _holds_own_pixels(head):
            return
        for source in _list_vrt_sources(raster, scene):
            self._check_raster(source, scene, seen)

    def _check_place(self, path: Path, scene: Path) -> None:
        refuse_special_file(path)
        resolved = path.resolve()
        if not any(resolved.is_relative_to(root) for root in self.roots):
            raise _refuse(scene, str(path), "files in the inbox")


def _holds_own_pixels(head: bytes) -> bool:
    """Return whether a file that begins so is a raster, and no VRT in disguise."""
    return head.startswith(_OWN_PIXELS) and f"<{_VRT}".encode() not in head.lower()


def _list_vrt_sources(raster: Path, scene: Path) -> Iterator[Path]:
    """Yield the files that a VRT names; whatever else is not of a known format is refused."""
    content = _read(raster)
    try:
        if b"<!" in content.replace(b"<!--", b"").replace(b"<![CDATA[", b""):
            raise ElementTree.ParseError("a declaration, which GDAL would not heed")
        tree = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError) as error:
        known = "GeoTIFF, JPEG 2000, Erdas Imagine or a VRT of such"
        raise _refuse(scene, f"another format in {raster.name} ({error})", known) from error
    if tree.tag.casefold() != _VRT:
        raise _refuse(scene, f"{raster.name}, a <{tree.tag}>", "a raster or a VRT")
    for element in tree.iter():
        tag, text = element.tag.casefold(), (element.text or "").strip()
        if tag == "pixelfunctionlanguage" and text.casefold() == "python":
            raise _refuse(scene, f"{raster.name}, which runs Python", "rasters")
        if tag in _SOURCE_ELEMENTS:
            if not _PLAIN_PATH.fullmatch(text):
                raise _refuse(scene, f"{raster.name}, which names {text[:100]!r}", "plain paths")
            attributes = {name.casefold(): value for name, value in element.attrib.items()}
            is_beside = attributes.get("relativetovrt", "0") != "0"
            yield Path(os.path.normpath((raster.parent if is_beside else Path.cwd()) / text))


def _check_archive(path: Path) -> None:
    """Check that the rasters in a ZIP or TAR file hold their own pixels."""
    with suppress(zipfile.BadZipFile, tarfile.TarError, EOFError, OSError):  # the inspection reports these
        for name, head in _iter_heads(path):
            if not _holds_own_pixels(head):
                raise _refuse(path, f"the format of {name}", "GeoTIFF, JPEG 2000 or Erdas Imagine")


def _iter_heads(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield names and first bytes of the rasters in an archive."""
    try:
        names = [raster.partition(f"{path}/")[2] for raster in list_rasters(str(path))]
    except SeamlineError:
        return
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as zipped:
            for name in names:
                with zipped.open(name) as member:
                    yield name, member.read(_HEAD_LENGTH)
    else:
        wanted = set(names)
        with tarfile.open(path) as tar:
            for info in tar:
                if (name := info.name.removeprefix("./")) in wanted:
                    extracted: IO[bytes] | None = tar.extractfile(info) if info.isfile() else None
                    yield name, b"" if extracted is None else extracted.read(_HEAD_LENGTH)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_LARGEST_VRT)


def _refuse(scene: Path, got: str, expected: str) -> OutsideError:
    return OutsideError(
        f"{scene.name} names what is outside of the inbox",
        got=got,
        expected=expected,
        fix="drop all of its files, or allow the folder or host",
    )
