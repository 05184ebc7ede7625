"""The notebooks of the documentation run from their first cell to their last one, and show what their text says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command_line import CommandLine
from tests.support.notebooks import run_notebook

FOLDER = Path(__file__).parents[3] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.fixture
def shown(
    request: pytest.FixtureRequest, command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, list[object]]:
    """What a notebook prints and what its cells show, when it is run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    printed: list[str] = []

    def run_command(words: list[str]) -> None:
        printed.append(request.getfixturevalue("capfd").readouterr().out)
        assert words[0] == "seamline"
        code, out, error = command_line(*words[1:])
        assert code == 0, error
        printed.append(out)

    values = run_notebook(FOLDER / request.param, run_command)
    return "".join([*printed, request.getfixturevalue("capfd").readouterr().out]), values


@pytest.mark.parametrize("shown", ["first-scene.ipynb"], indirect=True)
def test_a_first_scene(shown: tuple[str, list[object]]) -> None:
    text, values = shown
    assert "1 of them" in text and text.count(" km²") == text.count(" IoU ") == 4
    assert [type(value).__name__ for value in values if value is not None][:2] == ["PngImageFile", "Dataset"]


@pytest.mark.parametrize("shown", ["your-own-network.ipynb"], indirect=True)
def test_a_network_of_ones_own(shown: tuple[str, list[object]]) -> None:
    text, _ = shown
    assert "divisor 2" in text and "0 of 262144 labels differ" in text and "water" in text


@pytest.mark.parametrize("shown", ["collection-and-query.ipynb"], indirect=True)
def test_a_collection_and_a_query(shown: tuple[str, list[object]]) -> None:
    text, values = shown
    first, second, table, _ = [value for value in values if value is not None]
    assert (first, second) == ({}, {})
    assert len(table) == 3 and "water" in text


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_holds_no_output(notebook: Path) -> None:
    document = json.loads(notebook.read_text(encoding="utf-8"))
    code = [cell for cell in document["cells"] if cell["cell_type"] == "code"]
    assert not [cell for cell in code if cell["outputs"] or cell["execution_count"] is not None]
    assert (document["nbformat"], len({cell["id"] for cell in document["cells"]})) == (4, len(document["cells"]))
