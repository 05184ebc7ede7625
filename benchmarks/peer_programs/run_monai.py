"""MONAI: ``SlidingWindowInferer`` over the whole scene as one tensor."""

from pathlib import Path

import torch
from monai.inferers import SlidingWindowInferer

from benchmarks.peer_programs.network import Network, Settings, pick_classes, read_scene, run_program, write_labels


def segment(scene: Path, network: Network, settings: Settings, out: Path) -> None:
    """Run windows that overlap by a quarter: weighted alike, or, with a window given, by a Gaussian.

    The size of a window has no default; without one it is 512.
    """
    numbers = torch.from_numpy(read_scene(scene).astype("float32"))[None]
    if settings.window:
        inferer = SlidingWindowInferer(roi_size=settings.window, mode="gaussian")
    else:
        inferer = SlidingWindowInferer(roi_size=512)
    write_labels(pick_classes(inferer(numbers, network)[0]), scene, out)


if __name__ == "__main__":
    run_program(segment)
