"""Which CUDA devices there are, and which of them a worker sees."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seamline.pipeline.cluster import devices

PLAIN = "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5b)\nGPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-6e6c)\n"
DIVIDED = """GPU 0: NVIDIA H200 (UUID: GPU-a1)
  MIG 3g.71gb     Device  0: (UUID: MIG-b1)
  MIG 3g.71gb     Device  1: (UUID: MIG-b2)
GPU 1: NVIDIA H200 (UUID: GPU-a2)
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program nvidia-smi that prints a file."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\n[ "$1" = -L ] && cat {tmp_path}/list\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path / "list"


@pytest.mark.parametrize(
    ("text", "expected"),
    [(PLAIN, ["GPU-5d5b", "GPU-6e6c"]), (DIVIDED, ["MIG-b1", "MIG-b2", "GPU-a2"]), ("no devices were found", [])],
)
def test_gpus_and_their_parts_are_listed(driver: Path, text: str, expected: list[str]) -> None:
    driver.write_text(text)
    assert devices.list_devices(dict(os.environ)) == expected


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [("2,0", ["2", "0"]), ("GPU-a, MIG-b", ["GPU-a", "MIG-b"]), ("", []), ("-1", []), ("1,-1,2", ["1"])],
)
def test_what_the_environment_chooses_is_taken(driver: Path, chosen: str, expected: list[str]) -> None:
    driver.write_text(PLAIN)
    assert devices.list_devices({"CUDA_VISIBLE_DEVICES": chosen}) == expected


def test_without_a_driver_there_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices.list_devices({}) == []


@pytest.mark.parametrize(
    ("name", "expected"), [(0, "MIG-b1"), (1, "MIG-b2"), ("seamline-2", "GPU-a2"), (3, "MIG-b1"), ("host", None)]
)
def test_each_worker_sees_one(driver: Path, name: object, expected: str | None) -> None:
    driver.write_text(DIVIDED)
    worker: Any = SimpleNamespace(name=name)
    devices.dask_setup(worker)
    assert os.environ.pop("CUDA_VISIBLE_DEVICES", None) == expected


def test_a_worker_that_has_one_already_keeps_it(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.write_text(DIVIDED)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    worker: Any = SimpleNamespace(name=1)
    devices.dask_setup(worker)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"
