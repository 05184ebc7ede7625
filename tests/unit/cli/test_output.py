"""A command's work does not fail where what it says cannot be written."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from seamline.flows.runs.observer import RunResult
from seamline.flows.terminal import progress
from seamline.flows.terminal.output import OutputError, close_output, protect_output


def fill_up(monkeypatch: pytest.MonkeyPatch, buffering: int) -> None:
    """Give this process standard output and standard error that are full, as the command has them."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Path("/dev/full").open("w", buffering))  # noqa: SIM115 - used until the end
    protect_output()


def test_results_are_missed_and_notes_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    fill_up(monkeypatch, buffering=1)
    print("a note", file=sys.stderr)
    with pytest.raises(OutputError, match="cannot write to standard output: No space left on device"):
        print("a result")


def test_what_is_buffered_is_missed_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    fill_up(monkeypatch, buffering=-1)
    print("a result")
    with pytest.raises(OutputError):
        close_output()


def test_what_the_caller_has_closed_takes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    protect_output()
    print("a result")
    print("a note", file=sys.stderr)
    close_output()


def test_every_character_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    protect_output()
    print("10 × 10 m²")
    sys.stdout.flush()
    assert written.getvalue() == b"10 ? 10 m?\n"


def test_a_scene_whose_table_cannot_be_shown_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    fill_up(monkeypatch, buffering=1)
    said: list[str] = []
    monkeypatch.setattr(progress, "print_line", said.append)
    monkeypatch.setattr(progress, "show_result", lambda result: print("a table"))
    record = type("Record", (), {"scene": "a scene"})()
    with progress.show_live_progress() as observer:
        observer.finished(RunResult(Path(), record, computed=True))
    assert said == ["a scene: done; cannot write to standard output: No space left on device"]
