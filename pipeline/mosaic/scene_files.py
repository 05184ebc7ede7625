"""Whether the files of published scenes from which a map is made are there, and as they were published."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from seamline.pipeline.common.layout import COG, ITEM, RECORD, ZARR
from seamline.pipeline.mosaic.map_record import MapScene
from seamline.pipeline.mosaic.published_scenes import PublishedScene
from seamline.pipeline.products.seal import is_sealed
from seamline.pipeline.stac.assets import compute_file_info
from seamline.pipeline.storage.object_store import ObjectFolder, map_concurrently

_PROBABILITIES = "probabilities"
_PROBABILITIES_COG = f"{_PROBABILITIES}.tif"
_PLACELESS = "no place on Earth: its raster has no CRS"
_Storage = Literal["zarr", "cog"]
_FindProblem = Callable[[str, Mapping[str, Any]], str]
"""Returns what is wrong with a file from its name and what the item says of it; an empty text if nothing is."""


@dataclass(frozen=True)
class CheckedScenes:
    """Scenes by what was found of their files.

    Attributes:
        whole: scenes that a map can be made of, in the order in which they were given.
        damaged: why a map cannot be made of others, by their ids.
        withdrawn: ids of scenes that the table still lists and whose item is gone.
    """

    whole: tuple[MapScene, ...]
    damaged: Mapping[str, str]
    withdrawn: tuple[str, ...]


def has_probabilities(scene: PublishedScene) -> bool:
    """Return whether a scene was published with the probabilities of its classes."""
    return _PROBABILITIES_COG in scene.files


def check_scenes(catalogue: Path | ObjectFolder, scenes: Iterable[PublishedScene]) -> CheckedScenes:
    """Look for the files of scenes from which votes are read; no pixel is read.

    They must exist with the sizes that the items say, a store must be sealed, and of local scenes the record of the run
    must have the content that the item says. Labels and probabilities are read from the Zarr store. Where it is not
    there, or not whole, they are read from the COGs, which have the same pixels.

    Args:
        catalogue: the folder of the catalogue.
        scenes: scenes that its table lists.
    """
    scenes = list(scenes)
    found: dict[str, MapScene | str | None]
    if isinstance(catalogue, Path):
        found = {scene.id: _check_local(catalogue, scene) for scene in scenes}
    else:
        check = partial(_check_remote, catalogue)
        found = dict(map_concurrently(lambda scene: (scene.id, check(scene)), scenes))
    states = {scene.id: found[scene.id] for scene in scenes}
    return CheckedScenes(
        tuple(state for state in states.values() if isinstance(state, MapScene)),
        {name: state for name, state in states.items() if isinstance(state, str)},
        tuple(name for name, state in states.items() if state is None),
    )


def _check_local(catalogue: Path, scene: PublishedScene) -> MapScene | str | None:
    """Return the scene as a map has it, or what is wrong with it; None if it was withdrawn."""
    if not (catalogue / scene.id / ITEM).is_file():
        return None
    return _check_files(str(catalogue), scene, partial(_find_local_problem, catalogue / scene.place))


def _check_remote(catalogue: ObjectFolder, scene: PublishedScene) -> MapScene | str | None:
    """Return the same of a scene in object storage, whose objects are listed once."""
    sizes = catalogue.list_sizes(scene.id)
    if f"{scene.id}/{ITEM}" not in sizes:
        return None
    return _check_files(catalogue.to_url(), scene, partial(_find_remote_problem, sizes, scene.place))


def _check_files(catalogue: str, scene: PublishedScene, find_problem: _FindProblem) -> MapScene | str:
    """Return the scene as a map has it, or what is wrong with it.

    Args:
        catalogue: path or address of the catalogue.
        scene: the scene.
        find_problem: looks at one file.
    """
    if scene.grid is None:
        return _PLACELESS

    def describe(*names: str) -> str:
        problems = {name: find_problem(name, scene.files[name]) for name in names if name in scene.files}
        return " and ".join(f"{name} {problem}" for name, problem in problems.items() if problem)

    problems: dict[_Storage, str] = {}
    if ZARR in scene.files:
        problems["zarr"] = describe(RECORD, ZARR)
    if COG in scene.files:
        problems["cog"] = describe(RECORD, COG, _PROBABILITIES_COG)
    storage = next((kind for kind, problem in problems.items() if not problem), None)
    if storage is None:
        return next(iter(problems.values()), "no labels")
    span = scene.item.properties.acquired
    return MapScene(
        id=scene.id,
        version=scene.version,
        acquired=span and (span.start, span.end),
        grid=scene.grid,
        votes="probabilities" if has_probabilities(scene) else "labels",
        storage=storage,
        folder=f"{catalogue}/{scene.place}",
        href=f"{catalogue}/{scene.id}/{ITEM}",
    )


def _find_local_problem(folder: Path, name: str, asset: Mapping[str, Any]) -> str:
    """Return what is wrong with a file or store, as ``_FindProblem`` says."""
    path = folder / name
    if not path.exists():
        return "is gone"
    if path.is_dir() is not (name == ZARR):
        return "is no file" if path.is_dir() else "is no store"
    if name == ZARR and not is_sealed(path):
        return "is not sealed"
    info = compute_file_info(path, with_checksum=name == RECORD)
    if any(asset.get(field, value) != value for field, value in info.items()):
        return _describe_size(info["file:size"], asset)
    return ""


def _find_remote_problem(sizes: Mapping[str, int], place: str, name: str, asset: Mapping[str, Any]) -> str:
    """Return what is wrong with an object or the objects of a store, as ``_FindProblem`` says.

    Args:
        sizes: bytes of the objects of the scene, by their keys below the catalogue.
        place: path below the catalogue of the folder of the files.
        name: name of the file or the store.
        asset: what the item says of it.
    """
    key = f"{place}/{name}"
    parts = [size for other, size in sizes.items() if other == key or other.startswith(f"{key}/")]
    if not parts:
        return "is gone"
    size = sum(parts)
    return "" if asset.get("file:size", size) == size else _describe_size(size, asset)


def _describe_size(size: int, asset: Mapping[str, Any]) -> str:
    expected = asset.get("file:size", size)
    return f"has {size} bytes instead of {expected}" if size != expected else "has another content than its item says"
