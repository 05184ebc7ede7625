"""Is what was published to object storage still there: every file of every scene, by size."""

from __future__ import annotations

from collections.abc import Iterator

from seamline.pipeline.common.layout import ITEM, ITEMS
from seamline.pipeline.publishing.uploaded import find_uploaded, is_listed, is_whole
from seamline.pipeline.results.verify import Finding
from seamline.pipeline.storage.object_store import ObjectFolder, map_concurrently


def verify_objects(catalogue: ObjectFolder) -> Iterator[Finding]:
    """What is missing of the scenes of a catalogue, or has another size than its item says; no file is read."""

    def finding(scene: str) -> Finding | None:
        found = find_uploaded(catalogue, scene)
        if found is None:  # leftovers of a killed upload have no item
            there = catalogue.subfolder(scene).get_version(ITEM) is not None
            return Finding(scene, ITEM, "no item of a finished run") if there else None
        if not is_whole(catalogue, found):
            return Finding(scene, found.version, "files are missing, or have other sizes than the item says")
        return None if is_listed(catalogue, found) else Finding(scene, ITEMS, "does not list the scene as published")

    yield from (found for found in map_concurrently(finding, catalogue.list_folders()) if found is not None)
