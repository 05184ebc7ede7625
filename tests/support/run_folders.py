"""What runs leave in a folder, finished or not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

FIXED_ENGINE: dict[str, Any] = {"precision": "fp32", "engine": "torch", "batch": 1, "threads": 1, "device": "cpu"}
"""Options with which nothing is measured, so that runs are alike."""


_HALF_WRITTEN = re.compile(r"(\.catalog\.json|\.collection\.json|\.items\.parquet|\.collection/\..*\.json)\..*\.part")


def list_inferred_chunks(out: Path) -> set[str]:
    """Names of the chunks that an unfinished run of the scene has inferred."""
    return {path.stem for path in (out / "scene" / ".run").glob("*/inferred/[0-9]*.json")}


def read_rasters(folder: Path) -> dict[str, bytes]:
    """Every byte of the rasters in a scene's folder, without those of an unfinished run."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in files.items()
        if not name.startswith(".run/") and (".zarr/" in name or path.suffix == ".tif")
    }


def list_names(out: Path) -> set[str]:
    """Names of all files and folders, without half-written ones of catalogue and ledger.

    These may be another process's for a day.
    """
    names = {path.relative_to(out).as_posix() for path in out.rglob("*")}
    return {name for name in names if not _HALF_WRITTEN.fullmatch(name)}
