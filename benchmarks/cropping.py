"""What cropping inside of the network saves, beside a plain forward whose halo is cropped afterwards.

    python benchmarks/cropping.py --widths 16 32 64 --windows 512 768 1024 1536

Both run as in the runtime (normalisation folded in, channels last, convolution and ReLU in one pass on CPUs), in turns,
and the least time of each counts. A CPU is measured with one thread, as in the runtime's workers, in time on the core,
so that other processes disturb less. The table compares the ratio of times with that of the multiplications of all
convolutions, which are counted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from seamline.model.engines.torch_engine import DTYPES, fuse_batch_norm, fuse_relu, has_onednn
from seamline.model.networks.unet import UNet
from seamline.model.spec.config import Precision, UNetConfig
from seamline.pipeline.cluster.inference_thread import keep_freed_memory


def build_network(config: UNetConfig, precision: Precision, device: str) -> nn.Module:
    """Build a network with random weights, as the runtime runs it.

    Args:
        config: what the network is made of.
        precision: of weights and activations.
        device: ``"cpu"`` or ``"cuda"``.

    Returns:
        The network on its device, in channels-last layout.
    """
    torch.manual_seed(0)
    network = fuse_batch_norm(UNet(config).eval()).to(device, DTYPES[precision]).to(memory_format=torch.channels_last)
    return fuse_relu(network) if device == "cpu" and has_onednn(precision) else network


def make_plain_forward(network: nn.Module, config: UNetConfig, halo: int) -> Callable[[Tensor], Tensor]:
    """Return a forward of the whole window whose halo is cropped afterwards.

    Args:
        network: the network.
        config: what it is made of.
        halo: pixels to crop on every side.

    Returns:
        A function from (B, bands, H, W) to (B, outputs, H − 2·halo, W − 2·halo).
    """
    before, after = config.trim, halo - config.lost_border

    def run(x: Tensor) -> Tensor:
        y: Tensor = network(x[..., before : x.shape[-2] - before, before : x.shape[-1] - before])
        return y[..., after : y.shape[-2] - after, after : y.shape[-1] - after]

    return run


def count_operations(config: UNetConfig, run: Callable[[nn.Module, Tensor], Tensor], edge: int) -> int:
    """Count the multiplications of all convolutions in a forward, on torch's meta device, which computes nothing.

    Args:
        config: what the network is made of.
        run: the forward, of a network and a window.
        edge: of the window, in pixels.

    Returns:
        Number of multiplications.
    """
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


def time_in_turns(functions: tuple[Callable[[Tensor], Tensor], ...], x: Tensor, rounds: int) -> list[float]:
    """Call each function in turns, after one round that is not counted, and return the least seconds of each.

    Args:
        functions: what to time.
        x: the argument of all of them.
        rounds: how often each is timed.

    Returns:
        Seconds on the core for a CPU, elapsed seconds for a CUDA device.
    """
    clock = time.perf_counter if x.is_cuda else time.process_time
    times = [float("inf")] * len(functions)
    with torch.inference_mode():
        for turn in range(rounds + 1):
            for k, function in enumerate(functions):
                started = clock()
                function(x)
                if x.is_cuda:
                    torch.cuda.synchronize()
                if turn:
                    times[k] = min(times[k], clock() - started)
    return times


def main() -> None:
    """Print the table."""
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
                network = build_network(config, precision, device)
                for window in arguments.windows:
                    print(measure_row(config, network, precision, window, arguments.halo, arguments.rounds), flush=True)


def measure_row(
    config: UNetConfig, network: nn.Module, precision: Precision, window: int, halo: int, rounds: int
) -> str:
    """Measure one network in one window.

    Args:
        config: what the network is made of.
        network: from ``build_network``.
        precision: of the network.
        window: edge, in pixels.
        halo: pixels to crop on every side, at least.
        rounds: how often both ways are timed.

    Returns:
        A row of the table.
    """
    parameter = next(network.parameters())
    x = torch.randn(1, config.in_channels, window, window).to(parameter.device, parameter.dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    halo = max(halo, config.least_halo)
    plain, cropped = time_in_turns((make_plain_forward(network, config, halo), lambda x: network(x, halo)), x, rounds)
    plain_operations = count_operations(config, lambda n, x: make_plain_forward(n, config, halo)(x), window)
    cropped_operations = count_operations(config, lambda n, x: n(x, halo), window)
    cells = (
        config.padding,
        precision,
        config.base_width,
        window,
        f"{plain:.3f}",
        f"{cropped:.3f}",
        f"{plain / cropped:.2f}",
        f"{plain_operations / cropped_operations:.2f}",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
