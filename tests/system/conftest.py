"""What the tests of whole services share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.installed_package import Installation, install_wheel


@pytest.fixture(scope="session")
def installation(own_caches: Path) -> Installation:
    """A Python with the wheel, which the processes of pytest-xdist share."""
    return install_wheel(Path(os.environ["XDG_CACHE_HOME"]) / "installation")
