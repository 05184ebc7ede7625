"""What a network is given is a number, whatever the scene holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from seamline.model.devices.device import CpuDevice
from seamline.model.engines.input_transform import InputTransform
from seamline.model.spec.config import Radiometry
from seamline.model.spec.spec import InputBand, ModelClass, ModelSpec
from tests.support.small_models import make_random_network


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("number", [-9999, np.nan, np.inf, -np.inf, 3e38, -1e300])
def test_what_the_type_of_the_input_cannot_hold_is_filled(dtype: torch.dtype, number: float) -> None:
    network = make_random_network()
    bands = (InputBand("a", 0.5, 0.1, 0.001), InputBand("b", 0.6, 0.0, 1.0))
    classes = tuple(ModelClass(f"c{k}", (k, k, k)) for k in range(3))
    spec = ModelSpec("x", "1", bands, classes, network.config, receptive_radius=network.config.receptive_radius)
    pixels = torch.full((2, 4, 4), 0.25, dtype=torch.float64)
    pixels[0, 1, 1] = number
    transform = InputTransform(
        spec, Radiometry((1.0, 1.0), (0.0, 0.0), (None, None)), CpuDevice(), dtype, torch.contiguous_format
    )
    x = transform(pixels, torch.ones(4, 4, dtype=torch.bool), [(slice(0, 4), slice(0, 4))])
    assert torch.isfinite(x).all()
    expected = torch.full((1, 2, 4, 4), 0.25, dtype=torch.float64)
    expected[0, 0] = 150
    held = abs((number - 0.1) / 0.001) <= torch.finfo(torch.float64 if dtype == torch.float64 else dtype).max
    expected[0, 0, 1, 1] = (number - 0.1) / 0.001 if held else spec.fill
    torch.testing.assert_close(x.double(), expected, rtol=1e-2, atol=0)
