"""Programs of PyTorch are looked at before torch reads them: both formats can hold code of their author.

``torch.export.load`` unpickles, evaluates expressions (sympy), compiles names into Python and looks functions up by
name; TorchScript runs ``__setstate__`` while it loads, and has operators that write files. So an archive is read here,
what is not on the lists below is refused, and torch is given an archive written anew of what was looked at: it never
sees the file itself, whose zip directory it might read in another way, nor members that no list names.

Not looked for: errors in torch's own kernels, and programs that take time or memory when they run.
"""

from __future__ import annotations

import io
import json
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch

from seamline.model.networks.torch_expressions import sanitize_guard, sanitize_size
from seamline.model.spec.errors import ModelError, get_first_line

MAX_BYTES = 8 << 30
"""Of all that an archive unpacks to."""
MAX_EXPANSION = 1000
"""What an archive may unpack to, in multiples of its own size: deflate shrinks zeros about as much."""
EXPORT_HINT = "export it to ONNX with torch.onnx.export, or save its tensors as a state_dict"

NAME_PATTERN = re.compile(r"[A-Za-z0-9_.-]*", re.ASCII)
TEXT_PATTERN = re.compile(r"[A-Za-z0-9_.,>+ -]*", re.ASCII)
"""Arguments of operators, as of einsum."""
DUNDER = re.compile(r"(?:^|\.)__\w*__(?:$|\.)", re.ASCII)
ATEN_OPERATOR = re.compile(r"torch\.ops\.aten\.([a-z_][A-Za-z0-9_]*)\.([A-Za-z_][A-Za-z0-9_]*)", re.ASCII)
ALLOWED_FUNCTIONS = frozenset(
    f"{module}{name}"
    for module, names in {
        "_operator.": "add sub mul truediv floordiv mod pow neg eq ne lt le gt ge and_ or_ getitem",
        "torch.sym_": "int float max min not ite sqrt",
        "math.": "floor ceil trunc sqrt pow",
    }.items()
    for name in names.split(" ")
)
IO_OPERATORS = frozenset(("from_file", "save", "load", "_print", "warn", "_test_warn_in_autograd"))
"""Operators of aten that reach out of a program: files, and what is printed."""
FORBIDDEN_PRIM_OPERATORS = frozenset(
    f"prim::{name}"
    for name in (
        "PythonOp", "IgnoredPythonOp", "rpc_async", "rpc_sync", "rpc_remote", "fork", "awaitable", "awaitable_wait",
        "awaitable_nowait", "Print", "FusionGroup", "TensorExprGroup", "TimePoint", "CallFunction", "CallMethod",
    )
)  # fmt: skip
"""Operators of prim that call Python, other machines or compiled kernels, or what inlining cannot see."""
ALLOWED_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")


def load_program(path: Path, form: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """A program of PyTorch, ready to be called, after a look at what is in it.

    Raises:
        ModelError: it holds what could run code, or read or write files; or torch does not read it.
    """
    if form == "torchscript":
        return _load_script(path)
    program: Callable[[torch.Tensor], torch.Tensor] = load_exported_program(path).module()
    return program


def list_members(path: Path) -> list[str]:
    """The names in a zip archive that unpacks to no more than it may.

    Raises:
        ModelError: the archive is damaged, or unpacks to too much.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as error:  # of zipfile, of damaged bytes, each in its own way
        raise ModelError(
            f"network {path}", got=f"a damaged zip archive ({error})", expected="a file that torch wrote",
            fix="copy or export it again",
        ) from error  # fmt: skip
    size, most = sum(member.file_size for member in members), min(MAX_BYTES, MAX_EXPANSION * path.stat().st_size)
    if size > most:
        raise ModelError(
            f"network {path}", got=f"an archive of {size} bytes", expected=f"at most {most}", fix=EXPORT_HINT
        )
    return [member.filename for member in members]


def _read_members(path: Path) -> dict[str, bytes]:
    """What is in an archive of torch by name, without the folder that all names start with."""
    names = list_members(path)
    root = names[0].split("/")[0] + "/" if names else ""
    if len(set(names)) != len(names) or not all(name.startswith(root) for name in names):
        _refuse(path, "members twice or in several folders", "one folder, as torch writes it")
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removeprefix(root): archive.read(name) for name in names}
    except Exception as error:  # checksums, encryption, compressions that are not there
        raise ModelError(
            f"network {path}", got=f"a damaged zip archive ({error})", expected="a file that torch wrote",
            fix="copy or export it again",
        ) from error  # fmt: skip


def _write_archive(members: dict[str, bytes]) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(f"model/{name}", content)
    file.seek(0)
    return file


# --- torch.export ---------------------------------------------------------------------------------------

MODEL_MEMBER, SAMPLES_MEMBER = "models/model.json", "data/sample_inputs/model.pt"
TENSOR_CONFIGS = {
    "data/weights/model_weights_config.json": "weight",
    "data/constants/model_constants_config.json": "tensor",
}
COPIED_MEMBERS = ("archive_format", "archive_version", "byteorder", "version", ".data/version", SAMPLES_MEMBER)
DROPPED_MEMBERS = (".data/serialization_id", ".format_version", ".storage_alignment")


def load_exported_program(path: Path) -> torch.export.ExportedProgram:
    """An exported program, after a look at what is in it.

    Raises:
        ModelError: it holds what could run code, or read or write files; or torch does not read it.
    """
    members = _read_members(path)
    kept: dict[str, bytes] = {}
    for name, content in members.items():
        if name in DROPPED_MEMBERS or name.startswith("extra/"):
            continue
        if name in COPIED_MEMBERS:
            kept[name] = content
        elif name == MODEL_MEMBER or name in TENSOR_CONFIGS:
            kept[name] = json.dumps(_sanitize_document(path, name, content)).encode()
        elif re.fullmatch(r"data/weights/weight_\d+|data/constants/tensor_\d+", name, re.ASCII):
            kept[name] = content
        else:
            _refuse(
                path, f"a member {name!r}", "weights and a graph, as torch.export.save of torch 2.9 or later writes"
            )
    if missing := [
        name for name in (MODEL_MEMBER, *TENSOR_CONFIGS, SAMPLES_MEMBER, "archive_format") if name not in kept
    ]:
        _refuse(path, f"no {missing[0]}", "weights and a graph, as torch.export.save writes them")
    _check_samples(path, kept[SAMPLES_MEMBER])
    kept[SAMPLES_MEMBER] = b""  # nobody needs them, and torch would unpickle them
    try:
        return torch.export.load(_write_archive(kept))
    except Exception as error:  # whatever the bytes lead torch to
        raise _unreadable_error(path, error, "torch.export") from error


def _check_samples(path: Path, content: bytes) -> None:
    try:
        torch.load(io.BytesIO(content), weights_only=True, map_location="meta")
    except Exception:  # noqa: BLE001 - whatever the bytes lead torch to
        _refuse(path, f"{SAMPLES_MEMBER} that runs code when it is read", "tensors alone")


def _sanitize_document(path: Path, name: str, content: bytes) -> Any:
    """A JSON document of the archive that says nothing but what is on the lists, without what no graph needs."""
    try:
        document = json.loads(content)
        if name == MODEL_MEMBER:
            return _sanitize(document, "")
        for entry in document["config"].values():
            if entry["use_pickle"] is not False:
                raise NotAllowedError("a tensor with use_pickle", "tensors as plain bytes")
            if not re.fullmatch(TENSOR_CONFIGS[name] + r"_\d+", entry["path_name"], re.ASCII):
                raise NotAllowedError(
                    f"a tensor in {entry['path_name']!r}", f"{TENSOR_CONFIGS[name]}_0, {TENSOR_CONFIGS[name]}_1, …"
                )
        return _sanitize(document, "")
    except NotAllowedError as error:
        _refuse(path, f"{error.args[0]} in {name}", error.args[1])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        _refuse(path, f"{name} that cannot be read ({type(error).__name__})", "what torch.export.save writes")


class NotAllowedError(ValueError):
    """What stands in a program, and what may stand there."""


DROPPED_KEYS = ("metadata",)
"""Notes of the exporter on where nodes come from: not needed, and torch resolves names in them."""
EMPTY_KEYS = ("custom_obj_values", "treespec_namedtuple_fields")
FALSE_KEYS = ("as_graph", "as_custom_obj", "custom_obj", "as_operator", "class_fqn", "use_pickle")


def _sanitize(value: Any, key: str) -> Any:
    """The part ``value`` of a document under ``key``; every string in it is a name, or of a kind with a check."""
    if key in DROPPED_KEYS:
        return {}
    if (key in EMPTY_KEYS and value) or (key in FALSE_KEYS and value is not False):
        raise NotAllowedError(f"{key}", "a graph of tensors and sizes")
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
            return _check_name(value, TEXT_PATTERN)
        case _:
            return _check_name(value)


def _sanitize_key(name: str, parent: str) -> str:
    if parent != "range_constraints":
        return _check_name(name)
    _sanitize_expression(sanitize_size, name, "a size")
    return name  # torch finds it by its text


def _check_name(text: str, pattern: re.Pattern[str] = NAME_PATTERN) -> str:
    """Names become Python in torch, as those of arguments and variables."""
    if not pattern.fullmatch(text) or DUNDER.search(text):
        raise NotAllowedError(f"the name {text[:80]!r}", "letters, digits, underscores and dots")
    return text


def _sanitize_expression(check: Callable[[str], str], text: str, what: str) -> str:
    try:
        return check(text)
    except (ValueError, RecursionError, MemoryError):
        raise NotAllowedError(f"{text[:80]!r} as {what}", "arithmetic with the sizes of the input") from None


def _check_target(text: str) -> str:
    """The name of a function in a graph; torch looks it up from there, wherever it leads."""
    if text in ALLOWED_FUNCTIONS:
        return text
    found = ATEN_OPERATOR.fullmatch(text)
    if found and found[1] not in IO_OPERATORS and not DUNDER.search(found[2]):
        packet = getattr(torch.ops.aten, found[1], None)
        if isinstance(packet, torch._ops.OpOverloadPacket) and found[2] in packet.overloads():  # type: ignore[no-untyped-call]
            return text
    raise NotAllowedError(f"the operation {text[:80]!r}", "torch.ops.aten without files, or arithmetic")


def _sanitize_tree_spec(document: Any) -> dict[str, Any]:
    """How the arguments of a call are nested: plain containers, and their keys."""

    def level(node: dict[str, Any]) -> dict[str, Any]:
        if set(node) != {"type", "context", "children_spec"} or node["type"] not in ALLOWED_CONTAINERS:
            raise NotAllowedError(f"arguments in {str(node.get('type'))[:80]!r}", "tuples, lists and dicts")
        context = node["context"]
        if context is not None:
            keys = json.loads(context)
            if not (keys is None or (isinstance(keys, list) and all(isinstance(k, str) for k in keys))):
                raise NotAllowedError(f"arguments named {context[:80]!r}", "plain names")
            context = json.dumps(None if keys is None else [_check_identifier(k) for k in keys])
        children = [level(child) for child in node["children_spec"]]
        return {"type": node["type"], "context": context, "children_spec": children}

    protocol, root = document
    if protocol != 1:
        raise NotAllowedError(f"arguments by protocol {protocol!r}", "1")
    return level(root)


def _check_identifier(text: str) -> str:
    if not (text.isascii() and text.isidentifier()):
        raise NotAllowedError(f"the name {text[:80]!r}", "an identifier")
    return _check_name(text)


# --- TorchScript ----------------------------------------------------------------------------------------

SCRIPT_MEMBER = re.compile(
    r"(?:data|constants)\.pkl|(?:data|constants)/\d+|code/[\w./]+\.py|version|byteorder|\.data/version"
)
FORBIDDEN_SOURCE = re.compile(rb"__setstate__|\bfrom_file\b|\btorch[.\s]+classes\b")
"""What stands in the source of a program that runs something while it is loaded, or opens files."""
ALLOWED_GLOBALS = re.compile(r"(?:__torch__[\w.]*|torch\.jit\._pickle|torch\._utils|torch|collections) \w+")
FORBIDDEN_OPCODES = frozenset(("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"))


def _load_script(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    kept = {name: content for name, content in _read_members(path).items() if SCRIPT_MEMBER.fullmatch(name)}
    for name, content in kept.items():
        if name.endswith((".py", ".pkl")) and (found := FORBIDDEN_SOURCE.search(content)):
            _refuse(path, f"{found[0].decode()} in {name}", "a network that only computes")
        if name.endswith(".pkl"):
            _check_pickle(path, name, content)
    try:
        module = torch.jit.load(_write_archive(kept), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever the bytes lead torch to
        raise _unreadable_error(path, error, "TorchScript") from error
    for kind in set(_list_operators(module)):
        namespace, _, name = kind.partition("::")
        if namespace not in ("aten", "prim") or kind in FORBIDDEN_PRIM_OPERATORS or name in IO_OPERATORS - {"warn"}:
            _refuse(path, f"the operation {kind}", "a network that only computes")
    ready: Callable[[torch.Tensor], torch.Tensor] = module.eval()
    return ready


def _check_pickle(path: Path, name: str, content: bytes) -> None:
    """C++ reads these, and knows no function of Python; it makes objects of registered classes, so those are listed."""
    try:
        found = [(code.name, arg) for code, arg, _ in pickletools.genops(content)]
    except Exception:  # noqa: BLE001 - whatever the bytes lead it to
        _refuse(path, f"{name} that cannot be read", "what torch.jit.save writes")
    for code, arg in found:
        if code in FORBIDDEN_OPCODES or (
            code == "GLOBAL" and (not ALLOWED_GLOBALS.fullmatch(str(arg)) or "classes" in str(arg))
        ):
            _refuse(path, f"{code} {arg} in {name}", "what torch.jit.save writes")


def _list_operators(module: Any) -> Iterator[str]:
    """The kinds of all operations in all methods of a module and of those in it, with what they call."""
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


def _unreadable_error(path: Path, error: Exception, form: str) -> ModelError:
    got = get_first_line(error)
    return ModelError(f"network {path}", got=got, expected=f"a {form} program", fix="export it again")


def _refuse(path: Path, got: str, expected: str) -> NoReturn:
    raise ModelError(f"network {path}", got=got, expected=expected, fix=EXPORT_HINT) from None
