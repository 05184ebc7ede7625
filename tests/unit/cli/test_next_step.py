"""What a command says to type next works in the shell that it was called from."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from seamline.flows.terminal.process import find_command
from seamline.flows.terminal.progress import print_line, print_next_step
from seamline.pipeline.common.extras import EXTRAS


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment that is not activated, in a folder in which nothing else lies."""
    programs = tmp_path / "my project" / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("seamline", "python"):
        (programs / name).touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.chdir(tmp_path)
    return programs


def test_the_command_is_called_by_its_path_unless_the_shell_finds_it(
    environment: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert find_command() == "'my project/.venv/bin/seamline'"
    monkeypatch.chdir(environment.parents[1])
    assert find_command() == ".venv/bin/seamline"
    monkeypatch.chdir("/usr")
    assert find_command() == f"'{environment / 'seamline'}'"
    other = tmp_path / "other"
    other.mkdir()
    (other / "seamline").touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{other}{os.pathsep}{environment}")
    assert find_command() != "seamline"  # the shell finds another installation's
    monkeypatch.setenv("PATH", f"{environment}{os.pathsep}{other}")
    assert find_command() == "seamline"
    (environment / "seamline").unlink()
    assert find_command().endswith("/bin/python' -m seamline")


def test_a_missing_extra_is_to_be_installed_first(
    environment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(environment.parents[1])
    monkeypatch.setitem(EXTRAS, "serve", ("json",))
    print_next_step("my results")
    assert capsys.readouterr().err == "to look at the results: .venv/bin/seamline serve 'my results'\n"
    monkeypatch.setitem(EXTRAS, "query", ("no_such_module",))
    print_next_step("s3://bucket/maps")
    expected = "pip install 'seamline[query]', then .venv/bin/seamline query s3://bucket/maps"
    assert capsys.readouterr().err == f"to look at the results: {expected}\n"


def test_a_line_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_line("scene [red]1[/].tif: pip install 'seamline[s3]'")
    assert capsys.readouterr().err == "scene [red]1[/].tif: pip install 'seamline[s3]'\n"
