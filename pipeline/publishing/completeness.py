"""What of a finished run is there, and is what it was when it was published.

The item holds sizes and checksums of the files, the seal of the Zarr store a digest of its content. Sizes are always
compared, contents if that is asked for, and before anything is made of them.

The checksum of ``run.json`` is in the item and, with the item, in the table of all items. So it can be told which of
the three is damaged.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import ITEM, ITEMS, MODEL, OVERVIEW, PREVIEW, RECORD, REPORT, ZARR
from seamline.pipeline.products.run_record import read_record
from seamline.pipeline.products.seal import has_sealed_content, is_sealed
from seamline.pipeline.products.sidecars import list_sidecars
from seamline.pipeline.products.zarr_store import list_store_rasters
from seamline.pipeline.publishing.result_files import COG_ARRAYS, get_cog_path
from seamline.pipeline.publishing.uploaded import UploadedScene, download
from seamline.pipeline.stac.assets import compute_file_info
from seamline.pipeline.stac.catalog import is_catalog_whole, is_in_catalog
from seamline.pipeline.stac.items import ItemDict, read_item, read_item_table, read_run_checksums, round_trip_items
from seamline.pipeline.stac.waiting import is_waiting
from seamline.pipeline.storage.object_store import ObjectFolder
from seamline.pipeline.vectors.polygon_options import PolygonOptions


@dataclass(frozen=True)
class PublishedFiles:
    """The files of a finished run, and what its item says of them.

    Attributes:
        folder: the scene's folder.
        assets: assets of the item by the names of their files; empty where the item is lost or damaged.
    """

    folder: Path
    assets: Mapping[str, ItemDict]

    @classmethod
    def in_folder(cls, folder: Path) -> PublishedFiles:
        """Return what is known of the files in a scene's folder."""
        return cls(folder, {posixpath.normpath(asset["href"]): asset for asset in _read_assets(folder).values()})

    def has(self, name: str, *, check: bool) -> bool:
        """Return whether a file or the Zarr store is as it was published.

        Args:
            name: its name.
            check: compare the content, too; otherwise only the size.
        """
        path, asset = self.folder / name, self.assets.get(name, {})
        if not path.exists() or path.is_dir() is not (name == ZARR) or (name == ZARR and not is_sealed(path)):
            return False
        info = compute_file_info(path, with_checksum=check)
        is_same = all(asset.get(field, value) == value for field, value in info.items())
        return is_same and (name != ZARR or not check or has_sealed_content(path))

    def has_polygons(self, wanted: PolygonOptions | None, *, check: bool) -> bool:
        """Return whether the files of polygons are there, made by the rules that are wanted."""
        if wanted is None:
            return True
        is_by_rules = wanted.follow(read_record(self.folder).polygons)
        return is_by_rules and all(self.has(name, check=check) for name in wanted.files)


def list_missing_outputs(
    folder: Path, outputs: Iterable[str], polygons: PolygonOptions | None, *, check: bool = False
) -> list[str]:
    """List what is not there, or not whole, of a finished run.

    Args:
        folder: the scene's folder.
        outputs: names of the outputs that are wanted.
        polygons: rules and formats of the polygons that are wanted; by other rules they count as missing.
        check: compare the content of all files with their checksums, not only the sizes.

    Returns:
        Names of outputs, and "style", "preview", "report", "item". The preview is missing without the overview, too;
        the item is missing where it or the catalogue does not match the record, since a kill came between.
    """
    outputs, files = tuple(outputs), PublishedFiles.in_folder(folder)
    there = {output: files.has(get_cog_path(folder, output).name, check=check) for output in COG_ARRAYS}
    there["zarr"] = files.has(ZARR, check=check)
    there["polygons"] = files.has_polygons(polygons, check=check)
    missing = [output for output in outputs if not there[output]]
    if not (files.has(PREVIEW, check=check) and files.has(OVERVIEW, check=check)):
        missing.append("preview")
    if not files.has(REPORT, check=check):
        missing.append("report")
    if not all(files.has(name, check=check) for name in list_sidecars(outputs)):
        missing.append("style")
    if MODEL in files.assets and not files.has(MODEL, check=check):  # older items have none
        missing.append("item")
    return missing if "item" in missing or _is_item_current(folder, outputs, check=check) else [*missing, "item"]


def can_restore(folder: Path, outputs: Iterable[str]) -> bool:
    """Return whether labels and layers of a finished run are there, as one raster or the other, as they were published.

    Their content is compared with what was published.
    """
    files = PublishedFiles.in_folder(folder)
    stored = list_store_rasters(folder / ZARR) if files.has(ZARR, check=True) else ()
    wanted = {"cog", *outputs} & set(COG_ARRAYS)
    return all(
        COG_ARRAYS[output] in stored or files.has(get_cog_path(folder, output).name, check=True) for output in wanted
    )


def is_upload_intact(catalogue: ObjectFolder, uploaded: UploadedScene, scratch: Path) -> bool:
    """Return whether a scene in object storage has the content that was published.

    Args:
        catalogue: object storage of the catalogue.
        uploaded: the scene, all files of which are there.
        scratch: folder in which all of its files find room; they are downloaded and removed again.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=scratch, prefix=".check-") as folder:
        download(catalogue, uploaded, Path(folder))
        files = PublishedFiles.in_folder(Path(folder))
        return all(files.has(name, check=True) for name in files.assets)


def refuse_damaged_record(folder: Path) -> None:
    """Refuse a record that is not the one that was published.

    Args:
        folder: the scene's folder, with a record that can be read.

    Raises:
        InputError: the item knows another one, and so does the table of all items, if it is there.
    """
    by_item = _read_checksum_in_item(folder)
    if by_item in (None, _compute_run_checksum(folder)):
        return  # the table may be large
    if _read_checksum_in_table(folder) in (None, by_item):
        raise InputError(
            f"{RECORD} of scene {folder.name}",
            got="another content than when it was published",
            expected=f"the one whose checksum {ITEM} has",
            fix="bring the file back, or start over with --overwrite",
        )


def _is_item_current(folder: Path, outputs: Iterable[str], *, check: bool) -> bool:
    """Return whether catalogue, table and item know the record as it is, and it knows the outputs."""
    actual = _compute_run_checksum(folder)
    if _read_checksum_in_item(folder) != actual or not set(outputs) <= set(read_record(folder).outputs):
        return False
    if check and not is_catalog_whole(folder.parent):
        return False
    if is_waiting(folder.parent, folder.name):
        return True
    is_listed = is_in_catalog(folder.parent, folder.name) and _read_checksum_in_table(folder) == actual
    return is_listed and (not check or _is_item_in_table(folder))


def _compute_run_checksum(folder: Path) -> str:
    return str(compute_file_info(folder / RECORD)["file:checksum"])


def _read_checksum_in_item(folder: Path) -> str | None:
    """Return the checksum of the record as the item has it; None where it is lost."""
    with suppress(LookupError, TypeError):
        return str(_read_assets(folder)["run"]["file:checksum"])
    return None


def _read_checksum_in_table(folder: Path) -> str | None:
    """Return the checksum of the record as the table of all items has it; None where it is lost, or not there yet."""
    if is_waiting(folder.parent, folder.name):
        return None
    with suppress(OSError, ValueError, LookupError, TypeError):
        return read_run_checksums(folder.parent / ITEMS)[folder.name]
    return None


def _is_item_in_table(folder: Path) -> bool:
    """Return whether the table of all items has the item as it is."""
    with suppress(OSError, ValueError, LookupError):
        listed = read_item_table(folder.parent / ITEMS)[folder.name]
        return listed == round_trip_items({folder.name: read_item(folder / ITEM)})[folder.name]
    return False


def _read_assets(folder: Path) -> dict[str, ItemDict]:
    """Return the assets of a scene's item; none if it is lost or damaged."""
    with suppress(OSError, ValueError):
        return dict(read_item(folder / ITEM)["assets"])
    return {}
