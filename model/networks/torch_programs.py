"""Open TorchScript and ``torch.export`` programs without running code of their author while they are loaded.

Both formats can hold such code: ``torch.export.load`` unpickles, evaluates expressions (sympy), compiles names into
Python and looks functions up by name; TorchScript runs ``__setstate__`` while it loads, and has operators that write
files. So every archive is read here first, and torch is given a new archive of what was checked. Torch never sees the
file itself, whose zip directory it might read in another way, nor members that no list names.

- Of an exported program, names, expressions and members must be on lists of harmless ones.
- Of a TorchScript, pickles must hold only what a list allows. Its source is searched for what is forbidden before it is
  loaded, its operators right after, before any of them runs.
- Operators of ATen are taken, except those that read or write files.

Two things are not checked: errors in torch's own kernels, and how much time or memory a program takes when it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from seamline.model.networks.torch_export import load_exported_program
from seamline.model.networks.torch_script import load_script


def load_program(path: Path, program_format: str) -> Callable[[Tensor], Tensor]:
    """Load a program of PyTorch after a check of its contents.

    Args:
        path: the file of the program.
        program_format: ``torchscript`` or ``torch.export``.

    Returns:
        The program, ready to be called with a batch of images.

    Raises:
        ModelError: the program holds what could run code, or read or write files; or torch cannot read it.
    """
    if program_format == "torchscript":
        return load_script(path)
    program: Callable[[Tensor], Tensor] = load_exported_program(path).module()
    return program
