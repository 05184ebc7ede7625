"""The notebooks of the documentation run from their first cell to their last one, and show what their text says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from tests.support.command_line import CommandLine
from tests.support.notebooks import run_notebook

FOLDER = Path(__file__).parents[3] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.fixture
def run(
    command_line: CommandLine,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], tuple[str, list[object]]]:
    """Runs a notebook in an empty folder; returns what it prints and what its cells show."""
    monkeypatch.chdir(tmp_path)
    printed: list[str] = []

    def run_command(words: list[str]) -> None:
        printed.append(capfd.readouterr().out)
        assert words[0] == "seamline"
        code, out, error = command_line(*words[1:])
        assert code == 0, error
        printed.append(out)

    def run_in_folder(name: str) -> tuple[str, list[object]]:
        values = [value for value in run_notebook(FOLDER / name, run_command) if value is not None]
        return "".join([*printed, capfd.readouterr().out]), values

    return run_in_folder


def test_a_first_scene(run: Callable[[str], tuple[str, list[object]]]) -> None:
    text, values = run("first-scene.ipynb")
    assert "1 of them" in text and text.count(" km²") == text.count(" IoU ") == 4
    assert [type(value).__name__ for value in values] == ["PngImageFile", "Dataset", "DataFrame"]


def test_a_network_of_ones_own(run: Callable[[str], tuple[str, list[object]]]) -> None:
    text, _ = run("your-own-network.ipynb")
    assert "divisor 2" in text and "0 of 262144 labels differ" in text and "water" in text


def test_a_collection_and_a_query(run: Callable[[str], tuple[str, list[object]]]) -> None:
    text, values = run("collection-and-query.ipynb")
    first, second, table, picture = values
    assert first == {"known": 0, "waiting": [], "published": 2}
    assert second == {"known": 2, "waiting": [], "published": 1}
    assert isinstance(table, pd.DataFrame) and isinstance(picture, Image.Image)
    assert table.water_share.is_monotonic_decreasing and len(table) == 3
    assert table.id[0] in text  # the command lists the scene with the most water, too


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_holds_no_output(notebook: Path) -> None:
    document = json.loads(notebook.read_text(encoding="utf-8"))
    code = [cell for cell in document["cells"] if cell["cell_type"] == "code"]
    assert not [cell for cell in code if cell["outputs"] or cell["execution_count"] is not None]
    assert (document["nbformat"], len({cell["id"] for cell in document["cells"]})) == (4, len(document["cells"]))
