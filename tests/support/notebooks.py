"""Notebooks, run in this process as Jupyter runs them: cell by cell, in an event loop, with ``!`` for commands."""

from __future__ import annotations

import ast
import asyncio
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any


def read_code_cells(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run_notebook(notebook: Path, run_command: Callable[[list[str]], None]) -> list[object]:
    """Run all code cells in one namespace.

    Args:
        notebook: The file.
        run_command: Is given the words of each line that begins with ``!``.

    Returns:
        What each cell shows: the value of its last line, None without one.
    """

    async def run() -> list[object]:
        names: dict[str, Any] = {
            "__name__": "__main__",
            "_run_command": lambda line: run_command(shlex.split(line)),
        }
        return [_run_cell(f"{notebook.name}[{k}]", cell, names) for k, cell in enumerate(read_code_cells(notebook))]

    return asyncio.run(run())


def _run_cell(place: str, cell: str, names: dict[str, Any]) -> object:
    lines = [f"_run_command({line[1:]!r})" if line.startswith("!") else line for line in cell.splitlines()]
    tree = ast.parse("\n".join(lines))
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, place, "exec"), names)
    if last is None:
        return None
    value: object = eval(compile(ast.Expression(last.value), place, "eval"), names)
    for method in ("_repr_png_", "_repr_html_"):
        getattr(value, method, str)()
    repr(value)
    return value
