"""The pages of the site that lie elsewhere in the repository, or are made of the code: a hook of MkDocs."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.core import TyperCommand, TyperGroup

import seamline
from seamline.flows.cli.main import app

_ROOT = Path(__file__).resolve().parents[1]
_PAGES = {
    "README.md": "index.md",
    "DESIGN.md": "design.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "deploy/README.md": "deploy.md",
    "deploy/RUNBOOK.md": "runbook.md",
    "benchmarks/README.md": "benchmarks.md",
    "model/zoo/land-water-cloud/README.md": "land-water-cloud.md",
}
"""Page in the repository → page of the site."""
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in the folder of the site."""
    made = {page: (_ROOT / source).read_text(encoding="utf-8") for source, page in _PAGES.items()}
    made |= {"reference/command-line.md": describe_commands(), "reference/python.md": describe_functions()}
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let relative links lead to pages of the site; what is none of them becomes plain text."""
    here = page.file.src_uri
    origin = next((source for source, place in _PAGES.items() if place == here), f"docs/{here}")
    known = dict(_PAGES)
    known |= {f"docs/{file.src_uri}": file.src_uri for file in files}

    def replace(link: re.Match[str]) -> str:
        mark, text, target, anchor = link.groups()
        if "://" in target or target.startswith("mailto:"):
            return link[0]
        place = os.path.normpath(PurePosixPath(origin).parent / target)
        if place not in known:
            return f"`{place}`" if text in (place, PurePosixPath(place).name) else f"{text} (`{place}`)"
        return f"{mark}[{text}]({os.path.relpath(known[place], PurePosixPath(here).parent)}{anchor or ''})"

    return _LINK.sub(replace, markdown)


def describe_functions() -> str:
    """Return the page of all that ``import seamline`` offers."""
    names = sorted(seamline.__all__, key=lambda name: (name[0].isupper(), name))
    form = "::: seamline.{module}.{name}\n    options:\n      heading: seamline.{name}"
    parts = [form.format(module=seamline.find_module(name), name=name) for name in names]
    return "# Python\n\n`import seamline` offers these.\n\n" + "\n\n".join(parts) + "\n"


def describe_commands() -> str:
    """Return the page of all commands, their options and examples."""
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    return "# Command line\n\n" + "\n".join(_describe_group(root, "seamline"))


def _describe_group(group: TyperGroup, words: str) -> list[str]:
    pages: list[str] = []
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            pages += _describe_group(command, f"{words} {name}")
        elif isinstance(command, TyperCommand):
            pages.append(_describe_command(command, f"{words} {name}"))
    return pages


def _describe_command(command: TyperCommand, words: str) -> str:
    text, _, examples = (command.help or "").partition("Examples:")
    lines = [" ".join(part.split()) for part in examples.split("\n\n") if part.strip()]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    usage = " ".join([words, *(str(p.metavar or p.name).upper() for p in arguments), "[OPTIONS]"])
    table = ["| | | default |", "|---|---|---|"]
    for parameter in (*arguments, *options):
        name = ", ".join(parameter.opts) if parameter in options else str(parameter.name).upper()
        table.append(f"| `{name}` | {_escape(parameter.help or '')} | {_describe_default(parameter)} |")
    return "\n".join([f"## {words}", "", _escape(text.strip()), "", "```", usage, "", *lines, "```", "", *table, ""])


def _describe_default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    default = parameter.default
    return "" if default in (None, False, "", ()) or callable(default) else f"`{default}`"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
