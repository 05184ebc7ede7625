"""OmniCloudMask: ``predict_from_load_func`` with a network of the user's, which it calls a custom model."""

from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from benchmarks.peer_programs.network import Network, Settings, define_missing_operators, run_program

define_missing_operators()

from omnicloudmask import predict_from_load_func, raster_utils  # noqa: E402  needs the operators


def pass_numbers_on(patch: np.ndarray, *_nodata: float) -> np.ndarray:
    """Return a patch as it is, in place of OmniCloudMask's own normalisation.

    OmniCloudMask normalises each patch by the mean and standard deviation of its own bands, as its own networks expect.
    This network expects the normalisation of its model, which is inside it.
    """
    return patch


def load_scene(input_path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Return all bands of a raster and its rasterio profile."""
    with rasterio.open(input_path) as raster:
        return raster.read(), raster.profile


def segment(scene: Path, network: Network, settings: Settings, out: Path) -> None:
    """Run patches that overlap by 300 pixels, of 1000 as by default or of the window given; it writes the labels."""
    raster_utils.channel_norm = pass_numbers_on
    options = {"patch_size": settings.window} if settings.window else {}
    folder = out.with_suffix("")
    [written] = predict_from_load_func([scene], load_scene, custom_models=network, output_dir=folder, **options)
    written.replace(out)


if __name__ == "__main__":
    run_program(segment)
