"""What Seamline makes of the variables that it finds."""

from __future__ import annotations

import subprocess
import sys

import pytest

SAY = "import os, seamline; print(*(os.environ.get(name) for name in ('OMP_NUM_THREADS', 'no_proxy', 'NO_PROXY')))"
LOOPBACK = "localhost,127.0.0.1,::1"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "None None None"),
        ({"OMP_NUM_THREADS": "3"}, "3 None None"),
        ({"OMP_NUM_THREADS": " 4 ,2"}, "4 None None"),
        ({"OMP_NUM_THREADS": ""}, "None None None"),
        ({"OMP_NUM_THREADS": "0"}, "None None None"),
        ({"OMP_NUM_THREADS": "many"}, "None None None"),
        ({"no_proxy": "here"}, "None here None"),
        ({"https_proxy": "http://proxy:1"}, f"None {LOOPBACK} {LOOPBACK}"),
        ({"HTTP_PROXY": "http://proxy:1", "NO_PROXY": "a, b"}, f"None a,b,{LOOPBACK} a,b,{LOOPBACK}"),
    ],
)
def test_variables_are_such_that_no_library_fails(variables: dict[str, str], expected: str) -> None:
    path = {"PYTHONPATH": ":".join(sys.path)}
    said = subprocess.run([sys.executable, "-c", SAY], env={**path, **variables}, capture_output=True, text=True)
    assert said.stdout.strip() == expected, said.stderr


def test_onnx_runtime_reports_nothing_to_its_makers() -> None:
    """It reads the variable when it is loaded; without it, it connects to them within seconds."""
    program = "import os, seamline; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    path = {"PYTHONPATH": ":".join(sys.path)}
    said = subprocess.run([sys.executable, "-c", program], env=path, capture_output=True, text=True)
    assert said.stdout.strip() == "1", said.stderr
