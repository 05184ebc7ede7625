"""Prepares what all rows of `peers.py` share: the network for peers, and the labels of one forward of the whole scene.

``SCENE FOLDER`` writes ``network.pt`` to the folder and, by precision that this CPU computes fast, labels as ``.npy``,
and prints their names by precision as JSON. Labels of the same scene and model that are there are kept.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from benchmarks.peer_programs.network import (
    MODEL,
    NODATA,
    Network,
    Normalisation,
    Settings,
    load_network,
    pick_classes,
    read_scene,
    save_layers,
)
from seamline.flows.settings.model_folder import Model, get_radiometry, open_model
from seamline.model.engines.torch_engine import fuse_batch_norm, has_onednn, load_unet
from seamline.pipeline.scenes.open_scene import SceneOptions, open_scene
from seamline.pipeline.scenes.scene import Scene


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    model = open_model(MODEL)
    scene = open_scene(arguments.scene, model.band_needs, SceneOptions())
    check_bands(scene)
    folder: Path = arguments.folder
    network = folder / "network.pt"
    save_layers(export_layers(model), describe_normalisation(scene, model), network)
    labels = {}
    for precision in ("fp32", "bf16") if has_onednn("bf16") else ("fp32",):
        labels[precision] = f"{precision}-{scene.compute_digest()[:12]}-{model.digest[:12]}.npy"
        if not (folder / labels[precision]).exists():
            numbers = read_scene(arguments.scene)
            whole = load_network(network, Settings(precision, channels_last=True))
            found = label_whole_scene(whole, numbers, model.spec.exact_halo or 0)
            found[~find_valid(numbers, scene)] = NODATA
            np.save(folder / labels[precision], found)
    print(json.dumps(labels))


def check_bands(scene: Scene) -> None:
    """Refuse a scene in which peers, which match no bands, would find others than the model needs.

    Raises:
        SystemExit: The model's bands are not those of one raster, in order.
    """
    first = scene.bands[0].path
    if [(band.path, band.index) for band in scene.bands] != [(first, n + 1) for n in range(len(scene.bands))]:
        names = ", ".join(band.name for band in scene.bands)
        raise SystemExit(f"{scene.source}: expected one raster with the bands {names}, in this order")


def export_layers(model: Model) -> nn.Module:
    """Return a model's U-Net, batch normalisation folded, as a module that needs torch alone to be loaded."""
    network = fuse_batch_norm(load_unet(model.spec, model.folder).double()).float()
    traced = fx.symbolic_trace(network, concrete_args={"halo": 0})
    for node in traced.graph.nodes:
        node.type = None  # annotations of the source, which cannot be written
    traced.recompile()
    return traced


def describe_normalisation(scene: Scene, model: Model) -> Normalisation:
    """Return what stands between a scene's digital numbers and a model's layers."""
    radiometry = get_radiometry(scene)
    bands = list(zip(model.spec.bands, radiometry.scale, radiometry.offset, strict=True))
    return Normalisation(
        factors=tuple(scale / band.std for band, scale, _ in bands),
        summands=tuple((offset - band.mean) / band.std for band, _, offset in bands),
        nodata=tuple(math.nan if number is None else number for number in radiometry.nodata),
        fill=model.spec.fill,
        divisor=model.spec.divisor,
    )


def label_whole_scene(network: Network, numbers: NDArray[np.generic], halo: int) -> NDArray[np.uint8]:
    """Return the labels (height, width) of one forward of a whole scene, mirrored by a halo.

    Args:
        network: the network.
        numbers: digital numbers (bands, height, width).
        halo: pixels to mirror on every side, a multiple of the network's divisor.
    """
    height, width = numbers.shape[1:]
    mirrored = np.pad(numbers, [(0, 0), (halo, halo), (halo, halo)], mode="reflect")
    with torch.inference_mode():
        scores = network(torch.from_numpy(mirrored)[None])[0]
    return pick_classes(scores[:, halo : halo + height, halo : halo + width])


def find_valid(numbers: NDArray[np.generic], scene: Scene) -> NDArray[np.bool_]:
    """Return where any band (bands, height, width) has data."""
    valid = np.zeros(numbers.shape[1:], bool)
    for values, band in zip(numbers, scene.bands, strict=True):
        valid |= np.isfinite(values) & (values != (math.nan if band.nodata is None else band.nodata))
    return valid


if __name__ == "__main__":
    main()
