"""One scene of a collection: what names it, and a fingerprint by which it is known again without reading pixels."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rasterio.errors import RasterioIOError

from seamline.pipeline.common.errors import InputError, SeamlineError, without_secrets
from seamline.pipeline.raster_io.gdal import environment, files_of, local_file, reason
from seamline.pipeline.scenes.band_files import open_raster
from seamline.pipeline.scenes.open_scene import address, kind_of, rasters_in, scene_id, stem
from seamline.pipeline.scenes.stac_item import parse_item
from seamline.pipeline.storage.json_documents import head, is_url, read_document
from seamline.pipeline.storage.object_store import ObjectFolder, is_object, object_at

log = logging.getLogger("seamline.scenes")
_LONGEST = 1000
"""Characters of what is said of a scene that is refused."""


@dataclass(frozen=True)
class Found:
    """A scene: ``source`` is what ``segment`` takes, ``name`` the id that its result will have.

    The same ``fingerprint`` of the same source means the same content. Another one may still be the same pixels, copied
    or described anew; ``segment`` compares those.
    """

    source: str
    name: str
    fingerprint: str


@dataclass(frozen=True)
class Refused:
    """What was named as a scene and cannot be one, with the reason in one line."""

    source: str
    name: str
    reason: str


@dataclass(frozen=True)
class Discovery:
    """The scenes of a collection, what cannot be one, and what is not whole yet and left for the next time."""

    found: tuple[Found, ...]
    refused: tuple[Refused, ...] = ()
    waiting: tuple[str, ...] = ()


def looked_at(source: str | Path) -> Found | Refused:
    """``look_at`` whose errors are refusals."""
    name = str(source)
    with suppress(ValueError):  # no address
        name = stem(name)
    return or_refused(str(source), name, lambda: look_at(source))


def or_refused(source: str, name: str, look: Callable[[], Found]) -> Found | Refused:
    """What ``look`` finds at ``source``, which people call ``name``; its errors are refusals: one broken scene stops no
    other, whatever is wrong with it.
    """
    try:
        return look()
    except SeamlineError as error:
        reason = str(error)
    except Exception as error:  # a name that no file can have, a document as nobody thought of
        log.warning("%r", without_secrets(source)[:_LONGEST], exc_info=True)
        reason = f"{type(error).__name__}: {error}"
    return Refused(_printable(source), _printable(name), _printable(reason))


def _printable(text: str) -> str:
    """In one line that any log and database takes, and that people can read."""
    line = " ".join(without_secrets(text).encode(errors="backslashreplace").decode().split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def look_at(source: str | Path) -> Found:
    """The scene behind whatever ``segment`` takes: a raster, a folder, an archive, a STAC item.

    Rasters on disk are opened, but none of their pixels is read; of those elsewhere only the server is asked.
    Raises ``InputError`` for what is no scene, ``RunError`` where a server does not answer.
    """
    href = address(source)
    kind = kind_of(href)
    if kind == "item":
        return item_found(read_document(href), href)
    name = scene_id(stem(href) if kind in ("raster", "archive") else Path(href).name)
    if not is_object(href) and (files := files_behind(href)):
        return Found(href, name, _digest([_on_disk(file) for file in files]))
    return Found(href, name, _digest(_on_network(href)))


def item_found(document: Any, href: str) -> Found:
    """The scene of a STAC item that lies at ``href``.

    Its fingerprint is of what the document says of the scene and its assets (``updated`` and checksums among it) and of
    those files that lie on disk; no server is asked for others. Links and what follows a ``?`` in addresses, such as
    signatures, come and go.
    """
    item = parse_item(document, href)
    said = {key: document.get(key) for key in ("id", "collection", "geometry", "properties")}
    assets = {
        key: asset | {"href": asset["href"].partition("?")[0]} for key, asset in document.get("assets", {}).items()
    }
    files = [_on_disk(str(path)) for raster in item.rasters if (path := local_file(raster)) is not None]
    return Found(href, scene_id(item.id), _digest([said, assets, files]))


def files_behind(href: str) -> list[str]:
    """The files on disk that a raster, folder or archive at ``href`` is made of; none of what is elsewhere.

    Raises ``InputError`` when GDAL cannot open one.
    """
    kind = kind_of(href)
    if kind == "archive":
        return [href]
    files: list[str] = []
    for raster in rasters_in(Path(href)) if kind == "folder" else [href]:
        if "://" in raster or raster.startswith("/vsi"):
            archive = local_file(raster) if raster.startswith("/vsi") else None
            files += [] if archive is None else [str(archive)]
            continue
        with environment(raster):
            open_raster(raster)
        try:
            files += [str(file) for part in files_of(raster) if (file := local_file(part)) is not None]
        except RasterioIOError as error:  # a source of a VRT
            raise InputError(
                f"cannot open {raster}", got=reason(error), expected="a raster that GDAL reads", fix="check its sources"
            ) from error
    return files


def _on_disk(file: str) -> tuple[str, int, int, int, int]:
    try:
        state = Path(file).stat()
    except OSError as error:
        raise InputError("no such file", got=file, expected="a file that stays", fix="run again") from error
    # The time of change (ctime) too: the one of writing is what programs say that it is.
    return Path(file).name, state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


def _on_network(href: str) -> object:
    """What tells a state of a remote scene from another; without any, every look finds it new."""
    if href.endswith(".vrt"):  # its sources may change while it stays
        return uuid.uuid4().hex
    if is_object(href):
        place = ObjectFolder.of(href)
        folder, key = object_at(href)
        if state := folder.version(key) or place.versions():
            return state
        raise InputError("no such object", got=href, expected="a scene that stays", fix="check the address")
    if is_url(href):
        told = head(href)
        tags = {key: told[key] for key in ("etag", "last-modified") if key in told}
        if tags:
            return [tags, told.get("content-range", told.get("content-length"))]
    return uuid.uuid4().hex


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]
