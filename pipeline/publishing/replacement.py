"""Give a scene's folder a new content in one step.

A new version of the results is written to a folder in the run directory. When it is complete, it changes places with
the scene's folder, so that nobody sees files of two versions side by side::

    <scene>/.run/<start>/result/    the new version, complete
    .seamline/<scene>.<start>/      the same, beside the scene's folder; then what the scene's folder was before
    .seamline/<scene>.<start>.old/  what it was before, for a moment, where two folders cannot change places

A kill leaves one of these states. ``settle`` goes on from each: it removes the old version if the new one is in its
place, and else takes the new one back.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from seamline.pipeline.common.layout import ASIDE, ITEM, RUN_DIRECTORY, ZARR
from seamline.pipeline.execution.run_directory import RunDirectory
from seamline.pipeline.stac.assets import ASSETS
from seamline.pipeline.storage.atomic import exchange_folders, remove, sync

_OLD = ".old"
_GDAL_METADATA = ".aux.xml"
_OWN_FILES = {ITEM, *(known.name for known in ASSETS)}


def put_in_place(directory: RunDirectory) -> None:
    """Exchange the content of a scene's folder for the result of its run; ``settle`` then removes the old content.

    Args:
        directory: the run directory, which is locked. Its result becomes the scene's folder.
    """
    folder, result = directory.path.parent.resolve(), directory.result
    aside = folder.parent / ASIDE / f"{folder.name}.{directory.start}"
    aside.parent.mkdir(exist_ok=True)
    shutil.copymode(folder, result)
    with suppress(OSError):  # without hard links another process may begin here a moment too early, and finds all done
        (result / RUN_DIRECTORY).mkdir()
        os.link(directory.lock_file, result / RUN_DIRECTORY / directory.lock_file.name)
    result.rename(aside)
    exchange_folders(aside, folder, aside.with_name(aside.name + _OLD))
    sync(folder.parent)


def is_settled(folder: Path) -> bool:
    """Return whether nothing is left of a replacement of the scene's folder."""
    return not any(_list_asides(folder.resolve()))


def bring_back(folder: Path) -> None:
    """Bring the scene's folder back, if a kill came while it had no name. Call this before its lock is taken."""
    folder = folder.resolve()
    for old in _list_asides(folder):
        if old.name.endswith(_OLD) and not folder.exists():
            old.rename(folder)


def _is_scene_file(name: str) -> bool:
    """Return whether a file of this name in a scene's folder is one that a run writes."""
    return name in _OWN_FILES


def settle(directory: RunDirectory, is_own: Callable[[str], bool] = _is_scene_file) -> None:
    """Finish what a killed replacement of a scene's folder left, and remove what is half written in it.

    Files of others in the old folder move to the new one.

    Args:
        directory: the run directory in the scene's folder, which is locked.
        is_own: tells by its name whether a file of the folder is one that a run writes.
    """
    folder = directory.path.parent.resolve()
    for aside in _list_asides(folder):
        start = aside.name.removesuffix(_OLD).rpartition(".")[2]
        if directory.plan_file.exists() and (directory.path / start).is_dir():
            result = directory.with_start(start).result  # it did not get into its place
            remove(result)
            aside.rename(result)
        else:
            _discard(aside, folder, is_own)
    with suppress(OSError):  # not empty: other scenes are being replaced
        (folder.parent / ASIDE).rmdir()
    for part in folder.glob(".*.part"):
        part.unlink()


def _list_asides(folder: Path) -> Iterator[Path]:
    pattern = f"{glob.escape(folder.name)}.{'[0-9a-f]' * 12}"
    for name in (f"{pattern}{_OLD}", pattern):
        yield from (folder.parent / ASIDE).glob(name)


def _discard(old: Path, folder: Path, is_own: Callable[[str], bool]) -> None:
    """Remove an old version of a scene's folder or a map's; what is not ours moves to the new one.

    So does what is not ours in the folders of results that it holds, as a map has one for each period. Where the map
    has no such period any more, its folder stays with what is not ours.
    """
    for path in old.iterdir():
        is_ours = is_own(path.name.removesuffix(_GDAL_METADATA)) or path.name == RUN_DIRECTORY
        if is_ours and _is_result(path):
            _discard(path, folder / path.name, _is_scene_file)
        elif not is_ours and not path.name.endswith(".part") and not (folder / path.name).exists():
            folder.mkdir(exist_ok=True)
            path.rename(folder / path.name)
    # Errors are ignored: a task of a killed run may still write here.
    shutil.rmtree(old, ignore_errors=True)


def _is_result(path: Path) -> bool:
    """Return whether what a run wrote is a folder of a result, and neither a store nor hidden."""
    is_folder = path.is_dir() and not path.is_symlink()
    return is_folder and not path.name.startswith(".") and path.suffix != Path(ZARR).suffix
