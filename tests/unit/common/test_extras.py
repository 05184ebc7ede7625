"""Extras: pyproject.toml, the code and the guide name the same, and no room imports one that is not its own."""

from __future__ import annotations

import ast
import pickle
import re

import pytest
from packaging.utils import canonicalize_name

from benchmarks.extras import list_packages, read_installed, read_requirements
from benchmarks.house import REPOSITORY, House
from seamline.flows.settings.checks import judge_extras
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.extras import EXTRAS, MissingExtraError, explain_missing_extra, require_extras

ROOMS = {
    "flows.serving": "serve",
    "flows.tracking": "flows",
    "flows.up": "flows",
    "pipeline.stac.query_worker": "query",
    "pipeline.vectors.polygonize": "vectors",
    "pipeline.vectors.sieve": "vectors",
}
"""Rooms and modules that are imported where their extra is asked for, and import it at once."""


def list_direct_packages(extra: str) -> set[str]:
    return {canonicalize_name(need.name) for need in read_requirements()[extra]}


def find_modules(package: str) -> set[str]:
    """Names that a package is imported by."""
    tops = {file.parts[0] for file in read_installed()[package].files or () if file.suffix == ".py"}
    return {top.removesuffix(".py") for top in tops if top.removesuffix(".py").isidentifier()}


def list_early_imports(tree: ast.Module) -> set[str]:
    """Top packages that the import of a module imports, outside of ``with``, ``try``, ``if`` and functions."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def test_code_and_pyproject_name_the_same_extras() -> None:
    named = set(read_requirements()) - {"", "all", "dev"}
    assert named == set(EXTRAS)
    (everything,) = read_requirements()["all"]
    assert everything.extras == named
    assert any(need.name == "seamline" and need.extras == {"all"} for need in read_requirements()["dev"])


@pytest.mark.parametrize("extra", EXTRAS)
def test_modules_of_an_extra_are_those_of_its_packages(extra: str) -> None:
    parts = {part for need in read_requirements()[extra] for part in need.extras}
    packages = {package for part in (extra, *parts) for package in list_direct_packages(part)} - {"seamline"}
    for module in EXTRAS[extra]:
        owners = {package for package in packages if module in find_modules(package)}
        assert owners, module
        packages -= owners
    assert not packages


def test_the_core_requires_no_package_of_an_extra() -> None:
    asked = {package for extra in EXTRAS for package in list_direct_packages(extra)} - {"seamline"}
    core = list_packages()
    # rio-cogeo, which verifies COGs, needs it.
    assert asked & core == {"morecantile"}
    assert not {"prefect", "titiler-core", "fastapi", "duckdb"} & core


def test_the_guide_has_a_row_for_each_extra() -> None:
    guide = (REPOSITORY / "docs" / "guides" / "install.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `?(\w+)`? \| .+ \| \d+ \| \d+ \|$", guide, re.MULTILINE)
    assert set(rows) == {"none", "all", *EXTRAS} and len(rows) == len(set(rows))


def test_only_rooms_of_an_extra_import_it_at_once() -> None:
    modules = {module for names in EXTRAS.values() for module in names} - {"morecantile"}
    for name, module in House(REPOSITORY).modules.items():
        places = [room for room in ROOMS if f"{name}.".startswith(f"{room}.")]
        allowed = {own for room in places for own in EXTRAS[ROOMS[room]]}
        assert not (list_early_imports(module.tree) & modules) - allowed, name


def test_what_is_missing_is_said_with_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    require_extras("nothing")
    monkeypatch.setitem(EXTRAS, "one", ("json", "no_such_module"))
    monkeypatch.setitem(EXTRAS, "two", ("no_such_module", "nor_this"))
    monkeypatch.setitem(EXTRAS, "three", ("json",))
    with pytest.raises(MissingExtraError) as caught:
        require_extras("the map", "one", "two", "three")
    assert isinstance(caught.value, InputError) and isinstance(caught.value, ImportError)
    said = (
        "the map: got no no_such_module, nor_this here, expected the packages of seamline[one,two]; "
        "pip install 'seamline[one,two]'"
    )
    assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value))) == said
    with pytest.raises(MissingExtraError, match=r"seamline\[one\]"), explain_missing_extra("it", "one"):
        import no_such_module  # noqa: F401


def test_another_module_that_is_missing_is_a_defect() -> None:
    with pytest.raises(ModuleNotFoundError) as caught, explain_missing_extra("it", "query"):
        import no_such_module  # noqa: F401
    assert not isinstance(caught.value, InputError)


def test_doctor_lists_extras() -> None:
    check = judge_extras({"serve": [], "query": ["duckdb"], "s3": ["obstore"], "flows": []})
    assert check.found == "serve, flows; more with pip install 'seamline[query,s3]'"
    assert judge_extras({"serve": []}).found == "serve"
