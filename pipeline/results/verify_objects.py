"""Check that every file that was published to object storage is still there, by size, and that items lead to it."""

from __future__ import annotations

import json
from collections.abc import Iterator

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import ITEM, ITEMS, MAP_RECORD, RECORD
from seamline.pipeline.publishing.uploaded import find_uploaded, is_whole, read_listing
from seamline.pipeline.results.map_copies import copy_stored_item, find_original_url
from seamline.pipeline.results.stored_results import StoredResults
from seamline.pipeline.results.verify import Finding
from seamline.pipeline.stac.items import parse_item, read_items
from seamline.pipeline.storage.object_store import ObjectFolder, map_concurrently


def verify_objects(catalogue: ObjectFolder) -> Iterator[Finding]:
    """Yield a finding for each scene of which files are missing, or have other sizes than the item says.

    Only listings and items are read, no other file.

    Raises:
        InputError: It is a map with a damaged ``map.json``, or it cannot be reached.
    """
    listing, versions = read_listing(catalogue), StoredResults.open(catalogue).versions

    def check_scene(scene: str) -> Finding | None:
        if (problem := _find_copy_problem(catalogue, scene)) is not None:
            return Finding(scene, ITEM, problem) if problem else None
        try:
            scene_version = find_uploaded(catalogue, scene)
        except InputError as error:  # the record is none, or of another version
            return Finding(scene, RECORD, str(error))
        if scene_version is None:  # a killed upload leaves files, but no item
            has_item = catalogue.subfolder(scene).get_version(ITEM) is not None or scene in (versions or ())
            return Finding(scene, ITEM, "no item of a finished run") if has_item else None
        if not is_whole(catalogue, scene_version):
            problem = "files are missing, or have other sizes than the item says"
            return Finding(scene, scene_version.version, problem)
        if versions is not None and versions.get(scene) != scene_version.version:
            return Finding(scene, ITEM, f"leads to another version than {MAP_RECORD} says; make the map once more")
        if not listing.lists(scene_version):
            return Finding(scene, ITEMS, "does not list the scene as published")
        return None

    findings = map_concurrently(check_scene, sorted({*catalogue.list_folders(), *(versions or ())}))
    yield from (finding for finding in findings if finding is not None)


def _find_copy_problem(catalogue: ObjectFolder, scene: str) -> str | None:
    """Return what is wrong with an item of a map in the catalogue of its scenes; None if it is no such item."""
    found = catalogue.get(f"{scene}/{ITEM}")
    try:
        item = {} if found is None else json.loads(found.data)
        original = find_original_url(item) if item else None
    except (ValueError, LookupError, TypeError, AttributeError):
        return None  # the item is damaged, and no copy
    if original is None:
        return None
    try:
        there = ObjectFolder.from_url(original, catalogue.access).get(ITEM)
        expected = None if there is None else copy_stored_item(parse_item(there.data, scene), original)
    except (InputError, ValueError) as error:
        return f"is of a map whose item cannot be read: {error}"
    if expected is None:
        return f"is of a map that is not in {original.rpartition('/')[0]}"
    return "" if item == expected else f"is not what the map in {original.rpartition('/')[0]} says"


def count_items(catalogue: ObjectFolder) -> int:
    """Return how many items a catalogue or a map in object storage has."""
    return len(read_items(catalogue, catalogue.list_folders()))
