"""What runs leave in a folder, finished or not."""

from __future__ import annotations

from pathlib import Path


def list_inferred_chunks(out: Path) -> set[str]:
    """Names of the chunks that an unfinished run of the scene has inferred."""
    return {path.stem for path in (out / "scene" / ".run").glob("*/inferred/[0-9]*.json")}


def read_rasters(folder: Path) -> dict[str, bytes]:
    """Every byte of the rasters in a scene's folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ("zarr" in str(path.relative_to(folder)) or path.suffix == ".tif")
    }
