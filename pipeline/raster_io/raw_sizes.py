"""Whether files are as long as they must be: GDAL reads zeros beyond the end of plain numbers."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.raster_io.local_files import find_local_file

_DRIVERS = frozenset(
    [
        "ACE2",
        "BYN",
        "CPG",
        "CTable2",
        "DOQ1",
        "DOQ2",
        "EHdr",
        "EIR",
        "ENVI",
        "ERS",
        "FAST",
        "GenBin",
        "GSC",
        "GTX",
        "ISCE",
        "LAN",
        "LCP",
        "MFF",
        "MFF2",
        "NDF",
        "NGSGEOID",
        "NSIDCbin",
        "PAux",
        "PCIDSK",
        "PCRaster",
        "PNM",
        "ROI_PAC",
        "RRASTER",
        "SNODAS",
        "VICAR",
        "ISIS2",
        "ISIS3",
        "PDS4",
    ]
)
"""Drivers of GDAL that take zeros for what is missing at the end of a file."""
_HEADERS = {".hdr", ".xml", ".aux", ".prj", ".txt", ".rsc", ".vrt", ".clr", ".stx", ".ers", ".grd", ".sta", ".ovr"}
"""Endings of files beside the numbers."""
_GZIP = b"\x1f\x8b"


def check_raw_size(path: str, dataset: Any) -> None:
    """Check the size of the files of an uncompressed raster; files of other kinds are passed over.

    Args:
        path: What was opened.
        dataset: The open rasterio dataset.

    Raises:
        InputError: They are shorter than its pixels.
    """
    structure = dataset.tags(ns="IMAGE_STRUCTURE")
    is_tiled = dataset.driver == "PCIDSK" and "IMAGE_STRUCTURE" not in structure  # and perhaps compressed
    if dataset.driver not in _DRIVERS or "COMPRESSION" in structure or is_tiled:
        return
    bits = sum(_count_bits(dataset, index) for index in dataset.indexes)
    expected = -(-dataset.width * dataset.height * bits // 8)
    files = [Path(name) for name in dataset.files if find_local_file(name) == Path(name)]
    files = [file for file in files if len(dataset.files) == 1 or file.suffix.lower() not in _HEADERS]
    if not files or any(_is_encoded(file) for file in files):
        return
    size = sum(file.stat().st_size for file in files)
    if size < expected:
        raise InputError(
            f"{path} is cut off",
            got=f"{size:,} bytes in {', '.join(file.name for file in files)}",
            expected=f"at least {expected:,}, as {dataset.width} × {dataset.height} pixels take",
            fix="fetch it again, or correct its header",
        )


def _count_bits(dataset: Any, index: int) -> int:
    declared = dataset.tags(index, ns="IMAGE_STRUCTURE").get("NBITS", "")
    return int(declared) if declared.isdigit() else 8 * count_bytes(dataset.dtypes[index - 1])


def count_bytes(dtype: str) -> int:
    """Return the bytes of a pixel of a type, by rasterio's name of it."""
    return 4 if dtype == "complex_int16" else np.dtype(dtype).itemsize  # which numpy does not have


def _is_encoded(file: Path) -> bool:
    """Return whether a file holds something else than plain numbers: it is packed, or another raster."""
    with file.open("rb") as stream:
        return stream.read(2) in {_GZIP, b"II", b"MM", b"\xff\x4f"} or file.suffix.lower() in {".tif", ".tiff", ".jp2"}


def check_headerless_size(path: str, name: str, expected: int) -> None:
    """Check that a local file without a header holds all that a VRT reads of it.

    Args:
        path: The VRT, for the message.
        name: The file.
        expected: Bytes that it must have.

    Raises:
        InputError: It is shorter.
    """
    local = find_local_file(name)
    if local is not None and local == Path(name) and local.stat().st_size < expected:
        raise InputError(
            f"{path} names a source that is cut off",
            got=f"{local.stat().st_size:,} bytes in {name}",
            expected=f"at least {expected:,}",
            fix="fetch it again, or correct the VRT",
        )


def check_blocks_written(path: Path) -> None:
    """Check that all blocks of a tiled GeoTIFF with pixel-interleaved bands are on the disk.

    GDAL does not report what it could not write while it closed the file.

    Raises:
        OSError: A block is missing or lies beyond the end of the file.
    """
    size = path.stat().st_size
    with rasterio.open(path) as dataset:
        height, width = dataset.block_shapes[0]
        for row, col in product(range(-(-dataset.height // height)), range(-(-dataset.width // width))):
            start, length = (
                int(dataset.get_tag_item(f"BLOCK_{what}_{col}_{row}", "TIFF", bidx=1) or 0)
                for what in ("OFFSET", "SIZE")
            )
            if not start or not length or start + length > size:
                raise OSError(f"the block in row {row} and column {col} was not written whole")
