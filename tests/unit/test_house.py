"""Rules of the house that neither ruff nor import-linter holds; ``benchmarks/house.py`` measures them."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.house import MODULES_PER_ROOM, REPOSITORY, Function, House, Module, is_bare_participle


@pytest.fixture(scope="module")
def house() -> House:
    return House(REPOSITORY)


def none_of(findings: Sequence[object]) -> None:
    assert not findings, "\n".join(map(str, findings))


def test_no_room_takes_what_is_private_in_another(house: House) -> None:
    none_of(house.private_imports())


def test_what_only_its_module_uses_begins_with_an_underscore(house: House) -> None:
    none_of(house.needlessly_public())


def test_imports_follow_the_layers(house: House) -> None:
    none_of(house.imports_against_layers())


def test_every_room_says_in_one_sentence_what_it_is_for(house: House) -> None:
    none_of(house.undocumented_rooms())


def test_no_room_has_more_than_twelve_modules(house: House) -> None:
    none_of([f"{room}: {len(modules)}" for room, modules in house.rooms.items() if len(modules) > MODULES_PER_ROOM])


def test_the_formatter_formats_every_line(house: House) -> None:
    none_of(house.unformatted())


def test_public_functions_of_more_than_two_parameters_explain_them(house: House) -> None:
    none_of(house.without_args())


def test_no_function_is_called_by_a_bare_participle(house: House) -> None:
    none_of(house.bare_participles())


def test_the_record_of_a_run_is_no_dict(house: House) -> None:
    none_of(house.untyped_records())


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("told_if_lost", True),
        ("_opened", True),
        ("replacing", True),
        ("open_scene", False),
        ("is_sealed", False),
        ("embed_model", False),
        ("read_block", False),
    ],
)
def test_participles_are_told_from_verbs(name: str, bare: bool) -> None:
    node = ast.parse(f"def {name}(): pass").body[0]
    assert isinstance(node, ast.FunctionDef)
    assert is_bare_participle(Function(Module("room.module", Path(), False), name, node)) is bare


def test_what_breaks_a_rule_is_found(tmp_path: Path) -> None:
    """A small house in which every rule is broken once."""
    files = {
        "pipeline/common/__init__.py": '"""Two sentences. Not one."""',
        "pipeline/common/errors.py": (
            "from seamline.pipeline.results.open import _private\n"
            "x = 1  # fmt: skip\n"
            'def public(a: int, b: int, record: dict[str, Any]) -> None:\n    """Take three."""\n'
        ),
        "pipeline/results/__init__.py": '"""Results."""',
        "pipeline/results/open.py": "def _private(): pass\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    house = House(tmp_path)
    assert house.undocumented_rooms() == ["pipeline.common"]
    assert [found.name for found in house.private_imports()] == ["_private"]
    assert [found.target for found in house.imports_against_layers()] == ["pipeline.results.open"]
    assert [found.qualified_name for found in house.without_args()] == ["public"]
    assert house.needlessly_public() == ["pipeline.common.errors.public"]
    assert len(house.unformatted()) == len(house.untyped_records()) == 1
    assert house.rooms == {"pipeline.common": ["pipeline.common.errors"], "pipeline.results": ["pipeline.results.open"]}


def test_nothing_private_of_dask_is_used(house: House) -> None:
    """What ``distributed`` does not promise may be gone with its next version."""
    none_of(
        [
            f"{module.path}:{node.lineno}: {ast.unparse(node)}"
            for module in house.modules.values()
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Attribute)
            and re.fullmatch("_[a-z].*", node.attr)
            and re.search(r"(client|scheduler|worker|cluster)$", ast.unparse(node.value))
        ]
    )
