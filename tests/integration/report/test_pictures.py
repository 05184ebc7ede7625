"""Drawing pictures leaves the global state of matplotlib alone."""

from __future__ import annotations

import subprocess
import sys


def test_pictures_leave_pyplot_and_its_global_state_alone() -> None:
    code = "import sys, seamline.pipeline.report.preview; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
