"""Measure how well the source keeps the rules of the house: rooms, layers, names, docstrings, records, pages.

    python benchmarks/house.py [CHECKOUT] [--list]

``--list`` prints the findings behind the numbers.
``tests/unit/test_house.py`` uses the same functions.
"""

from __future__ import annotations

import argparse
import ast
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("pipeline", "flows", "model")
MODULES_PER_ROOM = 12
PARAMETERS_WITHOUT_ARGS = 2
"""A public function with more parameters than this has an Args section."""

IRREGULAR = """
begun bound broken chosen done drawn driven fallen felt found given gone grown heard held hidden kept known laid led
left lost made meant met paid said seen sent shown sought spent stood taken thrown told torn understood won worn written
"""
"""Past participles without -ed, but for those that are spelled like the verb: read, set, put, cut, split, spread."""

NO_PARTICIPLES = """
bed bleed breed embed exceed feed heed need proceed seed shed speed succeed weed wed bring king ping ring sing spring
sting string thing wing being during nothing something warning rendering padding sampling training tiling encoding
mapping setting reading meaning
"""
"""First words that end like a participle and are a verb or name a thing."""


@dataclass(frozen=True)
class Module:
    """A source file: its dotted name without ``seamline.``, its path, and whether it is an ``__init__``."""

    name: str
    path: Path
    is_package: bool

    @property
    def room(self) -> str:
        """The package that holds the module, or the module itself where it lies beside the rooms of a package."""
        parts = self.name.split(".")
        if len(parts) == 1 or self.is_package:
            return self.name
        return ".".join(parts[:-1])

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed source."""
        return ast.parse(self.path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Import:
    """An import of ``target`` by ``source``; ``name`` is what is taken out of the target, if anything."""

    source: Module
    target: str
    name: str | None
    line: int

    def __str__(self) -> str:
        what = self.target if self.name is None else f"{self.target}.{self.name}"
        return f"{self.source.path}:{self.line}: {what}"


@dataclass(frozen=True)
class Function:
    """A function or method at module or class level."""

    module: Module
    qualified_name: str
    node: ast.FunctionDef | ast.AsyncFunctionDef

    def __str__(self) -> str:
        return f"{self.module.path}:{self.node.lineno}: {self.qualified_name}"

    @property
    def is_property(self) -> bool:
        """Whether it is read like an attribute."""
        return any("property" in ast.unparse(decorator) for decorator in self.node.decorator_list)

    @property
    def is_public(self) -> bool:
        """Whether neither the module nor the class nor the function begins with an underscore."""
        names = [*self.module.name.split("."), *self.qualified_name.split(".")]
        return not any(name.startswith("_") for name in names)

    @property
    def parameters(self) -> list[ast.arg]:
        """All parameters but ``self`` and ``cls``."""
        arguments = self.node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        every += [star for star in (arguments.vararg, arguments.kwarg) if star is not None]
        return [argument for argument in every if argument.arg not in ("self", "cls")]

    @property
    def needs_args(self) -> bool:
        """Whether it is public and has more than two parameters."""
        return self.is_public and len(self.parameters) > PARAMETERS_WITHOUT_ARGS

    @property
    def has_args(self) -> bool:
        """Whether its docstring has an Args section."""
        return bool(re.search(r"^\s*Args:\s*$", ast.get_docstring(self.node) or "", re.MULTILINE))


class House:
    """The source of a checkout.

    Attributes:
        root: The checkout.
        modules: Source files by dotted name, without ``seamline.``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.modules: dict[str, Module] = {}
        for package in PACKAGES:
            for path in sorted((root / package).rglob("*.py")):
                parts = path.relative_to(root).with_suffix("").parts
                is_package = parts[-1] == "__init__"
                name = ".".join(parts[:-1] if is_package else parts)
                self.modules[name] = Module(name, path, is_package)

    @property
    def rooms(self) -> dict[str, list[str]]:
        """The modules of each room, ``__init__`` not counted."""
        rooms: dict[str, list[str]] = {}
        for module in self.modules.values():
            if not module.is_package:
                rooms.setdefault(module.room, []).append(module.name)
        return rooms

    def imports(self) -> Iterator[Import]:
        """Imports of one source file by another, wherever they stand in it."""
        for module in self.modules.values():
            for node in ast.walk(module.tree):
                if isinstance(node, ast.Import):
                    for alias in node.names:
                        yield from self._import(module, alias.name, None, node.lineno)
                elif isinstance(node, ast.ImportFrom):
                    base = self._base(module, node)
                    for alias in node.names:
                        yield from self._import(module, base, alias.name, node.lineno)

    def _base(self, module: Module, node: ast.ImportFrom) -> str:
        """The absolute module that a ``from … import`` names."""
        if not node.level:
            return node.module or ""
        parts = module.name.split(".")
        parts = parts[: len(parts) - node.level + module.is_package]
        return ".".join([*parts, *([node.module] if node.module else [])])

    def _import(self, module: Module, base: str, name: str | None, line: int) -> Iterator[Import]:
        base = base.removeprefix("seamline.")
        if f"{base}.{name}" in self.modules:
            yield Import(module, f"{base}.{name}", None, line)
        elif base in self.modules:
            yield Import(module, base, name, line)

    def functions(self) -> Iterator[Function]:
        """Functions and methods at module and class level, without those that Python calls (``__len__``)."""
        for module in self.modules.values():
            yield from _functions_of(module, module.tree.body, "")

    def private_imports(self) -> list[Import]:
        """Imports of an underscore name or module from another room."""
        found = []
        for imported in self.imports():
            target = self.modules[imported.target]
            names = [*imported.target.split("."), imported.name or ""]
            is_private = any(name.startswith("_") and not name.startswith("__") for name in names)
            if is_private and target.room != imported.source.room:
                found.append(imported)
        return found

    def imports_against_layers(self) -> list[Import]:
        """Imports of a higher layer, or of an independent sibling, by the ``layers`` contracts of this repository."""
        contracts = _layer_contracts(REPOSITORY / "pyproject.toml")
        return [
            imported
            for imported in self.imports()
            if any(_is_against(contract, imported.source.name, imported.target) for contract in contracts)
        ]

    def bare_participles(self) -> list[Function]:
        """Functions whose name begins with a participle (``opened_scene``, ``told``); see ``is_bare_participle``."""
        return [function for function in self.functions() if is_bare_participle(function)]

    def without_args(self) -> list[Function]:
        """Public functions of more than two parameters without an Args section.

        Commands of the command line are left out: each option has its help text, and the docstring is the command's.
        """
        return [
            function
            for function in self.functions()
            if function.needs_args and not function.has_args and ".cli." not in function.module.name
        ]

    def needlessly_public(self) -> list[str]:
        """Public functions and constants of modules that no other file of the checkout names."""
        texts = {
            path: path.read_text(encoding="utf-8")
            for folder in (*PACKAGES, "tests", "benchmarks", "deploy", "src")
            for path in sorted((self.root / folder).rglob("*.py"))
        }
        words = {path: set(re.findall(r"\w+", text)) for path, text in texts.items()}
        return [
            f"{module.name}.{name}"
            for module in self.modules.values()
            for name in _public_names(module.tree)
            if not any(name in found for path, found in words.items() if path.resolve() != module.path.resolve())
        ]

    def undocumented_rooms(self) -> list[str]:
        """Rooms whose ``__init__`` has no docstring of exactly one sentence."""
        found = []
        for module in [module for module in self.modules.values() if module.is_package and "." in module.name]:
            text = " ".join((ast.get_docstring(module.tree) or "").split())
            if not text.endswith(".") or re.search(r"[.!?]\s", text.replace("e.g. ", "")):
                found.append(module.name)
        return found

    def unformatted(self) -> list[str]:
        """Lines that are kept from the formatter."""
        pattern = re.compile(r"#\s*fmt:\s*(skip|off)")
        return [
            f"{module.path}:{number}"
            for module in self.modules.values()
            for number, line in enumerate(module.path.read_text(encoding="utf-8").splitlines(), 1)
            if pattern.search(line)
        ]

    def untyped_records(self) -> list[str]:
        """Parameters, fields and results that hold the record of a run as ``dict[str, Any]``."""
        found = []
        for module in self.modules.values():
            for node in ast.walk(module.tree):
                name, annotation = "", None
                if isinstance(node, ast.arg):
                    name, annotation = node.arg, node.annotation
                elif isinstance(node, ast.AnnAssign):
                    name, annotation = ast.unparse(node.target).rpartition(".")[2], node.annotation
                elif isinstance(node, ast.FunctionDef):
                    name, annotation = node.name, node.returns
                if annotation is not None and "record" in name and "dict[str, Any]" in ast.unparse(annotation):
                    found.append(f"{module.path}:{getattr(node, 'lineno', 0)}: {name}")
        return found

    def kilobytes(self, page: str) -> float:
        """The size of a page in KB of 1000 bytes."""
        path = self.root / page
        return path.stat().st_size / 1000 if path.exists() else 0.0


def is_bare_participle(function: Function) -> bool:
    """Whether the first word of a function's name is a past or present participle.

    A word is one if it ends in -ed or -ing or is an irregular past participle, unless it is a verb or noun that ends
    like one. Properties are values and may be called so. So may functions that build an error, whose names are nouns,
    and ``weighted_scores`` and ``weighted_squares``, terms of the blend. Predicates begin with is_, has_ or can_ and
    never match.
    """
    name = function.node.name
    if function.is_property or name.endswith("_error") or name in ("weighted_scores", "weighted_squares"):
        return False
    first = function.node.name.lstrip("_").split("_")[0]
    if first in NO_PARTICIPLES.split():
        return False
    return first in IRREGULAR.split() or bool(re.fullmatch(r"[a-z]{2,}(ed|ing)", first))


def _public_names(tree: ast.Module) -> Iterator[str]:
    """Undecorated functions and constants in capitals at the top of a module, without an underscore in front."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.decorator_list:
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [part.id for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name)]
            names = [name for name in names if name.isupper()]
        else:
            names = []
        yield from (name for name in names if not name.startswith("_"))


def _functions_of(module: Module, body: list[ast.stmt], prefix: str) -> Iterator[Function]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _functions_of(module, node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not re.fullmatch("__.*__", node.name):
            yield Function(module, prefix + node.name, node)


@dataclass(frozen=True)
class _Layers:
    """A contract of import-linter: names of modules below ``container`` and how high each stands, 0 is the top."""

    container: str
    height: dict[str, int]
    are_independent: dict[int, bool]

    def place(self, module: str) -> str | None:
        """The layer that holds a module, or nothing."""
        candidates = [name for name in self.height if module == name or module.startswith(f"{name}.")]
        return max(candidates, key=len, default=None)


def _layer_contracts(path: Path) -> list[_Layers]:
    settings = tomllib.loads(path.read_text(encoding="utf-8"))["tool"]["importlinter"]
    contracts = []
    for contract in settings["contracts"]:
        if contract["type"] != "layers":
            continue
        for container in contract.get("containers", [""]):
            prefix = f"{container.removeprefix('seamline.')}." if container else ""
            height, independent = {}, {}
            for level, layer in enumerate(contract["layers"]):
                independent[level] = ":" not in layer
                for name in re.split(r"[|:]", layer):
                    height[prefix + name.strip(" ()").removeprefix("seamline.")] = level
            contracts.append(_Layers(prefix, height, independent))
    return contracts


def _is_against(contract: _Layers, source: str, target: str) -> bool:
    here, there = contract.place(source), contract.place(target)
    if here is None or there is None or here == there:
        return False
    if contract.height[here] == contract.height[there]:
        return contract.are_independent[contract.height[here]]
    return contract.height[there] < contract.height[here]


def measure(house: House) -> dict[str, tuple[str, list[str]]]:
    """The rows of the table: what is measured → (its value, the findings behind it)."""
    sizes = {room: len(modules) for room, modules in house.rooms.items()}
    per_package = Counter(room.split(".")[0] for room in sizes)
    largest = sorted(sizes.items(), key=lambda room: -room[1])
    functions = list(house.functions())
    needing = [function for function in functions if function.needs_args]
    against, private = house.imports_against_layers(), house.private_imports()
    participles, records = house.bare_participles(), house.untyped_records()
    unformatted, undocumented = house.unformatted(), house.undocumented_rooms()
    with_args = sum(function.has_args for function in needing)
    return {
        "rooms of pipeline, flows, model": (", ".join(str(per_package[name]) for name in PACKAGES), []),
        "modules of the largest room": (f"{largest[0][1]} ({largest[0][0]})", [f"{n} {name}" for name, n in largest]),
        "rooms of more than 12 modules": (str(sum(n > MODULES_PER_ROOM for n in sizes.values())), []),
        "rooms without a sentence": (str(len(undocumented)), undocumented),
        "imports against the layers": (str(len(against)), [str(item) for item in against]),
        "private imports across rooms": (str(len(private)), [str(item) for item in private]),
        "bare participles among functions": (
            f"{len(participles)} of {len(functions)}",
            [str(function) for function in participles],
        ),
        "Args sections where more than 2 parameters": (
            f"{with_args} of {len(needing)} ({with_args / len(needing):.0%})",
            [str(function) for function in needing if not function.has_args],
        ),
        "lines with fmt: skip": (str(len(unformatted)), unformatted),
        "records typed as dict": (str(len(records)), records),
        "README.md, KB": (f"{house.kilobytes('README.md'):.1f}", []),
        "DESIGN.md, KB": (f"{house.kilobytes('DESIGN.md'):.1f}", []),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tree", type=Path, nargs="?", default=REPOSITORY, help="a checkout")
    parser.add_argument("--list", action="store_true", help="print the findings, too")
    given = parser.parse_args()
    rows = measure(House(given.tree))
    for title, (value, _) in rows.items():
        print(f"| {title} | {value} |")
    if given.list:
        for title, (_, findings) in rows.items():
            print(f"\n# {title}", *findings, sep="\n")


if __name__ == "__main__":
    main()
