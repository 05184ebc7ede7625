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


class _Asynchronous(CpuDevice):
    """Takes all bands at once and looks at nothing, as on CUDA."""

    is_asynchronous = True


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_windows_are_cut_and_filled_alike_whether_values_are_looked_at_or_not(
    dtype: torch.dtype, layout: torch.memory_format
) -> None:
    network = make_random_network()
    bands = (InputBand("a", 0.5, 0.1, 0.3), InputBand("b", 0.6, 0.0, 0.7))
    classes = tuple(ModelClass(f"c{k}", (k, k, k)) for k in range(3))
    spec = ModelSpec(
        "x", "1", bands, classes, network.config, receptive_radius=network.config.receptive_radius, fill=7.0
    )
    pixels = torch.from_numpy(np.random.default_rng(0).uniform(1, 2, (2, 12, 20)).astype(np.float32))
    valid = torch.ones(12, 20, dtype=torch.bool)
    pixels[0, 2, 3], pixels[1, 5, 5], pixels[1, 5, 6] = torch.nan, torch.inf, -9999
    valid[6:9, 7:11] = False
    before, places = pixels.clone(), [(slice(top, top + 8), slice(left, left + 8)) for top, left in ((0, 0), (4, 11))]
    found = [
        InputTransform(spec, Radiometry((0.5, 2.0), (0.1, 0.0), (None, -9999.0)), device, dtype, layout)(
            pixels, valid, places
        )
        for device in (CpuDevice(), _Asynchronous())
    ]
    assert torch.equal(*found) and found[0].is_contiguous(memory_format=layout)
    assert torch.equal(pixels.nan_to_num(0), before.nan_to_num(0))  # other windows read them, too
    has_data = torch.stack([valid[place] for place in places])
    assert (found[0].movedim(1, -1)[~has_data] == 7).all()
    assert float(found[0][0, 0, 2, 3]) == float(found[0][0, 1, 5, 5]) == float(found[0][0, 1, 5, 6]) == 7
    expected = ((pixels[1, 4:12, 11:19].double() * 2 - 0.0) / 0.7).to(dtype)
    torch.testing.assert_close(found[0][1, 1][has_data[1]], expected[has_data[1]], rtol=1e-2, atol=0)
