"""SHA-256 of the COGs of five runs: shows whether a change of the code changes the bytes of results.

    python benchmarks/digests.py --data ../shared/data --work build/digests

Scenes: Landsat at Manaus, Sentinel-2 at Aquileia, Landsat at Madagascar (a folder of band files), a simulated scene of
3000², and the last again with feathered tiles and class probabilities. Engine, precision and window are fixed, so that
the bytes depend on the code and on the versions of libraries alone. Run it on two states of the repository and compare.
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
import subprocess
import sys
from pathlib import Path

FIXED = "--model land-water-cloud --device cpu --engine torch --precision fp32 --window 512 --workers 2 --outputs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real scenes")
    parser.add_argument("--work", type=Path, required=True, help="folder to write to")
    parser.add_argument("--command", default=f"{sys.executable} -m seamline", help="how seamline is called")
    arguments = parser.parse_args()
    command, work = shlex.split(arguments.command), arguments.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    simulated = work / "simulated.tif"
    if not simulated.exists():
        subprocess.run([*command, "simulate", "--size", "3000", "3000", "--out", str(simulated)], check=True)
    landsat = arguments.data / "xlandsat" / "LC09_L2SP_231062_20230723_20230802_02_T1_6b.tif"
    runs: dict[str, tuple[Path, str]] = {
        "manaus": (landsat, "cog"),
        "aquileia": (arguments.data / "aquileia-s2", "cog"),
        "madagascar": (arguments.data / "madagascar-l8-2020", "cog"),
        "simulated": (simulated, "cog"),
        "feathered": (simulated, "cog,probabilities --overlap 64"),
    }
    for name, (scene, outputs) in runs.items():
        options = shlex.split(f"--out {shlex.quote(str(work / name))} {FIXED} {outputs} --overwrite")
        subprocess.run([*command, "segment", str(scene.absolute()), *options], check=True, capture_output=True)
        for raster in sorted((work / name).glob("*/*.tif")):
            print(f"{hashlib.sha256(raster.read_bytes()).hexdigest()}  {name}/{raster.name}", flush=True)


if __name__ == "__main__":
    main()
