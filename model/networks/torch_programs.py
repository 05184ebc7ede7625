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

from seamline.model.networks.torch_expressions import checked_guard, checked_size
from seamline.model.spec.errors import ModelError, first_line

MOST_BYTES = 8 << 30
"""Of all that an archive unpacks to."""
MOST_TIMES = 1000
"""What an archive may unpack to, in multiples of its own size: deflate shrinks zeros about as much."""
FIX = "export it to ONNX with torch.onnx.export, or save its tensors as a state_dict"

NAME = re.compile(r"[A-Za-z0-9_.-]*", re.ASCII)
TEXT = re.compile(r"[A-Za-z0-9_.,>+ -]*", re.ASCII)
"""Arguments of operators, as of einsum."""
HIDDEN = re.compile(r"(?:^|\.)__\w*__(?:$|\.)", re.ASCII)
ATEN = re.compile(r"torch\.ops\.aten\.([a-z_][A-Za-z0-9_]*)\.([A-Za-z_][A-Za-z0-9_]*)", re.ASCII)
FUNCTIONS = frozenset(
    f"{module}{name}"
    for module, names in {
        "_operator.": "add sub mul truediv floordiv mod pow neg eq ne lt le gt ge and_ or_ getitem",
        "torch.sym_": "int float max min not ite sqrt",
        "math.": "floor ceil trunc sqrt pow",
    }.items()
    for name in names.split(" ")
)
OUTSIDE = frozenset(("from_file", "save", "load", "_print", "warn", "_test_warn_in_autograd"))
"""Operators of aten that reach out of a program: files, and what is printed."""
CALLS_OUT = frozenset(
    f"prim::{name}"
    for name in (
        "PythonOp", "IgnoredPythonOp", "rpc_async", "rpc_sync", "rpc_remote", "fork", "awaitable", "awaitable_wait",
        "awaitable_nowait", "Print", "FusionGroup", "TensorExprGroup", "TimePoint", "CallFunction", "CallMethod",
    )
)  # fmt: skip
"""Operators of prim that call Python, other machines or compiled kernels, or what inlining cannot see."""
CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")


def load_program(path: Path, form: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """A program of PyTorch, ready to be called, after a look at what is in it.

    Raises:
        ModelError: it holds what could run code, or read or write files; or torch does not read it.
    """
    if form == "torchscript":
        return _load_script(path)
    program: Callable[[torch.Tensor], torch.Tensor] = load_exported(path).module()
    return program


def member_names(path: Path) -> list[str]:
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
    size, most = sum(member.file_size for member in members), min(MOST_BYTES, MOST_TIMES * path.stat().st_size)
    if size > most:
        raise ModelError(f"network {path}", got=f"an archive of {size} bytes", expected=f"at most {most}", fix=FIX)
    return [member.filename for member in members]


def _members(path: Path) -> dict[str, bytes]:
    """What is in an archive of torch by name, without the folder that all names start with."""
    names = member_names(path)
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


def _archive(members: dict[str, bytes]) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(f"model/{name}", content)
    file.seek(0)
    return file


# --- torch.export ---------------------------------------------------------------------------------------

MODEL, SAMPLES = "models/model.json", "data/sample_inputs/model.pt"
CONFIGS = {"data/weights/model_weights_config.json": "weight", "data/constants/model_constants_config.json": "tensor"}
PLAIN = ("archive_format", "archive_version", "byteorder", "version", ".data/version", SAMPLES)
DROPPED = (".data/serialization_id", ".format_version", ".storage_alignment")


def load_exported(path: Path) -> torch.export.ExportedProgram:
    """An exported program, after a look at what is in it.

    Raises:
        ModelError: it holds what could run code, or read or write files; or torch does not read it.
    """
    members = _members(path)
    kept: dict[str, bytes] = {}
    for name, content in members.items():
        if name in DROPPED or name.startswith("extra/"):
            continue
        if name in PLAIN:
            kept[name] = content
        elif name == MODEL or name in CONFIGS:
            kept[name] = json.dumps(_document(path, name, content)).encode()
        elif re.fullmatch(r"data/weights/weight_\d+|data/constants/tensor_\d+", name, re.ASCII):
            kept[name] = content
        else:
            _refuse(
                path, f"a member {name!r}", "weights and a graph, as torch.export.save of torch 2.9 or later writes"
            )
    if missing := [name for name in (MODEL, *CONFIGS, SAMPLES, "archive_format") if name not in kept]:
        _refuse(path, f"no {missing[0]}", "weights and a graph, as torch.export.save writes them")
    _check_samples(path, kept[SAMPLES])
    kept[SAMPLES] = b""  # nobody needs them, and torch would unpickle them
    try:
        return torch.export.load(_archive(kept))
    except Exception as error:  # whatever the bytes lead torch to
        raise _unreadable(path, error, "torch.export") from error


def _check_samples(path: Path, content: bytes) -> None:
    try:
        torch.load(io.BytesIO(content), weights_only=True, map_location="meta")
    except Exception:  # noqa: BLE001 - whatever the bytes lead torch to
        _refuse(path, f"{SAMPLES} that runs code when it is read", "tensors alone")


def _document(path: Path, name: str, content: bytes) -> Any:
    """A JSON document of the archive that says nothing but what is on the lists, without what no graph needs."""
    try:
        document = json.loads(content)
        if name == MODEL:
            return _checked(document, "")
        for entry in document["config"].values():
            if entry["use_pickle"] is not False:
                raise Unlisted("a tensor with use_pickle", "tensors as plain bytes")
            if not re.fullmatch(CONFIGS[name] + r"_\d+", entry["path_name"], re.ASCII):
                raise Unlisted(f"a tensor in {entry['path_name']!r}", f"{CONFIGS[name]}_0, {CONFIGS[name]}_1, …")
        return _checked(document, "")
    except Unlisted as error:
        _refuse(path, f"{error.args[0]} in {name}", error.args[1])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        _refuse(path, f"{name} that cannot be read ({type(error).__name__})", "what torch.export.save writes")


class Unlisted(ValueError):
    """What stands in a program, and what may stand there."""


FREE = ("metadata",)
"""Notes of the exporter on where nodes come from: not needed, and torch resolves names in them."""
EMPTY = ("custom_obj_values", "treespec_namedtuple_fields")
CODE = ("as_graph", "as_custom_obj", "custom_obj", "as_operator", "class_fqn", "use_pickle")


def _checked(value: Any, key: str) -> Any:
    """The part ``value`` of a document under ``key``; every string in it is a name, or of a kind with a check."""
    if key in FREE:
        return {}
    if (key in EMPTY and value) or (key in CODE and value is not False):
        raise Unlisted(f"{key}", "a graph of tensors and sizes")
    if isinstance(value, dict):
        return {_key(k, key): _checked(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [_checked(item, key) for item in value]
    if not isinstance(value, str):
        return value
    match key:
        case "target":
            return _target(value)
        case "expr_str":
            return _expression(checked_size, value, "a size")
        case "guards_code":
            return _expression(checked_guard, value, "a guard")
        case "in_spec" | "out_spec":
            return json.dumps([1, _spec(json.loads(value))])
        case "as_string" | "as_strings" | "torch_version":
            return _name(value, TEXT)
        case _:
            return _name(value)


def _key(name: str, parent: str) -> str:
    if parent != "range_constraints":
        return _name(name)
    _expression(checked_size, name, "a size")
    return name  # torch finds it by its text


def _name(text: str, pattern: re.Pattern[str] = NAME) -> str:
    """Names become Python in torch, as those of arguments and variables."""
    if not pattern.fullmatch(text) or HIDDEN.search(text):
        raise Unlisted(f"the name {text[:80]!r}", "letters, digits, underscores and dots")
    return text


def _expression(check: Callable[[str], str], text: str, what: str) -> str:
    try:
        return check(text)
    except (ValueError, RecursionError, MemoryError):
        raise Unlisted(f"{text[:80]!r} as {what}", "arithmetic with the sizes of the input") from None


def _target(text: str) -> str:
    """The name of a function in a graph; torch looks it up from there, wherever it leads."""
    if text in FUNCTIONS:
        return text
    found = ATEN.fullmatch(text)
    if found and found[1] not in OUTSIDE and not HIDDEN.search(found[2]):
        packet = getattr(torch.ops.aten, found[1], None)
        if isinstance(packet, torch._ops.OpOverloadPacket) and found[2] in packet.overloads():  # type: ignore[no-untyped-call]
            return text
    raise Unlisted(f"the operation {text[:80]!r}", "torch.ops.aten without files, or arithmetic")


def _spec(document: Any) -> dict[str, Any]:
    """How the arguments of a call are nested: plain containers, and their keys."""

    def level(node: dict[str, Any]) -> dict[str, Any]:
        if set(node) != {"type", "context", "children_spec"} or node["type"] not in CONTAINERS:
            raise Unlisted(f"arguments in {str(node.get('type'))[:80]!r}", "tuples, lists and dicts")
        context = node["context"]
        if context is not None:
            keys = json.loads(context)
            if not (keys is None or (isinstance(keys, list) and all(isinstance(k, str) for k in keys))):
                raise Unlisted(f"arguments named {context[:80]!r}", "plain names")
            context = json.dumps(None if keys is None else [_identifier(k) for k in keys])
        children = [level(child) for child in node["children_spec"]]
        return {"type": node["type"], "context": context, "children_spec": children}

    protocol, root = document
    if protocol != 1:
        raise Unlisted(f"arguments by protocol {protocol!r}", "1")
    return level(root)


def _identifier(text: str) -> str:
    if not (text.isascii() and text.isidentifier()):
        raise Unlisted(f"the name {text[:80]!r}", "an identifier")
    return _name(text)


# --- TorchScript ----------------------------------------------------------------------------------------

SCRIPT = re.compile(r"(?:data|constants)\.pkl|(?:data|constants)/\d+|code/[\w./]+\.py|version|byteorder|\.data/version")
FORBIDDEN = re.compile(rb"__setstate__|\bfrom_file\b|\btorch[.\s]+classes\b")
"""What stands in the source of a program that runs something while it is loaded, or opens files."""
GLOBALS = re.compile(r"(?:__torch__[\w.]*|torch\.jit\._pickle|torch\._utils|torch|collections) \w+")
OPCODES = frozenset(("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"))


def _load_script(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    kept = {name: content for name, content in _members(path).items() if SCRIPT.fullmatch(name)}
    for name, content in kept.items():
        if name.endswith((".py", ".pkl")) and (found := FORBIDDEN.search(content)):
            _refuse(path, f"{found[0].decode()} in {name}", "a network that only computes")
        if name.endswith(".pkl"):
            _check_pickle(path, name, content)
    try:
        module = torch.jit.load(_archive(kept), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever the bytes lead torch to
        raise _unreadable(path, error, "TorchScript") from error
    for kind in set(_operators(module)):
        namespace, _, name = kind.partition("::")
        if namespace not in ("aten", "prim") or kind in CALLS_OUT or name in OUTSIDE - {"warn"}:
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
        if code in OPCODES or (code == "GLOBAL" and (not GLOBALS.fullmatch(str(arg)) or "classes" in str(arg))):
            _refuse(path, f"{code} {arg} in {name}", "what torch.jit.save writes")


def _operators(module: Any) -> Iterator[str]:
    """The kinds of all operations in all methods of a module and of those in it, with what they call."""
    for part in module.modules():
        for name in part._c._method_names():
            inlined = part._c._get_method(name).graph.copy()
            torch._C._jit_pass_inline(inlined)
            yield from _kinds(inlined)


def _kinds(block: Any) -> Iterator[str]:
    for node in block.nodes():
        yield node.kind()
        for inner in node.blocks():
            yield from _kinds(inner)


def _unreadable(path: Path, error: Exception, form: str) -> ModelError:
    got = first_line(error)
    return ModelError(f"network {path}", got=got, expected=f"a {form} program", fix="export it again")


def _refuse(path: Path, got: str, expected: str) -> NoReturn:
    raise ModelError(f"network {path}", got=got, expected=expected, fix=FIX) from None
