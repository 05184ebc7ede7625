"""Discover scenes in a static STAC catalogue."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pystac
import shapely
import shapely.geometry

from seamline.flows.collection.fingerprint import MALFORMED_ERRORS, inspect_item_or_reject, reject_source
from seamline.flows.collection.scene_ref import Discovery, RejectedSource, SceneRef
from seamline.flows.collection.scene_sources import StacCatalog
from seamline.pipeline.common.errors import InputError, SeamlineError
from seamline.pipeline.scenes.source_files import normalize_address
from seamline.pipeline.stac.extent import Box, Interval
from seamline.pipeline.storage.json_documents import read_document


def walk_catalog(source: StacCatalog) -> Discovery:
    """Inspect the items of a static catalogue and of all catalogues below it, depth first, in the order of their links.

    Documents that cannot be read are rejected; the others stay.

    Raises:
        InputError: the root is not a catalogue.
        RunError: the root's server does not answer.
    """
    box = None if source.bbox is None else Box(*source.bbox).outline
    interval_text = source.resolve_interval()
    interval = None if interval_text is None else Interval.from_text(interval_text)
    candidates: dict[str, SceneRef | RejectedSource] = {}
    root = normalize_address(source.href)
    pending = _list_links(read_document(root), root)
    visited = {root}
    while pending:
        relation, href = pending.pop()
        if href in visited:
            continue
        visited.add(href)
        try:
            document = read_document(href)
            if relation == "child":
                pending += _list_links(document, href)
            elif _is_in_box_and_time(document, box, interval):
                candidates[href] = inspect_item_or_reject(document, href)
        except SeamlineError as error:
            candidates[href] = reject_source(href, _shorten(href), str(error))
        except (*MALFORMED_ERRORS, shapely.errors.ShapelyError) as error:
            candidates[href] = reject_source(href, _shorten(href), f"no STAC item: {type(error).__name__}: {error}")
    return Discovery.from_candidates(candidates.values())


def _list_links(document: Any, href: str) -> list[tuple[str, str]]:
    """Return relation and absolute URL of each child and item of a catalogue, in reverse order, as a stack."""
    try:
        if document["type"] not in ("Catalog", "Collection"):
            raise ValueError(f"type {document['type']}")
        return [
            (link["rel"], pystac.utils.make_absolute_href(link["href"], href))
            for link in reversed(document["links"])
            if link["rel"] in ("child", "item")
        ]
    except MALFORMED_ERRORS as error:
        raise InputError(
            f"no STAC catalogue at {href}",
            got=f"{type(error).__name__}: {error}",
            expected="a Catalog or Collection",
            fix="name its catalog.json or collection.json",
        ) from error


def _shorten(href: str) -> str:
    """Return the last two parts of a path or URL."""
    return "/".join(href.rstrip("/").rsplit("/", 2)[-2:])


def _is_in_box_and_time(document: Any, box: shapely.Geometry | None, interval: Interval | None) -> bool:
    """Whether an item meets the box and the time; an item without geometry or time meets none."""
    if box is not None:
        geometry = document.get("geometry")
        if geometry is None or not shapely.intersects(shapely.geometry.shape(geometry), box):
            return False
    if interval is None:
        return True
    properties = document["properties"]
    start = _parse_time(properties.get("start_datetime") or properties.get("datetime"))
    end = _parse_time(properties.get("end_datetime") or properties.get("datetime"))
    if start is None or end is None:
        return False
    return (interval.end is None or start < interval.end) and (interval.start is None or end >= interval.start)


def _parse_time(text: str | None) -> datetime | None:
    """Parse an ISO 8601 time; without a time zone it is UTC."""
    if text is None:
        return None
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
