"""The pages of the site that lie elsewhere in the repository, or are made of the code: a hook of MkDocs."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path, PurePosixPath

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.cli import get_docs_for_click

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
_EXAMPLES = re.compile(r"Examples:\n(.*?\n)(?=\*\*Usage)", re.DOTALL)
_SUBCOMMANDS = re.compile(r"\*\*Commands\*\*:\n\n(?:\* .*\n)+\n")
"""Typer cuts their sentences off; the table of contents of the page has them."""
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in the folder of the site."""
    made = {page: (_ROOT / source).read_text(encoding="utf-8") for source, page in _PAGES.items()}
    made |= {"reference/command-line.md": describe_commands(), "reference/python.md": describe_functions()}
    made |= {
        f"notebooks/{path.stem}.md": describe_notebook(path) for path in (_ROOT / "docs/notebooks").glob("*.ipynb")
    }
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let relative links lead to pages of the site; what is none of them becomes plain text."""
    here = page.file.src_uri
    origin = next((source for source, place in _PAGES.items() if place == here), f"docs/{here}")
    known = dict(_PAGES)
    known |= {f"docs/{file.src_uri}": file.src_uri for file in files}
    known["docs/notebooks"] = "notebooks/first-scene.md"

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
    """Return the page of all commands, which Typer writes, with examples as blocks of code."""
    command = typer.main.get_command(app)
    context = command.make_context("seamline", [], resilient_parsing=True)
    page = get_docs_for_click(obj=command, ctx=context, name="seamline", title="Command line")
    page = _EXAMPLES.sub(lambda match: _fence_examples(match[1]), _SUBCOMMANDS.sub("", page))
    return re.sub(r"(?m)^((?!    |```|\* `|\$ ).*)<(\w+)>", r"\1&lt;\2&gt;", page)


def _fence_examples(text: str) -> str:
    lines = [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]
    return "\n".join(["**Examples**:", "", "```console", *(f"$ {line}" for line in lines), "```", "", ""])


def describe_notebook(path: Path) -> str:
    """Return a notebook as a page: its text, and its code as blocks."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = [("".join(cell["source"]), cell["cell_type"] == "code") for cell in cells]
    parts = [f"```python\n{text}\n```" if is_code else text for text, is_code in texts]
    title, *rest = parts
    return "\n\n".join([title, f"The notebook itself: `docs/notebooks/{path.name}`.", *rest]) + "\n"
