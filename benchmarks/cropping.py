"""What the cropping network saves: useful pixels per second beside those of the plain forward, cropped afterwards.

    python benchmarks/cropping.py --widths 16 32 64 --windows 512 768 1024 1536

Both run as the runtime runs them (normalisation folded in, channels last, convolution and ReLU in one pass on CPUs),
in turns; of each the least time counts. On a CPU it is one thread, as in the runtime's workers, and its time on the
core, so that neighbours count less. Beside the ratio of times stands that of operations, counted: multiplications of
all convolutions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from seamline.model.engines.runtime import keep_freed_memory
from seamline.model.engines.torch_engine import DTYPES, fuse_batch_norm, fuse_relu, has_onednn
from seamline.model.networks.unet import UNet
from seamline.model.spec.config import Precision, UNetConfig


def ready(config: UNetConfig, precision: Precision, device: str) -> nn.Module:
    """A network of random weights, as the runtime runs it."""
    torch.manual_seed(0)
    network = fuse_batch_norm(UNet(config).eval()).to(device, DTYPES[precision]).to(memory_format=torch.channels_last)
    return fuse_relu(network) if device == "cpu" and has_onednn(precision) else network


def plainly(network: nn.Module, config: UNetConfig, halo: int) -> Callable[[Tensor], Tensor]:
    """The plain forward, whose halo is cropped afterwards."""
    before, after = config.trim, halo - config.lost_border

    def run(x: Tensor) -> Tensor:
        y: Tensor = network(x[..., before : x.shape[-2] - before, before : x.shape[-1] - before])
        return y[..., after : y.shape[-2] - after, after : y.shape[-1] - after]

    return run


def operations(config: UNetConfig, run: Callable[[nn.Module, Tensor], Tensor], edge: int) -> int:
    """Multiplications of the convolutions in a forward; counted on a network of no numbers."""
    counted = 0

    def count(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal counted
        if isinstance(module, nn.ConvTranspose2d):
            counted += inputs[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.Conv2d):
            counted += output.numel() * module.weight[0].numel()

    with torch.device("meta"):
        network = UNet(config)
        for module in network.modules():
            module.register_forward_hook(count)
        run(network, torch.empty(1, config.in_channels, edge, edge))
    return counted


def least(ways: tuple[Callable[[Tensor], Tensor], ...], x: Tensor, rounds: int) -> list[float]:
    """The least time of each way, in seconds, measured in turns after one round that is not counted."""
    clock = time.perf_counter if x.is_cuda else time.process_time
    times = [float("inf")] * len(ways)
    with torch.inference_mode():
        for turn in range(rounds + 1):
            for k, way in enumerate(ways):
                started = clock()
                way(x)
                if x.is_cuda:
                    torch.cuda.synchronize()
                if turn:
                    times[k] = min(times[k], clock() - started)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--windows", type=int, nargs="+", default=[512, 768, 1024, 1536])
    parser.add_argument("--paddings", nargs="+", default=["same", "valid"])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--halo", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    keep_freed_memory()
    torch.set_num_threads(1)
    print(f"{device}, halo {arguments.halo}, depth 4, least of {arguments.rounds}")
    print("| padding | precision | base width | window | plain, s | cropped, s | ratio | of operations |")
    print("|---|---|---|---|---|---|---|---|")
    for padding in arguments.paddings:
        for precision in arguments.precisions:
            if device == "cpu" and not has_onednn(precision):
                continue
            for width in arguments.widths:
                config = UNetConfig(6, 4, base_width=width, padding=padding)
                network = ready(config, precision, device)
                for window in arguments.windows:
                    print(row(config, network, precision, window, arguments.halo, arguments.rounds), flush=True)


def row(config: UNetConfig, network: nn.Module, precision: Precision, window: int, halo: int, rounds: int) -> str:
    """A line of the table."""
    parameter = next(network.parameters())
    x = torch.randn(1, config.in_channels, window, window).to(parameter.device, parameter.dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    halo = max(halo, config.least_halo)
    plain, cropped = least((plainly(network, config, halo), lambda x: network(x, halo)), x, rounds)
    most = operations(config, lambda n, x: plainly(n, config, halo)(x), window)
    fewer = operations(config, lambda n, x: n(x, halo), window)
    cells = (
        config.padding, precision, config.base_width, window,
        f"{plain:.3f}", f"{cropped:.3f}", f"{plain / cropped:.2f}", f"{most / fewer:.2f}",
    )  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
