"""Load ``torch.export`` programs after a check of everything they hold; ``torch_programs`` says why.

The graph of a program is a JSON document. ``_sanitize`` walks through it: every string must be a plain name, or be of a
kind that has a check of its own, such as the name of an operator or an expression of sizes.
"""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from seamline.model.networks.torch_archive import IO_OPERATORS, read_members, refuse, unreadable_error, write_archive
from seamline.model.networks.torch_expressions import sanitize_guard, sanitize_size

_MODEL_MEMBER, _SAMPLES_MEMBER = "models/model.json", "data/sample_inputs/model.pt"
_TENSOR_CONFIGS = {
    "data/weights/model_weights_config.json": "weight",
    "data/constants/model_constants_config.json": "tensor",
}
"""Documents that list tensors, and how the names of these tensors' members begin."""
_TENSOR_MEMBER = re.compile(r"data/weights/weight_\d+|data/constants/tensor_\d+", re.ASCII)
_COPIED_MEMBERS = ("archive_format", "archive_version", "byteorder", "version", ".data/version", _SAMPLES_MEMBER)
_DROPPED_MEMBERS = (".data/serialization_id", ".format_version", ".storage_alignment")

_NAME_PATTERN = re.compile(r"[A-Za-z0-9_.-]*", re.ASCII)
_TEXT_PATTERN = re.compile(r"[A-Za-z0-9_.,>+ -]*", re.ASCII)
"""Arguments of operators that are text, as those of einsum."""
_DUNDER = re.compile(r"(?:^|\.)__\w*__(?:$|\.)", re.ASCII)
_ATEN_OPERATOR = re.compile(r"torch\.ops\.aten\.([a-z_][A-Za-z0-9_]*)\.([A-Za-z_][A-Za-z0-9_]*)", re.ASCII)
_ALLOWED_FUNCTIONS = frozenset(
    f"{module}{name}"
    for module, names in {
        "_operator.": "add sub mul truediv floordiv mod pow neg eq ne lt le gt ge and_ or_ getitem",
        "torch.sym_": "int float max min not ite sqrt",
        "math.": "floor ceil trunc sqrt pow",
    }.items()
    for name in names.split()
)
_ALLOWED_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")

_DROPPED_KEYS = ("metadata",)
"""Notes of the exporter on where nodes come from. No program needs them, and torch resolves names in them."""
_EMPTY_KEYS = ("custom_obj_values", "treespec_namedtuple_fields")
"""Keys that lead to objects of classes, so that their values must be empty."""
_FALSE_KEYS = ("as_graph", "as_custom_obj", "custom_obj", "as_operator", "class_fqn", "use_pickle")
"""Keys that lead to code, so that their values must be false."""


class _NotAllowedError(ValueError):
    """Raised for a part of a program that is on no list; its arguments are what was found and what is allowed."""


def load_exported_program(path: Path) -> torch.export.ExportedProgram:
    """Load an exported program after a check of its contents.

    Raises:
        ModelError: the program holds what could run code, or read or write files; or torch cannot read it.
    """
    members = _sanitize_members(path, read_members(path))
    _check_samples(path, members[_SAMPLES_MEMBER])
    members[_SAMPLES_MEMBER] = b""  # no program needs them, and torch would unpickle them
    torch_log = logging.getLogger(torch.export.__name__)
    torch_log.disabled = True  # it prints a traceback of what we raise as an error of one line
    try:
        return torch.export.load(write_archive(members))
    except Exception as error:  # damaged bytes make torch raise errors of any class
        raise unreadable_error(path, error, "torch.export") from error
    finally:
        torch_log.disabled = False


def _sanitize_members(path: Path, members: dict[str, bytes]) -> dict[str, bytes]:
    """Return the members that torch needs, with checked documents; refuse unknown members."""
    kept: dict[str, bytes] = {}
    for name, content in members.items():
        if name in _DROPPED_MEMBERS or name.startswith("extra/"):
            continue
        if name in _COPIED_MEMBERS or _TENSOR_MEMBER.fullmatch(name):
            kept[name] = content
        elif name == _MODEL_MEMBER or name in _TENSOR_CONFIGS:
            kept[name] = json.dumps(_sanitize_document(path, name, content)).encode()
        else:
            expected = "weights and a graph, as torch.export.save of torch 2.9 or later writes"
            refuse(path, f"a member {name!r}", expected)
    for name in (_MODEL_MEMBER, *_TENSOR_CONFIGS, _SAMPLES_MEMBER, "archive_format"):
        if name not in kept:
            refuse(path, f"no {name}", "weights and a graph, as torch.export.save writes them")
    return kept


def _check_samples(path: Path, content: bytes) -> None:
    try:
        torch.load(io.BytesIO(content), weights_only=True, map_location="meta")
    except Exception:  # noqa: BLE001 - damaged bytes make torch raise errors of any class
        refuse(path, f"{_SAMPLES_MEMBER} that runs code when it is read", "tensors alone")


def _sanitize_document(path: Path, name: str, content: bytes) -> Any:
    """Return a JSON document of the archive without what no program needs; refuse what is on no list."""
    try:
        document = json.loads(content)
        if name in _TENSOR_CONFIGS:
            _check_tensor_config(document, _TENSOR_CONFIGS[name])
        return _sanitize(document, "")
    except _NotAllowedError as error:
        refuse(path, f"{error.args[0]} in {name}", error.args[1])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        refuse(path, f"{name} that cannot be read ({type(error).__name__})", "what torch.export.save writes")


def _check_tensor_config(document: Any, prefix: str) -> None:
    for entry in document["config"].values():
        if entry["use_pickle"] is not False:
            raise _NotAllowedError("a tensor with use_pickle", "tensors as plain bytes")
        if not re.fullmatch(prefix + r"_\d+", entry["path_name"], re.ASCII):
            raise _NotAllowedError(f"a tensor in {entry['path_name']!r}", f"{prefix}_0, {prefix}_1, …")


def _sanitize(value: Any, key: str) -> Any:
    """Return the checked part of a document that stands under ``key``."""
    if key in _DROPPED_KEYS:
        return {}
    if (key in _EMPTY_KEYS and value) or (key in _FALSE_KEYS and value is not False):
        raise _NotAllowedError(f"{key}", "a graph of tensors and sizes")
    if isinstance(value, dict):
        return {_sanitize_key(k, key): _sanitize(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [_sanitize(item, key) for item in value]
    if not isinstance(value, str):
        return value
    match key:
        case "target":
            return _check_target(value)
        case "expr_str":
            return _sanitize_expression(sanitize_size, value, "a size")
        case "guards_code":
            return _sanitize_expression(sanitize_guard, value, "a guard")
        case "in_spec" | "out_spec":
            return json.dumps([1, _sanitize_tree_spec(json.loads(value))])
        case "as_string" | "as_strings" | "torch_version":
            return _check_name(value, _TEXT_PATTERN)
        case _:
            return _check_name(value)


def _sanitize_key(name: str, parent: str) -> str:
    if parent != "range_constraints":
        return _check_name(name)
    # The key is a size. It is kept as it was written, because torch finds the constraint by this text.
    _sanitize_expression(sanitize_size, name, "a size")
    return name


def _check_name(text: str, pattern: re.Pattern[str] = _NAME_PATTERN) -> str:
    """Return a name that is safe to become Python: torch generates source with names of arguments and variables."""
    if not pattern.fullmatch(text) or _DUNDER.search(text):
        raise _NotAllowedError(f"the name {text[:80]!r}", "letters, digits, underscores and dots")
    return text


def _sanitize_expression(sanitize: Callable[[str], str], text: str, what: str) -> str:
    try:
        return sanitize(text)
    except (ValueError, RecursionError, MemoryError):
        raise _NotAllowedError(f"{text[:80]!r} as {what}", "arithmetic with the sizes of the input") from None


def _check_target(text: str) -> str:
    """Return the name of a function in a graph if it is an allowed one; torch resolves any name it is given."""
    if text in _ALLOWED_FUNCTIONS:
        return text
    found = _ATEN_OPERATOR.fullmatch(text)
    if found and found[1] not in IO_OPERATORS and not _DUNDER.search(found[2]):
        packet = getattr(torch.ops.aten, found[1], None)
        if isinstance(packet, torch._ops.OpOverloadPacket) and found[2] in packet.overloads():  # type: ignore[no-untyped-call]
            return text
    raise _NotAllowedError(f"the operation {text[:80]!r}", "torch.ops.aten without files, or arithmetic")


def _sanitize_tree_spec(document: Any) -> dict[str, Any]:
    """Return how the arguments of a call are nested: plain containers and their keys."""
    protocol, root = document
    if protocol != 1:
        raise _NotAllowedError(f"arguments by protocol {protocol!r}", "1")
    return _sanitize_container(root)


def _sanitize_container(node: dict[str, Any]) -> dict[str, Any]:
    if set(node) != {"type", "context", "children_spec"} or node["type"] not in _ALLOWED_CONTAINERS:
        raise _NotAllowedError(f"arguments in {str(node.get('type'))[:80]!r}", "tuples, lists and dicts")
    context = node["context"]
    if context is not None:
        keys = json.loads(context)
        if not (keys is None or (isinstance(keys, list) and all(isinstance(k, str) for k in keys))):
            raise _NotAllowedError(f"arguments named {context[:80]!r}", "plain names")
        context = json.dumps(None if keys is None else [_check_identifier(k) for k in keys])
    children = [_sanitize_container(child) for child in node["children_spec"]]
    return {"type": node["type"], "context": context, "children_spec": children}


def _check_identifier(text: str) -> str:
    if not (text.isascii() and text.isidentifier()):
        raise _NotAllowedError(f"the name {text[:80]!r}", "an identifier")
    return _check_name(text)
