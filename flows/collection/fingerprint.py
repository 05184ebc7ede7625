"""Inspect one source of a collection: its scene, and a fingerprint that recognises it again without reading pixels."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rasterio.errors import RasterioIOError

from seamline.flows.collection.scene_ref import RejectedSource, SceneRef
from seamline.pipeline.common.errors import InputError, SeamlineError, redact_secrets, to_plain_line
from seamline.pipeline.common.extras import MissingExtraError
from seamline.pipeline.raster_io.content import list_source_files
from seamline.pipeline.raster_io.gdal import describe_error, gdal_environment
from seamline.pipeline.raster_io.local_files import find_local_file
from seamline.pipeline.scenes.band_files import open_source_raster
from seamline.pipeline.scenes.open_scene import make_scene_id
from seamline.pipeline.scenes.source_files import (
    detect_source_kind,
    list_rasters,
    make_file_stem,
    name_source,
    normalize_address,
)
from seamline.pipeline.scenes.stac_item import parse_source_item
from seamline.pipeline.storage.json_documents import fetch_headers, read_document
from seamline.pipeline.storage.object_store import ObjectFolder, is_object_url, split_object_url
from seamline.pipeline.storage.web_requests import is_url

log = logging.getLogger("seamline.scenes")

_MAX_CHARACTERS = 1000
"""Longest text that is kept about a rejected source."""

MALFORMED_ERRORS = (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError)
"""What reading fields of a JSON document raises if its structure is not that of STAC."""


def inspect_or_reject(source: str | Path) -> SceneRef | RejectedSource:
    """Inspect a source as ``inspect_source`` does, and return any error as a rejection."""
    name = str(source)
    with suppress(ValueError):  # not a valid address; inspect_source raises the error that is reported
        name = make_file_stem(name)
    return catch_as_rejected(str(source), name, lambda: inspect_source(source))


def catch_as_rejected(
    source: str, name: str, inspect: Callable[[], SceneRef], describe_state: Callable[[], str] = lambda: ""
) -> SceneRef | RejectedSource:
    """Run an inspection and return any error as a rejection, so that one broken source stops no other.

    Args:
        source: Path or URL of the source, for the rejection.
        name: Name of the source, for the rejection.
        inspect: Returns the scene, or raises.
        describe_state: Returns the fingerprint of a source that is wrong itself, for the rejection.

    Returns:
        The scene, or the rejected source with the error's message as reason.
    """
    try:
        return inspect()
    except SeamlineError as error:
        reason, is_wrong = str(error), isinstance(error, InputError) and not isinstance(error, MissingExtraError)
    except Exception as error:  # for instance a name that no file can have, or a malformed document
        log.warning("%r", redact_secrets(source)[:_MAX_CHARACTERS], exc_info=True)
        reason, is_wrong = f"{type(error).__name__}: {error}", isinstance(error, MALFORMED_ERRORS)
    return reject_source(source, name, reason, describe_state() if is_wrong else "")


def reject_source(source: str, name: str, reason: str, fingerprint: str = "") -> RejectedSource:
    """Return a rejection whose texts are lines without secrets, of bounded length, that any log and database can store.

    Args:
        source: Path or URL of the source.
        name: Name of the source.
        reason: Why it is rejected.
        fingerprint: Hash of the states of its files.
    """
    source, name, reason = (to_plain_line(text, _MAX_CHARACTERS) for text in (source, name, reason))
    return RejectedSource(source, name, reason, fingerprint)


def inspect_source(source: str | Path) -> SceneRef:
    """Return a reference to the scene at a source: a raster, a folder, an archive or a STAC item.

    Rasters on disk are opened, but none of their pixels is read. Of remote rasters only the server's metadata is used.

    Raises:
        InputError: the source is not a scene.
        RunError: a server does not answer.
    """
    href = normalize_address(source)
    kind = detect_source_kind(href)
    if kind == "item":
        return _inspect_item(read_document(href), href)
    name = make_scene_id(name_source(href))
    files = [] if is_object_url(href) else list_local_files(href)
    content = [_read_file_state(file) for file in files] if files else _read_remote_state(href)
    return SceneRef(href, name, _hash_as_json(content))


def _inspect_item(document: Any, href: str) -> SceneRef:
    """Return a reference to the scene that a STAC item describes.

    The fingerprint covers the item's description of the scene and its assets (``updated`` and checksums among them)
    and the state of the assets on disk; no server is asked about other assets. It leaves out the item's links, and the
    query strings of asset URLs, which hold signatures that change with each request.

    Args:
        document: The item as parsed JSON.
        href: Where the item was read.

    Raises:
        InputError: the document is not an item with rasters.
    """
    item = parse_source_item(document, href)
    description = {key: document.get(key) for key in ("id", "collection", "geometry", "properties")}
    assets = {
        key: asset | {"href": asset["href"].partition("?")[0]} for key, asset in document.get("assets", {}).items()
    }
    local_files = [path for _, raster in item.rasters if (path := find_local_file(raster)) is not None]
    states = [_read_file_state(str(path)) for path in local_files]
    return SceneRef(href, make_scene_id(item.id), _hash_as_json([description, assets, states]))


def inspect_item_or_reject(document: Any, href: str) -> SceneRef | RejectedSource:
    """Inspect a STAC item as ``_inspect_item`` does, and return any error as a rejection."""
    name = str(document.get("id", "?")) if isinstance(document, dict) else "?"
    return catch_as_rejected(href, name, lambda: _inspect_item(document, href))


def list_local_files(href: str) -> list[str]:
    """Return the files on disk that make up a raster, folder or archive; remote files are left out.

    Raises:
        InputError: GDAL cannot open a raster, or a source of a VRT.
    """
    kind = detect_source_kind(href)
    if kind == "archive":
        return [href]
    files: list[str] = []
    for raster in [href] if "://" in href or href.startswith("/vsi") else list_rasters(href):
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


def hash_file_states(files: Iterable[Path]) -> str:
    """Return a hash that changes when one of some files changes, appears or goes away."""
    states: list[object] = []
    for file in sorted(set(files)):
        with suppress(OSError, ValueError):
            states += [_read_file_state(str(file))] if file.exists() else [str(file)] if file.is_symlink() else []
    return _hash_as_json(states)


def _read_file_state(file: str) -> tuple[str, int, int, int, int]:
    """Return name, size, mtime (ns), ctime (ns) and inode of a file."""
    try:
        state = Path(file).stat()
    except OSError as error:
        raise InputError("no such file", got=file, expected="a file that stays", fix="run again") from error
    # ctime is part of the state because programs can set mtime to any value.
    return Path(file).name, state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


def _read_remote_state(href: str) -> object:
    """Return what the server says about a remote scene; a unique value if that cannot reveal a change."""
    if href.endswith(".vrt"):  # the sources may change while the VRT stays the same
        return uuid.uuid4().hex
    if is_object_url(href):
        prefix = ObjectFolder.from_url(href)
        folder, key = split_object_url(href)
        if state := folder.get_version(key) or prefix.list_versions():
            return state
        raise InputError("no such object", got=href, expected="a scene that stays", fix="check the address")
    if is_url(href):
        headers = fetch_headers(href)
        tags = {key: headers[key] for key in ("etag", "last-modified") if key in headers}
        if tags:
            return [tags, headers.get("content-range", headers.get("content-length"))]
    return uuid.uuid4().hex


def _hash_as_json(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]
