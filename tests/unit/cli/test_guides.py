"""README and guides: the parser takes every command, snippets are Python, links lead somewhere."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

import seamline
from seamline.flows.cli.main import app

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guides").glob("*.md")), ROOT / "deploy" / "README.md"]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)\)")


def list_blocks(language: str) -> list[tuple[str, str]]:
    return [
        (page.relative_to(ROOT).as_posix(), text)
        for page in PAGES
        for kind, text in BLOCK.findall(page.read_text(encoding="utf-8"))
        if kind == language
    ]


COMMANDS = [
    (page, line.partition("  #")[0].rstrip())
    for page, text in list_blocks("")
    for line in text.splitlines()
    if line.startswith("seamline ")
]


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=lambda part: part)
def test_the_parser_takes_every_command(page: str, line: str) -> None:
    words = shlex.split(line)[1:]
    command = typer.main.get_command(app)
    path = ["seamline"]
    while isinstance(command, TyperGroup):
        path.append(words.pop(0))
        command = command.commands[path[-1]]
    command.make_context(" ".join(path), words)


@pytest.mark.parametrize(("page", "text"), list_blocks("python"), ids=lambda part: part[:40])
def test_every_snippet_uses_what_there_is(page: str, text: str) -> None:
    used = {
        node.attr
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "seamline"
    }
    assert used <= set(seamline.__all__), page


def test_the_guide_of_python_names_all_that_there_is() -> None:
    guide = (ROOT / "docs" / "guides" / "python.md").read_text(encoding="utf-8")
    functions = {name for name in seamline.__all__ if name.islower()}
    assert {name for name in functions if f"`{name}(" not in guide} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 5000
