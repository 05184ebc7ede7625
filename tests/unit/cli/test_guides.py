"""README, guides and gallery: the parser takes every command, messages are those of the code, links lead somewhere.

``tests/integration/cli/test_guide_blocks.py`` runs the blocks.
"""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
import yaml
from PIL import Image
from typer.core import TyperGroup

import seamline
from seamline.flows.cli.main import app
from tests.support.guide_blocks import PAGES, ROOT, Block, list_commands, read_blocks

LINK = re.compile(r"\]\(([^)#\s]+)\)")
BLOCKS = [block for page in PAGES for block in read_blocks(page)]
GUIDES = ROOT / "docs" / "guides"
TROUBLESHOOTING = (GUIDES / "troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = [
    message
    for row in re.findall(r"^\| (`.*?) \|", TROUBLESHOOTING, re.MULTILINE)
    for message in re.findall("`(.+?)`", row)
]
PICTURES = sorted(path for folder in ("docs", "docs/gallery") for path in (ROOT / folder).glob("*.png"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


@pytest.mark.parametrize(("page", "line"), list_commands(), ids=lambda part: part)
def test_the_parser_takes_every_command(page: str, line: str) -> None:
    words = shlex.split(line)[1:]
    command = typer.main.get_command(app)
    path = ["seamline"]
    while isinstance(command, TyperGroup):
        path.append(words.pop(0))
        command = command.commands[path[-1]]
    command.make_context(" ".join(path), words)


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.language == "python"], ids=lambda block: block.place
)
def test_every_snippet_uses_what_there_is(block: Block) -> None:
    used = {
        node.attr
        for node in ast.walk(ast.parse(block.text))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "seamline"
    }
    assert used <= set(seamline.__all__)


def test_the_guide_of_python_names_all_that_there_is() -> None:
    guide = (GUIDES / "python.md").read_text(encoding="utf-8")
    functions = {name for name in seamline.__all__ if name.islower()}
    assert {name for name in functions if f"`{name}(" not in guide} == set()


@pytest.mark.parametrize("page", [*PAGES, ROOT / "docs" / "gallery.md"], ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 5000


def test_what_is_not_run_says_why_in_the_line_above() -> None:
    told = sum(page.read_text(encoding="utf-8").count("not run:") for page in PAGES)
    assert told == len([block for block in BLOCKS if block.reason]), "<!-- not run: why --> belongs right above a block"


@pytest.fixture(scope="module")
def source_texts() -> set[str]:
    """Texts in the code, with … for what is put into them; no docstrings."""
    layout = (ROOT / "pipeline" / "common" / "layout.py").read_text(encoding="utf-8")
    names = dict(re.findall(r'^([A-Z_]+) = "(.+)"$', layout, re.MULTILINE))
    texts: set[str] = set()
    for path in (path for room in ("pipeline", "flows", "model") for path in (ROOT / room).rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        parts = [value for node in nodes if isinstance(node, ast.JoinedStr) for value in node.values]
        apart = {id(node.value) for node in nodes if isinstance(node, ast.Expr)} | set(map(id, parts))
        for node in nodes:
            if isinstance(node, ast.JoinedStr):
                texts.add("".join(_describe_part(part, names) for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in apart:
                texts.add(node.value)
    return texts


def _describe_part(part: ast.expr, names: dict[str, str]) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    return names.get(ast.unparse(part.value), "…") if isinstance(part, ast.FormattedValue) else "…"


@pytest.mark.parametrize("message", MESSAGES)
def test_the_code_has_every_message_of_troubleshooting(message: str, source_texts: set[str]) -> None:
    for part in filter(None, re.split(r"(?:^|: )got |, expected ", message)):
        pattern = re.compile(re.escape(part).replace("…", ".*"))
        is_there = any(pattern.search(text) or _is_made_of(part, text) for text in source_texts)
        assert is_there, f"no text of the code has {part!r}"


def _is_made_of(part: str, text: str) -> bool:
    """Return whether a text of the code becomes this part of a message by what is put in for …"""
    is_specific = "…" in text and len(text.replace("…", "").strip()) >= 6
    return is_specific and re.fullmatch(re.escape(text).replace("…", ".+"), part) is not None


def test_pictures_are_small_and_have_a_palette() -> None:
    sizes = {path.name: path.stat().st_size for path in PICTURES}
    assert sum(sizes.values()) < 800_000 and max(sizes.values()) < 150_000, sizes
    for path in PICTURES:
        with Image.open(path) as picture:
            assert picture.mode == "P", f"{path.name}: make it with docs/gallery.py"


def test_the_gallery_names_whose_data_each_picture_shows() -> None:
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    sections = page.split("\n## ")[1:]
    shown = {(ROOT / "docs" / path).resolve() for path in re.findall(r"!\[[^]]+\]\((.+?)\)", page)}
    assert shown == set(PICTURES)
    owners = ("U.S. Geological Survey", "Copernicus Sentinel data", "No data of others")
    assert [text for text in sections if not any(owner in text for owner in owners)] == []


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_issue_forms_have_what_github_wants(form: Path) -> None:
    document = yaml.safe_load(form.read_text(encoding="utf-8"))
    if form.name == "config.yml":
        assert document == {"blank_issues_enabled": False}
        return
    fields = [field for field in document["body"] if field["type"] != "markdown"]
    assert document["name"] and document["description"] and document["labels"]
    assert all(field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields) > 0
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_the_citation_names_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
