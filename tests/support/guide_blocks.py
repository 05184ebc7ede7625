"""Code blocks of README and guides, and what the test that runs them leaves out."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs" / "guides").glob("*.md")),
    *(ROOT / "deploy" / name for name in ("README.md", "RUNBOOK.md", "slurm/README.md")),
]
COMMANDS = ("", "sh", "bash", "console")
"""Languages of blocks that a shell runs."""
_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; ``reason`` says why no test runs it."""

    page: str
    line: int
    language: str
    text: str
    reason: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def lines(self) -> list[str]:
        """Command lines without comments; where some have the prompt ``$``, the others are what those print."""
        lines = self.text.replace("\\\n", " ").splitlines()
        prompted = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        lines = [line.partition("  #")[0].strip() for line in prompted or lines]
        return [line for line in lines if line and not line.startswith("#")]


def read_blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(ROOT).as_posix()
    return [
        Block(
            name,
            text.count("\n", 0, match.start("language")) + 1,
            match["language"],
            match["text"],
            (match["reason"] or "").strip(),
        )
        for match in _BLOCK.finditer(text)
    ]


def list_commands() -> list[tuple[str, str]]:
    """Page and line of every command ``seamline``."""
    return [
        (block.place, line)
        for page in PAGES
        for block in read_blocks(page)
        if block.language in COMMANDS
        for line in block.lines
        if shlex.split(line)[:1] == ["seamline"]
    ]
