"""TerraTorch: ``tiled_inference`` over the whole scene as one tensor."""

from pathlib import Path

import torch

from benchmarks.peer_programs.network import (
    Network,
    Settings,
    define_missing_operators,
    pick_classes,
    read_scene,
    run_program,
    write_labels,
)

define_missing_operators()

from terratorch.tasks.tiled_inference import tiled_inference  # noqa: E402  needs the operators


def segment(scene: Path, network: Network, settings: Settings, out: Path) -> None:
    """Run chips as by default (224 pixels, every 192, 8 cropped, 16 at once), or of window and margin, one at once."""
    numbers = torch.from_numpy(read_scene(scene).astype("float32"))[None]
    options: dict[str, int | bool] = {}
    if settings.window:
        stride = settings.window - 2 * settings.margin
        options = {"crop": settings.window, "stride": stride, "delta": settings.margin, "batch_size": 1}
    write_labels(pick_classes(tiled_inference(network, numbers, **options)[0]), scene, out)


if __name__ == "__main__":
    run_program(segment)
