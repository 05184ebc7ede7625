"""Which scenes a collection has: from a STAC API, a catalogue, a pattern, a list, or an inbox."""

from __future__ import annotations

import csv
import glob
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from seamline.flows.collection.fingerprint import Discovery, RejectedSource, SceneRef, inspect_or_reject
from seamline.flows.collection.inbox import discover_inbox, is_partial
from seamline.flows.collection.scene_sources import Glob, Inbox, Manifest, SceneSource, StacCatalog, StacSearch
from seamline.flows.collection.stac_search import search_api, walk_catalog
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.storage.atomic import make_absolute

_THREADS = 8
"""Scenes that are looked at together; on the network each is a request."""
_SIDECAR_SUFFIXES = (".aux.xml", ".ovr", ".msk", ".qml", ".tfw")


def discover(source: SceneSource) -> Discovery:
    """The scenes of a collection, each with a name of its own; no pixel is read.

    Raises:
        InputError: the source itself is not there or not what it should be.
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
            discovery = _inspect_sources(_read_manifest(make_absolute(source.path)))
        case Inbox():
            discovery = discover_inbox(source)
    return _reject_duplicate_names(discovery)


def _reject_duplicate_names(discovery: Discovery) -> Discovery:
    """Results lie in folders of the scenes' names: of two alike the first is kept, whatever was found before.

    The same files by another path are the same scene.
    """
    first: dict[str, SceneRef] = {}
    refused = list(discovery.rejected)
    for scene in discovery.scenes:
        other = first.setdefault(scene.name, scene)
        if other.source != scene.source and other.fingerprint != scene.fingerprint:
            reason = f"its results would lie in {scene.name}/, as those of {other.source}; rename one of them"
            refused.append(RejectedSource(scene.source, scene.name, reason))
    return Discovery(tuple(first.values()), tuple(refused), discovery.waiting)


def _inspect_sources(sources: Iterable[str]) -> Discovery:
    with ThreadPoolExecutor(_THREADS) as pool:
        scenes = list(pool.map(inspect_or_reject, dict.fromkeys(sources)))
    refused = tuple(scene for scene in scenes if isinstance(scene, RejectedSource))
    return Discovery(tuple(scene for scene in scenes if isinstance(scene, SceneRef)), refused)


def _match_paths(pattern: str) -> list[str]:
    """Paths in order, without side-cars and what is still being written. No match is no error, no folder is."""
    pattern = str(make_absolute(pattern))
    fixed = Path(*(part for part in _take_parts_before_wildcards(Path(pattern).parts)))
    if not fixed.exists():
        raise InputError(
            f"pattern {pattern}", got=f"no {fixed}", expected="a folder that is there", fix="check the path"
        )
    paths = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - pathlib's takes no absolute patterns
    return [path for path in paths if not is_partial(Path(path).name) and not path.endswith(_SIDECAR_SUFFIXES)]


def _take_parts_before_wildcards(parts: Sequence[str]) -> list[str]:
    count = next((number for number, part in enumerate(parts[:-1]) if glob.has_magic(part)), len(parts) - 1)
    return list(parts[:count])


def _read_manifest(manifest: Path) -> list[str]:
    try:
        text = manifest.read_text(encoding="utf-8-sig")
        sources = _parse_manifest(text, manifest.suffix.lower())
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(
            f"manifest {manifest}",
            got=" ".join(f"{type(error).__name__}: {error}".split()),
            expected="a source on each line, CSV with a column source, or a JSON list of sources",
            fix="correct it",
        ) from error
    return [_resolve_source(manifest.parent, source) for source in sources]


def _parse_manifest(text: str, suffix: str) -> list[str]:
    if suffix == ".json":
        listed = json.loads(text)
        if not isinstance(listed, list) or not all(isinstance(source, str) for source in listed):
            raise ValueError("no list of texts")
        return listed
    if suffix == ".csv":
        sources = ((row["source"] or "").strip() for row in csv.DictReader(text.splitlines()))
        return [source for source in sources if source]
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _resolve_source(folder: Path, source: str) -> str:
    absolute = "://" in source or source.startswith(("/", "~"))
    return source if absolute else str(folder / source)
