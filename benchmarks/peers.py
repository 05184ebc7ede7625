"""Seamline beside other programs that segment scenes in windows: the same network over the same scene.

    python -m benchmarks.peers [--size 4096 | --scene FILE] [--repeat 3] [--peers OmniCloudMask MONAI tiler TerraTorch]

Each peer is installed with pip in a virtual environment of its own below ``--work``, with the versions of its file of
requirements in ``peer_programs``; once, in some minutes and 1 to 2 GB each. All run the embedded model
``land-water-cloud``; peers get it as a torch module with its normalisation inside and its batch normalisation folded.
Each runs at its defaults (fp32, torch's own number of threads) and tuned: bf16 where the CPU has it, channels-last, as
many threads as cores, windows of 1024. Seamline runs as ``seamline segment``, at its defaults.

Each row is a command in a process of its own, from the file of the scene to a file of labels, imports included, run
twice in a row; the rows take turns ``--repeat`` times. Seamline's first run measures the model, its second finds that
in its cache. Peak memory is that of all processes of a command together, mapped files counted once. Labels are compared
with those of one forward of the whole scene, mirrored by the halo, in fp32 and in the precision of the row.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import rasterio
from numpy.typing import NDArray

from benchmarks.metering import CommandError, Measurement, pick_reason, run_metered
from benchmarks.peer_programs.network import MODEL, NODATA, Settings

REPOSITORY = Path(__file__).resolve().parent.parent
WINDOW = 1024
"""Edge of the windows of peers that are tuned."""


@dataclass(frozen=True)
class Peer:
    """A program beside which Seamline runs.

    Attributes:
        name: As its authors write it; in small letters that of its program and its requirements in ``peer_programs``.
        margin: Pixels on every side of a window that it throws away when tuned; 0 where it cannot.
    """

    name: str
    margin: int = 0


PEERS = (
    Peer("OmniCloudMask"),
    Peer("MONAI"),
    Peer("tiler", margin=96),
    Peer("TerraTorch", margin=96),
)


@dataclass(frozen=True)
class Outcome:
    """What a command left: labels (height, width), its precision, and network pixels per scene pixel."""

    labels: NDArray[np.uint8]
    precision: str
    redundancy: float


class Contender(Protocol):
    """A command that takes turns with others: the first columns of its row, and how it runs."""

    @property
    def name(self) -> str:
        """The program's name."""

    @property
    def how(self) -> str:
        """The settings in words."""

    def run(self) -> tuple[Measurement, Measurement, Outcome]:
        """Run twice in a row and return both measurements and what the second left; may raise ``CommandError``."""


@dataclass
class Row:
    """A contender and what was measured of it, one element for each turn.

    Attributes:
        name: First column.
        how: Second column.
        first: First runs.
        second: Second runs.
        redundancy: Network pixels per scene pixel.
        differing: Labels per million that differ from the whole forward, in fp32 and in the row's precision.
        failure: Why there are no figures; empty if there are.
    """

    name: str
    how: str
    first: list[Measurement] = field(default_factory=list)
    second: list[Measurement] = field(default_factory=list)
    redundancy: float = 0.0
    differing: tuple[float, float] = (0.0, 0.0)
    failure: str = ""


@dataclass(frozen=True)
class SeamlineContender:
    """``seamline segment`` at its defaults, with an empty cache in the first run."""

    scene: Path
    work: Path
    name: str = "Seamline"
    how: str = "defaults"

    def run(self) -> tuple[Measurement, Measurement, Outcome]:
        """Run twice, the second time over the first's result and with its cache."""
        with tempfile.TemporaryDirectory(dir=self.work) as name:
            out = Path(name) / "out"
            command = [sys.executable, "-m", "seamline", "segment", str(self.scene), "--model", MODEL]
            command.extend(["--out", str(out)])
            environment = {**os.environ, "XDG_CACHE_HOME": str(Path(name) / "cache")}
            first = run_metered(command, environment, REPOSITORY)
            second = run_metered([*command, "--overwrite"], environment, REPOSITORY)
            [result] = out.glob("*/run.json")
            record = json.loads(result.read_text(encoding="utf-8"))
            labels = read_labels(result.parent / "segmentation.tif")
        redundancy = record["pixels_inferred"] / record["pixels_scene"]
        return first, second, Outcome(labels, record["settings"]["precision"], redundancy)


@dataclass(frozen=True)
class PeerContender:
    """A peer with one choice of settings."""

    peer: Peer
    settings: Settings
    how: str
    python: Path
    scene: Path
    network: Path
    work: Path

    @property
    def name(self) -> str:
        """The peer's name."""
        return self.peer.name

    def run(self) -> tuple[Measurement, Measurement, Outcome]:
        """Run twice; nothing is kept between both but what the operating system and the peer keep."""
        with tempfile.TemporaryDirectory(dir=self.work) as name:
            out = Path(name) / "labels.tif"
            program = [str(self.python), "-m", f"benchmarks.peer_programs.run_{self.name.lower()}"]
            command = [*program, str(self.scene), str(self.network), str(out), json.dumps(asdict(self.settings))]
            environment = build_peer_environment()
            first, second = run_metered(command, environment, REPOSITORY), run_metered(command, environment, REPOSITORY)
            labels = read_labels(out)
        redundancy = parse_report(second.output)["network_pixels"] / labels.size
        return first, second, Outcome(labels, self.settings.precision, redundancy)


def main() -> None:
    """Prepare scene, network and environments, run all contenders in turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096, help="edge of the simulated scene in pixels")
    parser.add_argument("--scene", type=Path, help="a raster with the model's bands in order")
    parser.add_argument("--work", type=Path, default=Path("build/peers"))
    parser.add_argument("--repeat", type=int, default=1, help="turns; the table has the median, the least and the most")
    names = [peer.name for peer in PEERS]
    parser.add_argument("--peers", nargs="*", choices=names, default=names, metavar="NAME", help=", ".join(names))
    arguments = parser.parse_args()
    work: Path = arguments.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    scene = (arguments.scene or simulate_scene(work, arguments.size)).absolute()
    folder = work / f"{scene.stem}-{hashlib.sha256(str(scene).encode()).hexdigest()[:8]}"
    references = prepare(scene, folder)
    contenders: list[Contender] = [SeamlineContender(scene, work)]
    failures = []
    for peer in PEERS:
        if peer.name not in arguments.peers:
            continue
        try:
            python = install_peer(peer, work / peer.name.lower())
        except CommandError as error:
            failures.append(Row(peer.name, "", failure=f"not installed: {error}"))
            continue
        for how, settings in list_settings(peer, "bf16" in references).items():
            contenders.append(PeerContender(peer, settings, how, python, scene, folder / "network.pt", work))
    print(format_table([*take_turns(contenders, references, arguments.repeat), *failures]))


def list_settings(peer: Peer, has_bf16: bool) -> dict[str, Settings]:
    """Return the settings with which a peer runs, by their name in the table."""
    precision = "bf16" if has_bf16 else "fp32"
    tuned = Settings(precision, True, os.cpu_count() or 1, WINDOW, peer.margin)
    return {"defaults": Settings(), "tuned": tuned}


def simulate_scene(work: Path, size: int) -> Path:
    """Return a simulated scene of ``size``² pixels, made unless it is there."""
    scene = work / f"s{size}.tif"
    if not scene.exists():
        command = [sys.executable, "-m", "seamline", "simulate", "--size", str(size), str(size), "--out", str(scene)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return scene


def prepare(scene: Path, folder: Path) -> dict[str, NDArray[np.uint8]]:
    """Write the network for peers to a folder; return the labels of whole forwards by precision, 255 without data.

    It is done in another process, since it takes much memory.
    """
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.peer_programs.prepare", str(scene), str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    if done.returncode:
        raise SystemExit(done.returncode)  # it has said why
    return {precision: np.load(folder / file) for precision, file in parse_report(done.stdout).items()}


def install_peer(peer: Peer, folder: Path) -> Path:
    """Install a peer in a virtual environment, unless it is there with these versions.

    Args:
        peer: what to install.
        folder: where the environment is made; an old one is removed.

    Returns:
        The environment's Python.

    Raises:
        CommandError: It cannot be installed.
    """
    python, marker = folder / "bin" / "python", folder / "installed.txt"
    requirements = REPOSITORY / "benchmarks" / "peer_programs" / f"{peer.name.lower()}.txt"
    wanted = requirements.read_text(encoding="utf-8")
    if marker.exists() and marker.read_text(encoding="utf-8") == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    print(f"installing {peer.name} in {folder}", file=sys.stderr, flush=True)
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(requirements)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, env=build_peer_environment())
        if done.returncode:
            raise CommandError(pick_reason(done.stderr))
    marker.write_text(wanted, encoding="utf-8")
    return python


def build_peer_environment() -> dict[str, str]:
    """Return the environment variables of this process without those that lead to packages of others."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PYTHONNOUSERSITE": "1"}


def take_turns(contenders: Sequence[Contender], references: Mapping[str, NDArray[np.uint8]], turns: int) -> list[Row]:
    """Run all contenders one after the other, again and again; one that fails is not run again.

    Args:
        contenders: what to run.
        references: labels (height, width) of whole forwards by precision.
        turns: how often each is run.
    """
    rows = [Row(contender.name, contender.how) for contender in contenders]
    for turn in range(turns):
        for contender, row in zip(contenders, rows, strict=True):
            if row.failure:
                continue
            try:
                first, second, outcome = contender.run()
            except CommandError as error:
                row.failure = str(error)
            else:
                row.first.append(first)
                row.second.append(second)
                row.how = f"{contender.how}, {outcome.precision}"
                row.redundancy = outcome.redundancy
                fp32, same = (
                    count_differing(outcome.labels, references[name]) if name in references else np.nan
                    for name in ("fp32", outcome.precision)
                )
                row.differing = fp32, same
            print(f"turn {turn + 1} of {turns}: {format_row(row)}", file=sys.stderr, flush=True)
    return rows


def count_differing(labels: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Return how many of a million labels with data differ from a reference, which is 255 where there is none.

    Raises:
        ValueError: Both have different shapes, or there is no data.
    """
    valid = reference != NODATA
    if labels.shape != reference.shape or not valid.any():
        raise ValueError(f"labels of {labels.shape}, reference of {reference.shape}, {valid.sum()} pixels with data")
    return float((labels != reference)[valid].sum() / valid.sum() * 1e6)


def read_labels(path: Path) -> NDArray[np.uint8]:
    """Return the first band of a raster."""
    with rasterio.open(path) as raster:
        labels: NDArray[np.uint8] = raster.read(1)
    return labels


def parse_report(output: str) -> dict[str, Any]:
    """Return the last line of JSON that a program printed.

    Raises:
        CommandError: It printed none.
    """
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            return dict(json.loads(line))
    raise CommandError(f"printed no figures but {output[-100:]!r}")


COLUMNS = (
    "",
    "",
    "first run, s",
    "second run, s",
    "network pixels per scene pixel",
    "peak memory, MiB",
    "labels per million that differ from the whole scene's in fp32",
    "in the same precision",
)


def format_table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown."""
    header = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    return "\n".join([*header, *(format_row(row) for row in rows)])


def format_row(row: Row) -> str:
    """Return one row in Markdown, with the reason in place of figures that there are not."""
    if row.failure:
        reason = row.failure.replace("|", "\\|")
        return f"| {row.name} | {row.how} | {reason} | | | | | |"
    cells = [
        row.name,
        row.how,
        format_spread([run.seconds for run in row.first], 1),
        format_spread([run.seconds for run in row.second], 1),
        f"{row.redundancy:.2f}",
        format_spread([max(runs) / 2**20 for runs in zip(peaks(row.first), peaks(row.second), strict=True)], 0),
        *("–" if np.isnan(share) else f"{share:.1f}" for share in row.differing),
    ]
    return f"| {' | '.join(cells)} |"


def peaks(runs: Sequence[Measurement]) -> list[int]:
    """Return the peak memory of each run in bytes."""
    return [run.peak for run in runs]


def format_spread(values: Sequence[float], digits: int) -> str:
    """Return the median and, of several values, the least and the most: ``4.2 (3.9 to 5.0)``."""
    median = f"{statistics.median(values):.{digits}f}"
    if len(values) == 1:
        return median
    return f"{median} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    main()
