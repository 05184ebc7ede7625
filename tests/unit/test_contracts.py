"""Command line and ``run.json`` are those that ``docs/contracts.md`` promises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from seamline.flows.cli.main import app
from seamline.pipeline.products.run_record import RunRecord

CONTRACTS = Path(__file__).parents[2] / "docs" / "contracts.md"
OPTION = re.compile(r"--[a-z][a-z-]*")


def list_commands(group: TyperGroup, name: str = "") -> Iterator[tuple[str, TyperCommand]]:
    for word, command in group.commands.items():
        path = f"{name} {word}".strip()
        if isinstance(command, TyperGroup):
            yield from list_commands(command, path)
        elif isinstance(command, TyperCommand):
            yield path, command


def read_promised_options() -> dict[str, set[str]]:
    """Return the options of each command in the page."""
    usage, shared, published, *_ = CONTRACTS.read_text(encoding="utf-8").split("```")[1::2]
    promised: dict[str, set[str]] = {}
    for line in re.split(r"(?:^|, )seamline ", usage, flags=re.MULTILINE)[1:]:
        name = line.split()[0] if not line.startswith("model ") else " ".join(line.split()[:2])
        promised.setdefault(name.strip(","), set()).update(OPTION.findall(line))
    for name in ("segment", "plan", "collect"):
        promised[name] |= set(OPTION.findall(shared))
    for name in ("segment", "collect"):
        promised[name] |= set(OPTION.findall(published))
    promised["segment"] |= {"--check", "--overwrite"}
    return promised


def test_every_option_is_in_the_contracts_and_the_reverse() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    real = {
        name: {
            option
            for parameter in command.params
            if isinstance(parameter, TyperOption)
            for option in parameter.opts
            if option.startswith("--")
        }
        - {"--help"}
        for name, command in list_commands(group)
    }
    assert read_promised_options() == real


def test_every_field_of_the_record_is_in_the_contracts_and_the_reverse() -> None:
    _, _, section = CONTRACTS.read_text(encoding="utf-8").partition("## Fields of `run.json`")
    rows = re.findall(r"^\| (`.*?`) \|", section.partition("\n## ")[0], flags=re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)} == set(RunRecord.model_fields)
