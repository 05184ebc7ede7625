"""A training that is killed ends with the same weights as one that is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from seamline.flows.training.recipe_documents import read_recipe
from seamline.flows.training.train_from_recipe import train_from_recipe
from tests.support.small_recipes import ignore_progress, write_recipe

HELD: dict[str, Any] = {
    "sources": [
        {"kind": "simulated", "size": 96, "seeds": [1, 2]},
        {"kind": "simulated", "size": 64, "seeds": [3], "name": "held"},
    ],
    "holdout": ["held"],
    "network": {"depth": 2, "base_width": 4, "dropout": 0.3},
    "schedule": {"epochs": 6, "steps": 12, "batch": 2, "window": 48, "averaged": 5},
    "warp": {"elastic": 3, "rotation": 15},
}


def test_a_killed_training_ends_the_same(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, **HELD)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # sums in one order, that of this process
    command = [sys.executable, "-m", "seamline", "train", str(path), "--out", str(tmp_path / "killed")]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    while not (tmp_path / "killed" / "checkpoint.pt").exists():
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "model.json").exists()
    for out in ("killed", "whole"):
        train_from_recipe(read_recipe(path), tmp_path, tmp_path / out, ignore_progress)
    ours, theirs = (load_file(tmp_path / out / "model.safetensors") for out in ("killed", "whole"))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0)
    assert read_recipe(tmp_path / "whole" / "recipe.yaml") == read_recipe(path)
    assert (tmp_path / "whole" / "curves.png").stat().st_size > 10_000
    assert (tmp_path / "whole" / "samples.png").stat().st_size > 10_000
