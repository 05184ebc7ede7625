"""The command line, run in the process of the test."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from seamline.flows.cli import main as cli


def to_words(options: Mapping[str, object]) -> list[str]:
    """Return options as the words of a command line: ``--chunk-tiles``, ``2``."""
    return [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]


class CommandLine:
    """Runs the command in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capfd = monkeypatch, capfd

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        self._monkeypatch.setattr("sys.argv", ["seamline", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        captured = self._capfd.readouterr()
        return code, captured.out, captured.err


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capfd)
