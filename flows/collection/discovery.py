"""Find the scenes of a collection: by a STAC API, in a STAC catalogue, by a path pattern, in a list or in an inbox."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from seamline.flows.collection.fingerprint import inspect_or_reject
from seamline.flows.collection.inbox import discover_inbox, is_partial
from seamline.flows.collection.manifest import read_manifest
from seamline.flows.collection.scene_ref import Discovery, RejectedSource, SceneRef
from seamline.flows.collection.scene_sources import Glob, Inbox, Manifest, SceneSource, StacCatalog, StacSearch
from seamline.flows.collection.stac_catalog import walk_catalog
from seamline.flows.collection.stac_search import search_api
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.storage.atomic import make_absolute

_THREADS = 8
"""Sources to inspect at the same time. Each remote source is a request to a server."""

_SIDECAR_SUFFIXES = (".aux.xml", ".ovr", ".msk", ".qml", ".tfw")


def discover(source: SceneSource, known: Sequence[RejectedSource] = ()) -> Discovery:
    """Find the scenes of a collection, each with a unique name, without reading pixels.

    Args:
        source: Where the scenes come from.
        known: What was rejected of an inbox before; what has not changed since is rejected without opening it.

    Raises:
        InputError: the source itself does not exist or is of another kind.
        RunError: a server does not answer.
    """
    match source:
        case StacSearch():
            discovery = search_api(source)
        case StacCatalog():
            discovery = walk_catalog(source)
        case Glob():
            discovery = _inspect_sources(_match_paths(source.pattern))
        case Manifest():
            discovery = _inspect_sources(read_manifest(make_absolute(source.path)))
        case Inbox():
            discovery = discover_inbox(source, known)
    return _reject_duplicate_names(discovery)


def _reject_duplicate_names(discovery: Discovery) -> Discovery:
    """Keep the first scene of each name and reject the others, since the name is the folder of the results.

    A second path to the same files is dropped without a rejection.
    """
    first_of_name: dict[str, SceneRef] = {}
    rejected = list(discovery.rejected)
    for scene in discovery.scenes:
        first = first_of_name.setdefault(scene.name, scene)
        if first.source != scene.source and first.fingerprint != scene.fingerprint:
            reason = f"its results would lie in {scene.name}/, as those of {first.source}; rename one of them"
            rejected.append(RejectedSource(scene.source, scene.name, reason, scene.fingerprint))
    return Discovery(tuple(first_of_name.values()), tuple(rejected), discovery.waiting)


def _inspect_sources(sources: Iterable[str]) -> Discovery:
    unique_sources = dict.fromkeys(sources)
    with ThreadPoolExecutor(_THREADS) as pool:
        return Discovery.from_candidates(pool.map(inspect_or_reject, unique_sources))


def _match_paths(pattern: str) -> list[str]:
    """Return the matching paths in order, without sidecars and files that are still being written.

    A pattern without matches is no error; a folder that does not exist is one.
    """
    pattern = str(make_absolute(pattern))
    folder = Path(*_take_parts_before_wildcards(Path(pattern).parts))
    if not folder.exists():
        raise InputError(
            f"pattern {pattern}", got=f"no {folder}", expected="a folder that is there", fix="check the path"
        )
    paths = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute patterns
    return [path for path in paths if not is_partial(Path(path).name) and not path.endswith(_SIDECAR_SUFFIXES)]


def _take_parts_before_wildcards(parts: Sequence[str]) -> Sequence[str]:
    """Return the folders before the first part with a wildcard; the last part is never among them."""
    for number, part in enumerate(parts[:-1]):
        if glob.has_magic(part):
            return parts[:number]
    return parts[:-1]
