"""Discover scenes by the item search of a STAC API."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urljoin

import pystac
from pystac_client import Client
from pystac_client.errors import ClientTypeError
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from pystac_client.warnings import DoesNotConformTo, PystacClientWarning

from seamline.flows.collection.fingerprint import MALFORMED_ERRORS, inspect_item_or_reject
from seamline.flows.collection.scene_ref import Discovery, RejectedSource, SceneRef
from seamline.flows.collection.scene_sources import StacSearch
from seamline.pipeline.common.errors import InputError, SeamlineError
from seamline.pipeline.storage.json_documents import fetch_json_text
from seamline.pipeline.storage.web_requests import is_url

_PAGE_SIZE = 100
"""Items to request per page. Larger pages make each answer slow, smaller pages need more requests."""

_MOST_ITEMS = 10_000
"""Items of a page, at most: STAC APIs give no more, however many are asked for."""
_MAX_PAGES = 1_000_000
"""Ends a search whose pages never end."""

_SEARCH_ERRORS = (
    APIError,
    ClientTypeError,
    DoesNotConformTo,
    NotImplementedError,
    pystac.STACError,
    pystac.STACTypeError,
    *MALFORMED_ERRORS,
)
"""What pystac-client raises when there is no API at the URL or the API refuses the search."""

_STAC_FIELDS = {"type", "conformsTo", "features", "collections"}
"""A document of a STAC API has at least one of these fields."""


class _RetryingIO(StacApiIO):
    """Send the requests of pystac-client with the timeout and the retries that all requests of Seamline have.

    Headers or signatures that an API needs would be added here.
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

    def read_text(self, source: Any, *args: Any, **kwargs: Any) -> str:
        """Read a document that the API links.

        Raises:
            ValueError: it is no web address, and pystac-client would read the file of this name on this machine.
        """
        if not isinstance(source, pystac.Link) and not is_url(str(source)):
            raise ValueError(f"a link to {str(source)[:200]!r}, which is no web address")
        return str(super().read_text(source, *args, **kwargs))

    def json_loads(self, txt: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Parse a STAC document.

        Any other document is refused, because pystac-client would take it for an empty last page.

        Raises:
            ValueError: the text is not a STAC document.
        """
        document: dict[str, Any] = super().json_loads(txt, *args, **kwargs)
        features = document.get("features", None if document.get("type") == "FeatureCollection" else [])
        if not _STAC_FIELDS & document.keys() or not isinstance(features, list):
            raise ValueError(f"no document of STAC: {txt[:100]}")
        if len(features) > _MOST_ITEMS:
            raise ValueError(f"a page of {len(features)} items; STAC APIs give at most {_MOST_ITEMS}")
        return document


def search_api(source: StacSearch) -> Discovery:
    """Search a STAC API for items, and inspect each item.

    A broken item is rejected and the others stay. If a page after the first cannot be read, or a page repeats earlier
    items, the search ends: the items of the pages before are kept, and a rejection says what is missing.

    Raises:
        InputError: there is no API at the URL, or it refuses the search.
        RunError: the API does not answer.
    """
    candidates: dict[str, SceneRef | RejectedSource] = {}
    failures: list[RejectedSource] = []
    pages = _iterate_pages(source)
    for number in range(1, _MAX_PAGES):
        try:
            page = next(pages, None)
        except SeamlineError as error:
            if number == 1:
                raise
            failures.append(RejectedSource(source.url, "search", f"page {number}: {error}"))
            break
        if page is None:
            break
        items = {_get_item_key(item): item for item in page}
        new_keys = [key for key in items if key not in candidates]
        if not new_keys:
            reason = f"page {number} holds what was there before: the API's next link leads back, items may be missing"
            failures.append(RejectedSource(source.url, "search", reason))
            break
        for key in new_keys:
            candidates[key] = inspect_item_or_reject(items[key], _build_item_url(items[key], source.url))
    return Discovery.from_candidates(candidates.values(), failures)


def _iterate_pages(source: StacSearch) -> Iterator[list[Any]]:
    """Yield the items of each page as parsed JSON; refusals of the API become ``InputError``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PystacClientWarning)
            # An API that does not know filters would ignore the filter and return every item.
            warnings.simplefilter("error", DoesNotConformTo)
            client = Client.open(source.url, stac_io=_RetryingIO())
            search = client.search(
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
        for page in search.pages_as_dicts():
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


def _get_item_key(document: Any) -> str:
    """Return a key that identifies an item within a search, also a malformed one."""
    try:
        return f"{document['collection']}/{document['id']}"
    except MALFORMED_ERRORS:
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _build_item_url(document: Any, url: str) -> str:
    """Return the item's own URL: its ``self`` link, or else the path that the STAC API specification defines."""
    try:
        links = {link["rel"]: link["href"] for link in document["links"]}
        path = f"collections/{quote(document['collection'], safe='')}/items/{quote(document['id'], safe='')}"
        return str(urljoin(f"{url.rstrip('/')}/", links.get("self", path)))
    except MALFORMED_ERRORS:
        return url
