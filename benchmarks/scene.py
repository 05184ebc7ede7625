"""The time of a whole run beside that of the bare network.

    python benchmarks/scene.py --size 10980 10980 --work build/bench

The bare network is one plain forward for every pixel of the scene, without halo and files, at the best of all layouts,
precisions, thread counts and windows tried here, in a separate process, for as many pixels as the scene has. It is
measured before and after the run, since the speed of a shared machine changes; ratios are to the mean of both.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

BARE_PROGRAM = """
import sys, time, torch
from seamline.flows.settings.model_folder import open_model
from seamline.model.engines.torch_engine import DTYPES, fuse_batch_norm, fuse_relu, has_onednn, load_unet
from seamline.pipeline.cluster.inference_thread import keep_freed_memory
keep_freed_memory()
model = open_model("land-water-cloud")
pixels = int(sys.argv[1])
device = "cuda" if torch.cuda.is_available() else "cpu"

def speed(network, x, count, passes):
    torch.set_num_threads(count)
    started = time.perf_counter()
    with torch.inference_mode():
        for _ in range(passes):
            network(x)
        if device == "cuda":
            torch.cuda.synchronize()
    return passes * x.shape[-1] ** 2 / (time.perf_counter() - started) / 1e6

best = (0.0,)
for precision in ("fp32", "bf16"):
    if device == "cpu" and not has_onednn(precision):
        continue
    dtype = DTYPES[precision]
    for layout in (torch.contiguous_format, torch.channels_last):
        network = fuse_batch_norm(load_unet(model.spec, model.folder)).to(device, dtype).to(memory_format=layout)
        network = fuse_relu(network) if device == "cpu" else network
        for count in sorted({1, torch.get_num_threads()}):
            for window in (512, 1024, 2048):
                x = torch.randn(1, 6, window, window).to(device, dtype).contiguous(memory_format=layout)
                speed(network, x, count, 1)
                how = f"{dtype} {layout} threads {count} window {window}"
                trial = speed(network, x, count, 2 * (2048 // window)), how
                if trial[0] > best[0]:
                    best = *trial, network, x, count
_, how, network, x, count = best
print(speed(network, x, count, max(1, pixels // x.shape[-1] ** 2)), how)
"""


def measure_bare_network(pixels: int) -> tuple[float, str]:
    """Run the bare network at its best settings on so many pixels; return Mpx/s and the settings in words."""
    done = subprocess.run([sys.executable, "-c", BARE_PROGRAM, str(pixels)], capture_output=True, text=True, check=True)
    speed, how = done.stdout.strip().split(" ", 1)
    return float(speed), how


def main() -> None:
    """Measure the bare network, the command and the bare network again, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(10980, 10980))
    parser.add_argument("--work", type=Path, default=Path("build/bench"))
    parser.add_argument("rest", nargs="*", help="options of seamline segment, after --")
    arguments = parser.parse_args()
    height, width = arguments.size
    scene = arguments.work / f"s{height}x{width}.tif"
    seamline = [sys.executable, "-m", "seamline"]
    if not scene.exists():
        scene.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([*seamline, "simulate", "--size", str(height), str(width), "--out", str(scene)], check=True)
    before = measure_bare_network(height * width)
    started = time.monotonic()
    command = [*seamline, "segment", str(scene), "--model", "land-water-cloud", "--out", str(arguments.work / "out")]
    subprocess.run([*command, "--overwrite", *arguments.rest], check=True, stdout=subprocess.DEVNULL)
    wall = time.monotonic() - started
    after = measure_bare_network(height * width)
    record = json.loads((arguments.work / "out" / scene.stem / "run.json").read_text())
    seconds, pixels = record["seconds"], record["pixels_scene"]
    network = pixels / 1e6 / ((before[0] + after[0]) / 2)
    print(f"scene {height} × {width}, plan {record['plan']}, settings {record['settings']}")
    print(
        f"bare network  {network:8.1f} s  {before[0]:.2f} Mpx/s before ({before[1]}), {after[0]:.2f} after ({after[1]})"
    )
    print(f"whole command {wall:8.1f} s  {pixels / 1e6 / wall:.2f} Mpx/s, {wall / network:.2f} × the bare network")
    print(f"its run.json  {seconds['total']:8.1f} s  {seconds['total'] / network:.2f} × the bare network")
    print(f"network pixels per scene pixel {record['pixels_inferred'] / pixels:.2f}")
    print("stages: " + ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items()))
    inferring = seconds["infer"] / record["workers"]
    rest = seconds["run"] - inferring
    print(f"run without the network {rest:.1f} s, {rest / network:.2f} × bare")
    peak, projected = record["peak_memory_bytes"], record["projected_memory_bytes"]
    print(f"peak memory of a worker {peak / 2**20:.0f} MiB, projected {projected / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
