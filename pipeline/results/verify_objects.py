"""Check that every file that was published to object storage is still there, by size."""

from __future__ import annotations

from collections.abc import Iterator

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import ITEM, ITEMS, RECORD
from seamline.pipeline.publishing.uploaded import find_uploaded, is_whole, read_listing
from seamline.pipeline.results.verify import Finding
from seamline.pipeline.storage.object_store import ObjectFolder, map_concurrently


def verify_objects(catalogue: ObjectFolder) -> Iterator[Finding]:
    """Yield a finding for each scene of which files are missing, or have other sizes than the item says.

    Only listings and items are read, no other file.
    """
    listing = read_listing(catalogue)

    def check_scene(scene: str) -> Finding | None:
        try:
            scene_version = find_uploaded(catalogue, scene)
        except InputError as error:  # the record is none, or of another version
            return Finding(scene, RECORD, str(error))
        if scene_version is None:  # a killed upload leaves files, but no item
            has_item = catalogue.subfolder(scene).get_version(ITEM) is not None
            return Finding(scene, ITEM, "no item of a finished run") if has_item else None
        if not is_whole(catalogue, scene_version):
            problem = "files are missing, or have other sizes than the item says"
            return Finding(scene, scene_version.version, problem)
        if not listing.lists(scene_version):
            return Finding(scene, ITEMS, "does not list the scene as published")
        return None

    findings = map_concurrently(check_scene, catalogue.list_folders())
    yield from (finding for finding in findings if finding is not None)
