"""What every tiling is compared with: one forward of the whole scene, mirrored by the halo, then cropped."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from seamline.flows.settings.model_folder import Model, get_radiometry
from seamline.model.engines.runtime import Runtime
from seamline.model.engines.torch_engine import DTYPES, fuse_batch_norm, load_unet
from seamline.model.spec.config import EngineSettings
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.scenes.scene import Scene, read_block


def infer_whole_scene(scene: Scene, model: Model, halo: int, precision: str = "fp32") -> NDArray[np.floating]:
    """Probabilities (classes, height, width) of one plain forward; no tiling, no crop inside the network."""
    height, width = scene.grid.shape
    block = read_block(scene, Window(0, 0, height, width))
    divisor = model.spec.divisor
    pad = [(halo, halo + -(extent + 2 * halo) % divisor) for extent in (height, width)]
    raw = np.pad(block.pixels, [(0, 0), *pad], mode="reflect")
    valid = np.pad(block.valid, pad, mode="reflect")
    if precision == "fp64":
        x = _independently(raw, valid, scene, model)
    else:  # rounded as the runtime rounds, so that what remains is the tiling alone
        runtime = Runtime(model.spec, model.folder, EngineSettings(precision=precision), get_radiometry(scene), halo)
        whole = slice(0, raw.shape[1]), slice(0, raw.shape[2])
        x = runtime._transform_input(torch.from_numpy(raw), torch.from_numpy(valid), [whole])[0].numpy()
    network = fuse_batch_norm(load_unet(model.spec, model.folder).double()).to(DTYPES[precision])
    padded = model.spec.network.padding == "same"
    with torch.inference_mode():
        logits = network(torch.from_numpy(x)[None], 0 if padded else halo)
    start = halo if padded else 0
    return logits.softmax(1)[0].numpy()[:, start : start + height, start : start + width]


def _independently(raw: NDArray, valid: NDArray, scene: Scene, model: Model) -> NDArray:
    """The network's input (bands, height, width), computed as the model's document says it, without the runtime."""
    radiometry = get_radiometry(scene)
    raw = raw.astype(np.float64)
    x = np.empty_like(raw)
    for k, band in enumerate(model.spec.bands):
        missing = ~valid | ~np.isfinite(raw[k])
        if radiometry.nodata[k] is not None:
            missing |= raw[k] == radiometry.nodata[k]
        reflectance = raw[k] * radiometry.scale[k] + radiometry.offset[k]
        x[k] = np.where(missing, model.spec.fill, (reflectance - band.mean) / band.std)
    return x


def label_scores(probabilities: NDArray[np.floating], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The most probable class, 255 where there is no data."""
    return np.where(valid, probabilities.argmax(0), 255).astype(np.uint8)
