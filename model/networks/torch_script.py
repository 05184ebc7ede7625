"""Load TorchScript after a check of its source, its pickles and its operators; ``torch_programs`` says why."""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seamline.model.networks.torch_archive import IO_OPERATORS, read_members, refuse, unreadable_error, write_archive

SCRIPT_MEMBER = re.compile(
    r"(?:data|constants)\.pkl|(?:data|constants)/\d+|code/[\w./]+\.py|version|byteorder|\.data/version"
)
FORBIDDEN_SOURCE = re.compile(rb"__setstate__|\bfrom_file\b|\btorch[.\s]+classes\b")
"""Words in the source of a program that runs something while it is loaded, or opens files."""
ALLOWED_GLOBALS = re.compile(r"(?:__torch__[\w.]*|torch\.jit\._pickle|torch\._utils|torch|collections) \w+")
"""Classes and functions that a pickle may name, as module and name."""
FORBIDDEN_OPCODES = frozenset(("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"))
"""Instructions of pickles that make objects of classes which ``ALLOWED_GLOBALS`` cannot see."""
FORBIDDEN_PRIM_OPERATORS = frozenset(
    f"prim::{name}"
    for name in (
        *("PythonOp", "IgnoredPythonOp"),
        *("rpc_async", "rpc_sync", "rpc_remote"),
        *("fork", "awaitable", "awaitable_wait", "awaitable_nowait"),
        *("FusionGroup", "TensorExprGroup"),
        *("CallFunction", "CallMethod"),
        *("Print", "TimePoint"),
    )
)
"""Operators that call Python, other machines, other threads or compiled kernels, that call functions which inlining
cannot see, or that print and take the time."""


def load_script(path: Path) -> Callable[[Tensor], Tensor]:
    """Load a TorchScript module on the CPU, in evaluation mode.

    Raises:
        ModelError: it holds what could run code, or read or write files; or torch cannot read it.
    """
    kept = {name: content for name, content in read_members(path).items() if SCRIPT_MEMBER.fullmatch(name)}
    for name, content in kept.items():
        if name.endswith((".py", ".pkl")) and (found := FORBIDDEN_SOURCE.search(content)):
            refuse(path, f"{found[0].decode()} in {name}", "a network that only computes")
        if name.endswith(".pkl"):
            _check_pickle(path, name, content)
    try:
        module = torch.jit.load(write_archive(kept), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:  # damaged bytes make torch raise errors of any class
        raise unreadable_error(path, error, "TorchScript") from error
    for operator in set(_list_operators(module)):
        namespace, _, name = operator.partition("::")
        is_forbidden = operator in FORBIDDEN_PRIM_OPERATORS or name in IO_OPERATORS - {"warn"}
        if namespace not in ("aten", "prim") or is_forbidden:
            refuse(path, f"the operation {operator}", "a network that only computes")
    network: Callable[[Tensor], Tensor] = module.eval()
    return network


def _check_pickle(path: Path, name: str, content: bytes) -> None:
    """Refuse a pickle that names other classes and functions than those that torch writes.

    The reader is C++ and calls no function of Python, but it makes objects of registered classes.
    """
    try:
        instructions = [(code.name, arg) for code, arg, _ in pickletools.genops(content)]
    except Exception:  # noqa: BLE001 - damaged bytes make pickletools raise errors of any class
        refuse(path, f"{name} that cannot be read", "what torch.jit.save writes")
    for code, arg in instructions:
        is_forbidden_global = code == "GLOBAL" and (not ALLOWED_GLOBALS.fullmatch(str(arg)) or "classes" in str(arg))
        if code in FORBIDDEN_OPCODES or is_forbidden_global:
            refuse(path, f"{code} {arg} in {name}", "what torch.jit.save writes")


def _list_operators(module: Any) -> Iterator[str]:
    """Yield the operators in all methods of a module and of its submodules, including those of called functions."""
    for part in module.modules():
        for name in part._c._method_names():
            inlined = part._c._get_method(name).graph.copy()
            torch._C._jit_pass_inline(inlined)
            yield from _list_node_kinds(inlined)


def _list_node_kinds(block: Any) -> Iterator[str]:
    for node in block.nodes():
        yield node.kind()
        for inner in node.blocks():
            yield from _list_node_kinds(inner)
