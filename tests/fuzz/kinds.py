"""Every kind of file that the project opens: undamaged files, how they are damaged, and what opens them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from tests.fuzz import corpus, openers
from tests.fuzz.binaries import damage_graph, damage_safetensors, damage_table, damage_tags
from tests.fuzz.documents import damage_json, damage_lines, damage_xml, damage_yaml
from tests.fuzz.mutations import Chance, Mutate, choose, damage_bytes, in_header, in_members

_Damages = Sequence[tuple[str, Mutate | None]]
"""Pattern of a file's name, and how it is damaged; the first that fits counts, None leaves the file as it is."""

_JSON = choose(damage_json, damage_json, damage_json, damage_bytes)
_LINES = choose(damage_lines, damage_lines, damage_bytes)
_XML = choose(damage_xml, damage_xml, damage_xml, damage_bytes)
_YAML = choose(damage_yaml, damage_yaml, damage_bytes)
_TIFF = choose(damage_tags, damage_tags, in_header(damage_bytes, 1024), damage_bytes)
_ARCHIVE = choose(damage_bytes, in_members(damage_bytes))
_GRAPH = choose(damage_graph, damage_graph, damage_bytes)
_WEIGHTS = choose(damage_safetensors, damage_bytes)
_TABLE = choose(damage_table, damage_bytes)

_ITEMS = (("*.json", _JSON),)
_VECTORS = (("*.geojson", _JSON), ("*.[kg]ml", _XML), ("area.*", damage_bytes), ("truth.*", damage_bytes))
_SIDECARS = (("*.xml", _XML), ("*.tfw", _LINES), ("*.ovr", _TIFF))
_NETWORKS = (("*.onnx", _GRAPH), ("*.pt*", _ARCHIVE))
_RESULTS = (
    *_ITEMS,
    ("*.parquet", _TABLE),
    ("segmentation.tif.aux.xml", _XML),
    ("*.tif", _TIFF),
    ("[0-9]*", damage_bytes),
)
_DROPPED = (*_ITEMS, ("*.vrt", _XML), ("*.xml", _XML), ("*.ovr", _TIFF), ("*.zip", _ARCHIVE), ("*.tar", damage_bytes))


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        write: Writes undamaged files into a folder, each variant into a folder of its own.
        damages: How the files of a variant are damaged.
        open: Opens the damaged file and returns what was said of it, each a line.
        share: How often the kind is drawn, relative to others.
        encloses: Whether nothing outside of the folder may be opened.
    """

    write: Callable[[Path], None]
    damages: _Damages
    open: Callable[[Path], Sequence[str]]
    share: int = 1
    encloses: bool = False


KINDS = {
    "geotiff": Kind(corpus.write_rasters, (("*.tif", _TIFF),), openers.open_scene_file, 4),
    "vrt": Kind(corpus.write_vrts, (("*.vrt", _XML),), openers.open_scene_file, 4),
    "sidecar": Kind(corpus.write_sidecars, _SIDECARS, openers.open_beside),
    "item": Kind(corpus.write_items, _ITEMS, openers.open_scene_file, 4),
    "product": Kind(corpus.write_products, (("*_MTL.txt", _LINES), ("*.xml", _XML)), openers.open_product),
    "archive": Kind(corpus.write_archives, (("*.zip", _ARCHIVE), ("*.tar", damage_bytes)), openers.open_scene_file),
    "inbox": Kind(corpus.write_inboxes, _DROPPED, openers.look_into_inbox, 4, encloses=True),
    "catalog": Kind(corpus.write_catalogs, _ITEMS, openers.walk_catalog, 2),
    "search": Kind(corpus.write_searches, _ITEMS, openers.search_api, 2),
    "manifest": Kind(corpus.write_manifests, (("list.json", _JSON), ("list.*", _LINES)), openers.read_manifest, 2),
    "aoi": Kind(corpus.write_areas, _VECTORS, openers.open_with_area, 3),
    "zones": Kind(corpus.write_zones, _VECTORS, openers.place_zones),
    "labels": Kind(corpus.write_labels, (*_VECTORS, ("truth.tif", _TIFF)), openers.compare_with_labels, 2),
    "recipe": Kind(corpus.write_recipes, (("*.yaml", _YAML),), openers.load_recipe, 3),
    "model": Kind(corpus.write_models, (*_ITEMS, ("*.safetensors", _WEIGHTS)), openers.load_model, 3),
    "network": Kind(corpus.write_networks, _NETWORKS, openers.import_network),
    "result": Kind(corpus.write_results, _RESULTS, openers.open_results),
}


def spread_over_kinds(count: int, start: int) -> list[tuple[str, int]]:
    """Return kind and number of so many mutations; ``start`` is the first number of each kind."""
    shares = {name: kind.share for name, kind in KINDS.items()}
    counts = {name: max(1, count * share // sum(shares.values())) for name, share in shares.items()}
    return [(name, start + number) for name, numbers in counts.items() for number in range(numbers)]


def damage_variant(name: str, number: int, seeds: Path, folder: Path, server: str) -> Path:
    """Copy one variant of a kind to a folder, damage one file in it, and return the file's path.

    Args:
        name: The kind.
        number: The number of the mutation.
        seeds: Folder of the undamaged files, by kind and variant.
        folder: The folder to make.
        server: Address at which the folder is served.
    """
    kind, chance = KINDS[name], Chance(name, number)
    shutil.copytree(chance.of(sorted((seeds / name).iterdir())), folder, symlinks=True)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    path, mutate = chance.of([(path, mutate) for path in files if (mutate := _find_damage(kind.damages, path.name))])
    path.write_bytes(mutate(path.read_bytes(), chance))
    places = {b"@OUTSIDE@": os.fsencode(folder.parent / "outside"), b"@SERVER@": server.encode()}
    for file in files:
        content = file.read_bytes()
        if any(word in content for word in places):
            for word, place in places.items():
                content = content.replace(word, place)
            file.write_bytes(content)
    return path


def _find_damage(damages: _Damages, name: str) -> Mutate | None:
    return next((mutate for pattern, mutate in damages if fnmatch(name, pattern)), None)
