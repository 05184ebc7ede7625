"""``make demo``: simulate a scene, segment it in a Prefect flow run on a Dask cluster, compare with the truth."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import time
from pathlib import Path


def main() -> int:
    """Run the demo; the arguments are those of ``make demo``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=2, default=(4096, 4096), metavar=("H", "W"))
    parser.add_argument("--out", type=Path, default=Path("build/demo"))
    arguments = parser.parse_args()
    out: Path = arguments.out
    (out / "prefect").mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("PREFECT_HOME", str(out.absolute() / "prefect"))
    # Imported after the environment is set: Prefect reads its settings when it is imported.
    from seamline.flows.segment_scene import segment_scene
    from seamline.flows.settings.options import SegmentOptions
    from seamline.flows.terminal.process import find_command
    from seamline.flows.terminal.progress import print_line, show_percentage
    from seamline.flows.terminal.tables import show_scores
    from seamline.flows.training.evaluation import compute_class_iou
    from seamline.pipeline.common.layout import COG
    from seamline.pipeline.products.run_record import read_record
    from seamline.pipeline.synthetic.simulate import Simulation
    from seamline.pipeline.synthetic.simulation_files import write_simulation

    logging.getLogger("distributed").setLevel(logging.ERROR)
    started = time.monotonic()
    height, width = arguments.size
    scene = out / "scene.tif"
    with show_percentage(f"simulating a scene of {height} × {width}") as report:
        truth = write_simulation(Simulation(height, width), scene, report)
    simulated = time.monotonic()
    # With overwrite, so that a run is shown even if an earlier demo left a result.
    state = segment_scene(str(scene), "land-water-cloud", out, SegmentOptions(overwrite=True), return_state=True)
    outcome = state.result()
    folder = Path(outcome["folder"])
    show_scores(compute_class_iou(folder / COG, truth, read_record(folder).classes))
    print_line(f"Prefect flow run {state.state_details.flow_run_id} of segment-scene: {state.name}")
    ended = time.monotonic()
    print_line(
        f"{ended - started:.0f} s in all: {simulated - started:.0f} to simulate the scene, {ended - simulated:.0f} for "
        f"the flow run with Prefect's own server; look at {folder / 'preview.png'}"
    )
    command = find_command()
    print_line(f"what to type next, for the map: {command} serve {shlex.quote(str(out))} --open")
    print_line(f"for a scene of your own: {command} segment SCENE.tif --model land-water-cloud --out build/results")
    return 0


if __name__ == "__main__":
    sys.exit(main())
