"""What the comparison with other programs counts and prints, and that they get the network that Seamline runs."""

from __future__ import annotations

import zipfile
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks.metering import CommandError, Measurement, measure_tree, pick_reason
from benchmarks.peer_programs.network import MODEL, NODATA, Network, Settings, load_network, pick_classes, save_layers
from benchmarks.peer_programs.prepare import (
    check_bands,
    describe_normalisation,
    export_layers,
    find_valid,
    label_whole_scene,
)
from benchmarks.peers import (
    COLUMNS,
    PEERS,
    Outcome,
    Row,
    count_differing,
    format_spread,
    format_table,
    list_settings,
    parse_report,
    take_turns,
)
from seamline.flows.settings.model_folder import Model, open_model
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.scenes.open_scene import SceneOptions, open_scene
from seamline.pipeline.scenes.scene import Scene, read_block
from seamline.pipeline.synthetic.simulate import Simulation
from seamline.pipeline.synthetic.simulation_files import write_simulation
from tests.support.whole_scene import infer_whole_scene, label_scores

HALO = 96


@pytest.fixture(scope="module")
def model() -> Model:
    return open_model(MODEL)


@pytest.fixture(scope="module")
def scene_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Odd sizes, and a swath's slanted edges, so that pixels without data are there."""
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    write_simulation(Simulation(203, 170), path)
    return path


@pytest.fixture(scope="module")
def scene(scene_path: Path, model: Model) -> Scene:
    return open_scene(scene_path, model.band_needs, SceneOptions())


@pytest.fixture(scope="module")
def numbers(scene: Scene) -> np.ndarray:
    return read_block(scene, Window(0, 0, *scene.grid.shape)).pixels


@pytest.fixture(scope="module")
def written(model: Model, scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "network.pt"
    save_layers(export_layers(model), describe_normalisation(scene, model), path)
    return path


def test_the_network_of_the_peers_labels_a_scene_as_the_whole_forward(
    written: Path, scene: Scene, numbers: np.ndarray, model: Model
) -> None:
    valid = find_valid(numbers, scene)
    oracle = label_scores(infer_whole_scene(scene, model, HALO), valid)
    assert 0 < valid.mean() < 1
    assert len(np.unique(oracle)) > 2
    labels = label_whole_scene(load_network(written, Settings()), numbers, HALO)
    assert count_differing(labels, oracle) == 0


def test_the_network_of_the_peers_needs_no_seamline(written: Path) -> None:
    with zipfile.ZipFile(written) as archive:
        [pickled] = [name for name in archive.namelist() if name.endswith("data.pkl")]
        assert b"seamline" not in archive.read(pickled)


def test_windows_of_any_size_are_filled_up_by_mirroring_and_counted(written: Path, numbers: np.ndarray) -> None:
    network = load_network(written, Settings())
    x = torch.from_numpy(numbers[:, :100, :75].astype("float32"))[None]
    with torch.inference_mode():
        expected = network(F.pad(x, (0, 5, 0, 12), mode="reflect"))[..., :100, :75]
        assert network.pixels == 112 * 80
        assert torch.equal(network(x), expected)
    assert network.pixels == 112 * 80 + 100 * 75


def test_a_network_keeps_its_precision_whatever_a_peer_moves_it_to(written: Path) -> None:
    network = load_network(written, Settings("bf16", channels_last=True))
    moved = network.to(device="cpu", dtype=torch.float32)
    assert isinstance(moved, Network)
    assert {parameter.dtype for parameter in moved.parameters()} == {torch.bfloat16}


def test_peers_get_only_scenes_with_the_bands_in_order(scene_path: Path, scene: Scene, model: Model) -> None:
    check_bands(scene)
    swapped = open_scene(scene_path, model.band_needs, SceneOptions(bands=("2", "1", "3", "4", "5", "6")))
    with pytest.raises(SystemExit, match="in this order"):
        check_bands(swapped)


def test_classes_are_those_of_the_highest_score_the_first_of_equal_ones() -> None:
    scores = torch.randint(0, 4, (4, 30, 20), generator=torch.Generator().manual_seed(0)).float()
    np.testing.assert_array_equal(pick_classes(scores), scores.numpy().argmax(0))


def test_settings_that_mean_nothing_are_refused() -> None:
    for wrong in ({"precision": "fp8"}, {"window": -1}, {"threads": -1}, {"margin": -16}):
        with pytest.raises(ValueError):
            Settings(**wrong)


def test_differing_labels_are_counted_where_there_is_data() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (40, 30), dtype=np.uint8)
    reference = np.where(rng.random((40, 30)) < 0.3, NODATA, rng.integers(0, 4, (40, 30))).astype(np.uint8)
    pairs = [(a, b) for a, b in zip(labels.flat, reference.flat, strict=True) if b != NODATA]
    assert count_differing(labels, reference) == pytest.approx(1e6 * sum(a != b for a, b in pairs) / len(pairs))
    assert count_differing(reference, reference) == 0
    with pytest.raises(ValueError):
        count_differing(labels[1:], reference)
    with pytest.raises(ValueError):
        count_differing(labels, np.full_like(labels, NODATA))


def test_the_report_of_a_program_is_its_last_line_of_json() -> None:
    assert parse_report('noise\n{"network_pixels": 1}\n{"network_pixels": 7}\nbye\n') == {"network_pixels": 7}
    with pytest.raises(CommandError, match="no figures"):
        parse_report("done\n")


def test_the_reason_of_a_failure_is_the_last_line_that_names_an_error() -> None:
    assert (
        pick_reason("Traceback\nImportError: no  b\nERROR: no version of a\nnotice: pip\n") == "ERROR: no version of a"
    )
    assert pick_reason("first\nlast\n\n") == "last"
    assert pick_reason("") == "no reason given"


Memory = namedtuple("Memory", "rss shared")


@dataclass
class FakeProcess:
    memory: Memory
    offspring: tuple[FakeProcess, ...] = ()

    def children(self, recursive: bool) -> list[FakeProcess]:
        assert recursive
        return list(self.offspring)

    def memory_info(self) -> Memory:
        return self.memory


def test_what_processes_map_from_files_counts_once() -> None:
    workers = FakeProcess(Memory(500, 300)), FakeProcess(Memory(400, 250))
    assert measure_tree(FakeProcess(Memory(100, 90), workers)) == 10 + 200 + 150 + 300


class FakeContender:
    """Writes its name to a list when it runs, and fails at a given turn."""

    how = "defaults"

    def __init__(self, name: str, runs: list[str], fails_at: int = -1) -> None:
        self.name, self._runs, self._fails_at, self._turn = name, runs, fails_at, 0

    def run(self) -> tuple[Measurement, Measurement, Outcome]:
        self._runs.append(self.name)
        self._turn += 1
        if self._turn == self._fails_at:
            raise CommandError("out of memory | sorry")
        outcome = Outcome(np.array([[0, 1], [2, 3]], np.uint8), "bf16", 1.5)
        return Measurement(self._turn, 2**20), Measurement(self._turn / 2, 3 * 2**20), outcome


def test_contenders_take_turns_and_one_that_failed_is_not_run_again() -> None:
    runs: list[str] = []
    references = {
        "fp32": np.array([[0, 1], [2, 2]], np.uint8),
        "bf16": np.array([[1, 1], [NODATA, 2]], np.uint8),
    }
    whole, broken = take_turns([FakeContender("whole", runs), FakeContender("broken", runs, 2)], references, 3)
    assert runs == ["whole", "broken", "whole", "broken", "whole"]
    assert [run.seconds for run in whole.first] == [1, 2, 3]
    assert whole.differing == pytest.approx((250_000, 2e6 / 3))
    assert "sorry" in broken.failure
    table = format_table([whole, broken]).splitlines()
    assert (
        table[2]
        == "| whole | defaults, bf16 | 2.0 (1.0 to 3.0) | 1.0 (0.5 to 1.5) | 1.50 | 3 (3 to 3) | 250000.0 | 666666.7 |"
    )
    assert {line.replace("\\|", "").count("|") for line in table} == {len(COLUMNS) + 1}


def test_a_peer_that_was_not_installed_is_a_row_with_the_reason() -> None:
    assert format_table([Row("other", "", failure="not installed: no version")]).endswith(
        "| other |  | not installed: no version | | | | | |"
    )


def test_one_value_has_no_spread() -> None:
    assert format_spread([3.14], 1) == "3.1"
    assert format_spread([4, 1, 2], 0) == "2 (1 to 4)"


def test_peers_run_in_bf16_only_where_the_cpu_has_it() -> None:
    for peer in PEERS:
        for has_bf16 in (True, False):
            settings = list_settings(peer, has_bf16)
            assert settings["defaults"] == Settings()
            assert settings["tuned"].precision == ("bf16" if has_bf16 else "fp32")
            assert settings["tuned"].margin == peer.margin
