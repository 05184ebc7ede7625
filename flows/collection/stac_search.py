"""Scenes that are STAC items: found by an API, or read from a static catalogue."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urljoin

import pystac
import shapely
import shapely.geometry
from pystac_client import Client
from pystac_client.errors import ClientTypeError
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from pystac_client.warnings import DoesNotConformTo, PystacClientWarning

from seamline.flows.collection.fingerprint import Discovery, RejectedSource, SceneRef, catch_as_rejected, inspect_item
from seamline.flows.collection.scene_sources import StacCatalog, StacSearch
from seamline.pipeline.common.errors import InputError, SeamlineError
from seamline.pipeline.scenes.source import normalize_address
from seamline.pipeline.stac.extent import Box, Interval
from seamline.pipeline.storage.json_documents import fetch_json_text, read_document

_PAGE_SIZE = 100
"""Items of a page; more make answers slow, fewer make more of them."""
_MALFORMED_ERRORS = (ValueError, LookupError, TypeError, AttributeError)
"""What documents of another structure than STAC's lead to."""
_SEARCH_ERRORS = (
    APIError,
    ClientTypeError,
    DoesNotConformTo,
    NotImplementedError,
    pystac.STACError,
    pystac.STACTypeError,
    *_MALFORMED_ERRORS,
)


_STAC_FIELDS = {"type", "conformsTo", "features", "collections"}
"""Fields that tell what a document of a STAC API is."""


class _RetryingIO(StacApiIO):
    """pystac-client's requests, made as all others here: with a timeout and several tries.

    Headers or signatures that an API wants would be added here.
    """

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        if (method or "GET").upper() == "POST":
            return fetch_json_text(href, "POST", headers, json=parameters)
        return fetch_json_text(href, "GET", headers, params=parameters)

    def json_loads(self, txt: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """A document of STAC; one of another kind would be taken for a page without items, the last one."""
        document: dict[str, Any] = super().json_loads(txt, *args, **kwargs)
        listed = document.get("features", None if document.get("type") == "FeatureCollection" else [])
        if not _STAC_FIELDS & document.keys() or not isinstance(listed, list):
            raise ValueError(f"no document of STAC: {txt[:100]}")
        return document


def search_api(source: StacSearch) -> Discovery:
    """The items that a STAC API finds.

    A broken item is refused and the others stay. So it is with a page that cannot be had or leads back: what the pages
    before it held is found.

    Raises:
        InputError: there is no API at the address, or it refuses the search.
        RunError: it does not answer.
    """
    found: dict[str, SceneRef | RejectedSource] = {}
    pages = _iterate_pages(source)
    for number in range(1, 1_000_000):
        try:
            page = next(pages, None)
        except SeamlineError as error:
            if number == 1:
                raise
            return _build_discovery(found, RejectedSource(source.url, "search", f"page {number}: {error}"))
        if page is None:
            break
        scenes = {_get_item_key(item): item for item in page}
        if not scenes.keys() - found.keys():
            reason = f"page {number} holds what was there before: the API's next link leads back, items may be missing"
            return _build_discovery(found, RejectedSource(source.url, "search", reason))
        for key, item in scenes.items():
            if key not in found:
                found[key] = _inspect_item(item, _build_item_url(item, source.url))
    return _build_discovery(found)


def walk_catalog(source: StacCatalog) -> Discovery:
    """The items of a static catalogue, as they lie in it; what cannot be read of it is refused, the rest stays.

    Raises ``InputError`` or ``RunError`` when the catalogue itself cannot be read.
    """
    box = None if source.bbox is None else Box(*source.bbox).outline
    time = source.resolve_interval()
    interval = None if time is None else Interval.from_text(time)
    found: dict[str, SceneRef | RejectedSource] = {}
    root = normalize_address(source.href)
    todo, seen = _list_links(read_document(root), root), {root}
    while todo:
        relation, target = todo.pop()
        if target in seen:
            continue
        seen.add(target)
        try:
            document = read_document(target)
            if relation == "child":
                todo += _list_links(document, target)
            elif _is_in_box_and_time(document, box, interval):
                found[target] = _inspect_item(document, target)
        except SeamlineError as error:
            found[target] = RejectedSource(target, _shorten(target), str(error))
        except (*_MALFORMED_ERRORS, shapely.errors.ShapelyError) as error:
            found[target] = RejectedSource(target, _shorten(target), f"no STAC item: {type(error).__name__}: {error}")
    return _build_discovery(found)


def _iterate_pages(source: StacSearch) -> Iterator[list[Any]]:
    """The features of each page, with the API's refusals as ``InputError``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PystacClientWarning)
            warnings.simplefilter("error", DoesNotConformTo)  # an API without filters would find everything
            client = Client.open(source.url, stac_io=_RetryingIO())
            items = client.search(
                method="POST" if _accepts_post(client) else "GET",
                max_items=source.limit,
                limit=min(_PAGE_SIZE, source.limit or _PAGE_SIZE),
                collections=source.collections,
                bbox=source.bbox,
                datetime=source.resolve_interval(),
                query=source.query,
                filter=source.filter,
                filter_lang=None if source.filter is None else "cql2-json",
            )
        for page in items.pages_as_dicts():
            yield page["features"]
    except _SEARCH_ERRORS as error:
        raise InputError(
            f"no search at {source.url}",
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            expected="the landing page of a STAC API with item search and what the search uses",
            fix="check the address; a catalogue of files is another kind of source",
        ) from error


def _accepts_post(client: Client) -> bool:
    return any(link.rel == "search" and link.extra_fields.get("method") == "POST" for link in client.links)


def _build_discovery(found: dict[str, SceneRef | RejectedSource], *others: RejectedSource) -> Discovery:
    scenes = found.values()
    refused = tuple(scene for scene in scenes if isinstance(scene, RejectedSource))
    return Discovery(tuple(scene for scene in scenes if isinstance(scene, SceneRef)), (*refused, *others))


def _inspect_item(document: Any, href: str) -> SceneRef | RejectedSource:
    name = str(document.get("id", "?")) if isinstance(document, dict) else "?"
    return catch_as_rejected(href, name, lambda: inspect_item(document, href))


def _get_item_key(document: Any) -> str:
    """What tells an item from others of the same search, also a broken one."""
    try:
        return f"{document['collection']}/{document['id']}"
    except _MALFORMED_ERRORS:
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _build_item_url(document: Any, url: str) -> str:
    """Where an item of an API can be read alone: its ``self`` link, or where the specification puts it."""
    try:
        links = {link["rel"]: link["href"] for link in document["links"]}
        place = f"collections/{quote(document['collection'], safe='')}/items/{quote(document['id'], safe='')}"
        return str(urljoin(f"{url.rstrip('/')}/", links.get("self", place)))
    except _MALFORMED_ERRORS:
        return url


def _list_links(document: Any, href: str) -> list[tuple[str, str]]:
    """Relation and address of what a catalogue leads to, the last first."""
    try:
        if document["type"] not in ("Catalog", "Collection"):
            raise ValueError(f"type {document['type']}")
        return [
            (link["rel"], pystac.utils.make_absolute_href(link["href"], href))
            for link in reversed(document["links"])
            if link["rel"] in ("child", "item")
        ]
    except _MALFORMED_ERRORS as error:
        raise InputError(
            f"no STAC catalogue at {href}",
            got=f"{type(error).__name__}: {error}",
            expected="a Catalog or Collection",
            fix="name its catalog.json or collection.json",
        ) from error


def _shorten(href: str) -> str:
    return "/".join(href.rstrip("/").rsplit("/", 2)[-2:])


def _is_in_box_and_time(document: Any, box: Any, interval: Interval | None) -> bool:
    """Whether an item meets the box and the time. One that says neither where nor when is in none."""
    if box is not None:
        geometry = document.get("geometry")
        if geometry is None or not shapely.intersects(shapely.geometry.shape(geometry), box):
            return False
    if interval is None:
        return True
    said = document["properties"]
    start, end = (_parse_time(said.get(key) or said.get("datetime")) for key in ("start_datetime", "end_datetime"))
    if start is None or end is None:
        return False
    return (interval.end is None or start < interval.end) and (interval.start is None or end >= interval.start)


def _parse_time(text: str | None) -> datetime | None:
    if text is None:
        return None
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
