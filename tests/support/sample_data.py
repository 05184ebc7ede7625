"""Where the tests find real scenes; they skip with a reason where the folder is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("SEAMLINE_DATA", Path(__file__).parents[3] / "shared" / "data"))

MANAUS = "xlandsat/LC09_L2SP_231062_20230723_20230802_02_T1_6b.tif"


def find_shared(name: str) -> Path:
    """The path of a real file or folder below ``$SEAMLINE_DATA`` (default ``../shared/data``)."""
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"real data not found: {path}; set SEAMLINE_DATA to the folder that holds {name}")
    return path
