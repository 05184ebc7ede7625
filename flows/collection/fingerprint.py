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

from seamline.pipeline.common.errors import InputError, SeamlineError, redact_secrets
from seamline.pipeline.raster_io.content import list_source_files
from seamline.pipeline.raster_io.gdal import describe_error, find_local_file, gdal_environment
from seamline.pipeline.scenes.band_files import open_source_raster
from seamline.pipeline.scenes.open_scene import make_scene_id
from seamline.pipeline.scenes.source import detect_source_kind, file_stem, list_rasters, normalize_address
from seamline.pipeline.scenes.stac_item import parse_source_item
from seamline.pipeline.storage.json_documents import fetch_headers, is_url, read_document
from seamline.pipeline.storage.object_store import ObjectFolder, is_object_url, split_object_url

log = logging.getLogger("seamline.scenes")
_MAX_CHARACTERS = 1000
"""Characters of what is said of a scene that is refused."""


@dataclass(frozen=True)
class SceneRef:
    """A scene: ``source`` is what ``segment`` takes, ``name`` the id that its result will have.

    The same ``fingerprint`` of the same source means the same content. Another one may still be the same pixels, copied
    or described anew; ``segment`` compares those.
    """

    source: str
    name: str
    fingerprint: str


@dataclass(frozen=True)
class RejectedSource:
    """What was named as a scene and cannot be one, with the reason in one line."""

    source: str
    name: str
    reason: str


@dataclass(frozen=True)
class Discovery:
    """The scenes of a collection, what cannot be one, and what is not whole yet and left for the next time."""

    scenes: tuple[SceneRef, ...]
    rejected: tuple[RejectedSource, ...] = ()
    waiting: tuple[str, ...] = ()


def inspect_or_reject(source: str | Path) -> SceneRef | RejectedSource:
    """``inspect_source`` whose errors are refusals."""
    name = str(source)
    with suppress(ValueError):  # no address
        name = file_stem(name)
    return catch_as_rejected(str(source), name, lambda: inspect_source(source))


def catch_as_rejected(source: str, name: str, look: Callable[[], SceneRef]) -> SceneRef | RejectedSource:
    """What ``look`` finds at ``source``, which people call ``name``; its errors are refusals: one broken scene stops no
    other, whatever is wrong with it.
    """
    try:
        return look()
    except SeamlineError as error:
        reason = str(error)
    except Exception as error:  # a name that no file can have, a document as nobody thought of
        log.warning("%r", redact_secrets(source)[:_MAX_CHARACTERS], exc_info=True)
        reason = f"{type(error).__name__}: {error}"
    return RejectedSource(_make_printable(source), _make_printable(name), _make_printable(reason))


def _make_printable(text: str) -> str:
    """In one line that any log and database takes, and that people can read."""
    line = " ".join(redact_secrets(text).encode(errors="backslashreplace").decode().split())
    return line if len(line) <= _MAX_CHARACTERS else f"{line[:_MAX_CHARACTERS]}…"


def inspect_source(source: str | Path) -> SceneRef:
    """The scene behind whatever ``segment`` takes: a raster, a folder, an archive, a STAC item.

    Rasters on disk are opened, but none of their pixels is read; of those elsewhere only the server is asked.
    Raises ``InputError`` for what is no scene, ``RunError`` where a server does not answer.
    """
    href = normalize_address(source)
    kind = detect_source_kind(href)
    if kind == "item":
        return inspect_item(read_document(href), href)
    name = make_scene_id(file_stem(href) if kind in ("raster", "archive") else Path(href).name)
    if not is_object_url(href) and (files := list_local_files(href)):
        return SceneRef(href, name, _hash_as_json([_describe_file(file) for file in files]))
    return SceneRef(href, name, _hash_as_json(_describe_remote(href)))


def inspect_item(document: Any, href: str) -> SceneRef:
    """The scene of a STAC item that lies at ``href``.

    Its fingerprint is of what the document says of the scene and its assets (``updated`` and checksums among it) and of
    those files that lie on disk; no server is asked for others. Links and what follows a ``?`` in addresses, such as
    signatures, come and go.
    """
    item = parse_source_item(document, href)
    said = {key: document.get(key) for key in ("id", "collection", "geometry", "properties")}
    assets = {
        key: asset | {"href": asset["href"].partition("?")[0]} for key, asset in document.get("assets", {}).items()
    }
    files = [_describe_file(str(path)) for raster in item.rasters if (path := find_local_file(raster)) is not None]
    return SceneRef(href, make_scene_id(item.id), _hash_as_json([said, assets, files]))


def list_local_files(href: str) -> list[str]:
    """The files on disk that a raster, folder or archive at ``href`` is made of; none of what is elsewhere.

    Raises ``InputError`` when GDAL cannot open one.
    """
    kind = detect_source_kind(href)
    if kind == "archive":
        return [href]
    files: list[str] = []
    for raster in list_rasters(Path(href)) if kind == "folder" else [href]:
        if "://" in raster or raster.startswith("/vsi"):
            archive = find_local_file(raster) if raster.startswith("/vsi") else None
            files += [] if archive is None else [str(archive)]
            continue
        with gdal_environment(raster):
            open_source_raster(raster)
        try:
            files += [str(file) for part in list_source_files(raster) if (file := find_local_file(part)) is not None]
        except RasterioIOError as error:  # a source of a VRT
            raise InputError(
                f"cannot open {raster}",
                got=describe_error(error),
                expected="a raster that GDAL reads",
                fix="check its sources",
            ) from error
    return files


def _describe_file(file: str) -> tuple[str, int, int, int, int]:
    try:
        state = Path(file).stat()
    except OSError as error:
        raise InputError("no such file", got=file, expected="a file that stays", fix="run again") from error
    # The time of change (ctime) too: the one of writing is what programs say that it is.
    return Path(file).name, state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


def _describe_remote(href: str) -> object:
    """What tells a state of a remote scene from another; without any, every look finds it new."""
    if href.endswith(".vrt"):  # its sources may change while it stays
        return uuid.uuid4().hex
    if is_object_url(href):
        place = ObjectFolder.from_url(href)
        folder, key = split_object_url(href)
        if state := folder.get_version(key) or place.list_versions():
            return state
        raise InputError("no such object", got=href, expected="a scene that stays", fix="check the address")
    if is_url(href):
        told = fetch_headers(href)
        tags = {key: told[key] for key in ("etag", "last-modified") if key in told}
        if tags:
            return [tags, told.get("content-range", told.get("content-length"))]
    return uuid.uuid4().hex


def _hash_as_json(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]
