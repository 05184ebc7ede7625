"""cuDNN's convolution with ReLU is taken only where it does what both do one by one, each time the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seamline.model.engines.torch_engine import ConvReLU, fuse_batch_norm, fuse_relu_on_cuda
from seamline.model.networks.unet import UNet
from tests.support.small_models import make_random_network


def make_network(**config: object) -> UNet:
    return fuse_batch_norm(make_random_network(**config))


def run_right(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups).relu()


def count_runs(network: UNet, run: Callable[[nn.Conv2d, Tensor], Tensor]) -> tuple[int, int]:
    """How many of a network's pairs are run by a function, and how many pairs there are."""
    pairs = [module for module in network.modules() if isinstance(module, ConvReLU)]
    return sum(pair.run is run for pair in pairs), len(pairs)


def test_it_is_taken_where_it_is_right() -> None:
    network = fuse_relu_on_cuda(make_network(), "fp32", run_right)
    assert count_runs(network, run_right) == (10, 10)
    x = torch.randn(2, 2, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(network(x, 16), make_network()(x, 16), rtol=0, atol=1e-5)


def run_without_bias(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return F.conv2d(x, conv.weight, None, conv.stride, conv.padding).relu()


def fail(conv: nn.Conv2d, x: Tensor) -> Tensor:
    raise RuntimeError("CUDNN_STATUS_NOT_SUPPORTED")


_CALLS = itertools.count()


def run_each_time_otherwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return run_right(conv, x) * (1 + 1e-6 * (next(_CALLS) % 7))


@pytest.mark.parametrize("run", [run_without_bias, fail, run_each_time_otherwise])
def test_otherwise_both_run_one_by_one(
    run: Callable[[nn.Conv2d, Tensor], Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    network = fuse_relu_on_cuda(make_network(), "fp32", run)
    assert count_runs(network, run) == (0, 10) and len(caplog.records) == 1
    x = torch.randn(2, 2, 64, 64)
    with torch.inference_mode():
        assert torch.equal(network(x, 16), make_network()(x, 16))


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_the_operator_of_torch_gets_its_arguments_in_their_order(
    padding: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its schema is that of the installed torch; this build cannot run it, so a convolution stands for it."""
    schema = torch.ops.aten.cudnn_convolution_relu.default._schema
    names = [argument.name for argument in schema.arguments]
    assert names == ["self", "weight", "bias", "stride", "padding", "dilation", "groups"]

    def stand_in(*arguments: object) -> Tensor:
        x, weight, bias, stride, padding, dilation, groups = arguments
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups).relu()

    monkeypatch.setattr(torch, "cudnn_convolution_relu", stand_in)
    fuse_relu_on_cuda(make_network(padding=padding), "fp32")
    assert not caplog.records
    monkeypatch.delattr(torch, "cudnn_convolution_relu")
    fuse_relu_on_cuda(make_network(padding=padding), "fp32")
    assert "does not run here" in caplog.text


def test_float64_has_no_such_operator() -> None:
    network = fuse_relu_on_cuda(make_network().double(), "fp64", fail)
    assert count_runs(network, fail) == (0, 0)
