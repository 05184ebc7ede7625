"""Whatever a file holds, what opens it works or says one line; and those who watch notice when it does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from seamline.pipeline.common.errors import InputError
from tests.fuzz import kinds, workers
from tests.fuzz.kinds import Kind
from tests.fuzz.trials import Place
from tests.fuzz.workers import make_place, try_mutations

MUTATIONS = 300
SEED = 0


def test_damaged_files_are_opened_or_refused_in_one_line() -> None:
    """Five hundred of all kinds, the same each time, and those that failed once."""
    program = [sys.executable, "-m", "tests.fuzz", "--count", str(MUTATIONS), "--seed", str(SEED)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.splitlines()[-1].split()[0]) > 0.9 * MUTATIONS


def _write_text(folder: Path) -> None:
    (folder / "variant").mkdir(parents=True)
    (folder / "variant" / "text.txt").write_text("text")


def _raise_error(path: Path) -> list[str]:
    raise KeyError("what")


def _raise_long_line(path: Path) -> list[str]:
    return ["x" * 3000]


def _command_terminal(path: Path) -> list[str]:
    return ["\x1b[31m"]


def _compute_for_ever(path: Path) -> list[str]:
    while True:
        pass


def _kill_itself(path: Path) -> list[str]:
    os.kill(os.getpid(), signal.SIGKILL)
    return []


def _print_lines(path: Path) -> list[str]:
    os.write(2, b"one\ntwo\n")
    return []


def _fill_memory(path: Path) -> list[str]:
    return [str(len(b"x" * (2 * 2**30 + 2**26)))]


def _read_outside(path: Path) -> list[str]:
    (path.parents[2] / "outside" / "secret.txt").read_bytes()
    return []


def _ask_server(path: Path) -> list[str]:
    import requests

    requests.get("http://canary.invalid/")
    return []


def _refuse(path: Path) -> list[str]:
    raise InputError("a file", got="damage", expected="none", fix="fetch it again")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    variables = dict(os.environ)
    with make_place(tmp_path_factory.mktemp("fuzz"), ()) as made:
        yield made
    os.environ.clear()
    os.environ.update(variables)


@pytest.mark.parametrize(
    ("act", "failure"),
    [
        (_raise_error, "traceback"),
        (_raise_long_line, "long line"),
        (_command_terminal, "control characters"),
        (_compute_for_ever, "hang"),
        (_kill_itself, "crash"),
        (_print_lines, "output"),
        (_fill_memory, "memory"),
        (_read_outside, "went outside"),
        (_ask_server, "went outside"),
        (_refuse, ""),
    ],
)
def test_what_may_not_happen_is_noticed(
    act: Callable[[Path], list[str]], failure: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the mutation that follows is tried all the same."""
    name = act.__name__.replace("_", "-")
    if failure == "hang":
        monkeypatch.setattr(workers, "_MOST_SECONDS", 1)
    fine = Kind(_write_text, (("*.txt", _leave_alone),), lambda path: [])
    monkeypatch.setitem(kinds.KINDS, "fine", fine)
    monkeypatch.setitem(kinds.KINDS, name, Kind(_write_text, fine.damages, act, encloses=True))
    for kind in ("fine", name):
        if not (place.seeds / kind).exists():
            _write_text(place.seeds / kind)
    outcomes = list(try_mutations([(name, 1), ("fine", 2)], place))
    assert [(outcome.kind, outcome.failure) for outcome in outcomes] == [(name, failure), ("fine", "")]


def _leave_alone(content: bytes, chance: object) -> bytes:
    return content


def test_a_mutation_is_known_by_kind_and_number(place: Place, tmp_path: Path) -> None:
    kind = kinds.KINDS["recipe"]
    kind.write(place.seeds / "recipe")
    made = [
        kinds.damage_variant("recipe", number, place.seeds, tmp_path / f"{number}-{time}", "").read_bytes()
        for number in range(20)
        for time in range(2)
    ]
    assert made[::2] == made[1::2]
    assert len(set(made)) == 20
