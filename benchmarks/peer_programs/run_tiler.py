"""tiler: ``Tiler`` cuts the scene as an array, ``Merger`` joins what the network says."""

from pathlib import Path

import numpy as np
import torch
from tiler import Merger, Tiler

from benchmarks.peer_programs.network import Network, Settings, pick_classes, read_scene, run_program, write_labels

CLASSES = 4


def segment(scene: Path, network: Network, settings: Settings, out: Path) -> None:
    """Run tiles without overlap, as by default, or with a margin that is thrown away ("overlap-tile").

    The size of a tile has no default; without one it is 256, close to the 250 of the documentation.
    """
    numbers, margin, window = read_scene(scene), settings.margin, settings.window or 256
    padding = [(0, 0), (margin, margin), (margin, margin)]
    padded = np.pad(numbers, padding, mode="reflect")
    tiler = Tiler(padded.shape, (len(padded), window, window), overlap=(0, 2 * margin, 2 * margin), channel_dimension=0)
    # The scores have another number of channels than the scene, so they are merged by a tiler of their own.
    scores_shape = (CLASSES, *padded.shape[1:])
    scores_tiler = Tiler(scores_shape, (CLASSES, window, window), (0, 2 * margin, 2 * margin), channel_dimension=0)
    merger = Merger(scores_tiler, window="overlap-tile" if margin else None)
    for index, tile in tiler(padded):
        merger.add(index, network(torch.from_numpy(tile)[None])[0].numpy())
    scores = torch.from_numpy(merger.merge(extra_padding=padding))
    write_labels(pick_classes(scores), scene, out)


if __name__ == "__main__":
    run_program(segment)
