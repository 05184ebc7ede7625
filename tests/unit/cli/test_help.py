"""The help of every command: examples that the parser takes, groups, short names; options from files and variables."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand, TyperGroup

from seamline.flows.cli.main import app
from seamline.pipeline.common.errors import InputError

GROUP = typer.main.get_command(app)


def list_commands(group: TyperGroup, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], TyperCommand]:
    commands: dict[tuple[str, ...], TyperCommand] = {}
    for word, command in group.commands.items():
        if isinstance(command, TyperGroup):
            commands |= list_commands(command, (*words, word))
        else:
            commands[(*words, word)] = command
    return commands


COMMANDS = list_commands(GROUP)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_help_has_two_examples_that_the_parser_takes(words: tuple[str, ...]) -> None:
    command = COMMANDS[words]
    _, _, text = (command.help or "").partition("Examples:")
    examples = [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]
    assert len(examples) == 2, f"{' '.join(words)}: {examples}"
    for example in examples:
        program, *rest = shlex.split(example.partition(" | ")[0])
        assert (program, *rest[: len(words)]) == ("seamline", *words)
        command.make_context(" ".join(words), rest[len(words) :])


def parse_segment(arguments: list[str]) -> dict[str, object]:
    parent = GROUP.make_context("seamline", ["segment"])
    return COMMANDS[("segment",)].make_context("segment", arguments, parent=parent).params


def test_options_come_from_the_command_line_then_variables_then_the_file_then_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        "model: from-file\nout: results\nwindow: 1024\nhalo: 32\npolygon-min-area: 5000\noutputs: [cog, polygons]\n"
        "zarr_shards: true\nscale: 0.0001\n"
    )
    monkeypatch.setenv("SEAMLINE_WINDOW", "768")
    monkeypatch.setenv("SEAMLINE_HALO", "64")
    found = parse_segment(["scene.tif", "--config", str(config), "--window", "512"])
    assert (found["window"], found["halo"], found["model"], found["out"]) == ("512", "64", "from-file", "results")
    assert (found["outputs"], found["polygon_min_area"], found["zarr_shards"]) == ("cog,polygons", 5000, True)
    assert (found["scale"], found["overlap"]) == (0.0001, "auto")


def test_scenes_may_stand_in_the_file(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("scene: [a.tif, b.tif]\nmodel: m\nout: o\n")
    assert parse_segment(["--config", str(config)])["scene"] == ["a.tif", "b.tif"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("windows: 1024", r"got windows, expected options of segment: aoi, .*; correct the name"),
        ("- window", "got list, expected options by name"),
        ("window: [", "expected a YAML file"),
        ("config: other.yaml", "got config, expected options of segment"),
        ("as-json: true", r"got as-json, expected options of segment: aoi, .*json, "),
        ("overwrite: [1]", r"got overwrite: \[1\], expected true or false"),
        ("window: " + "[" * 5000, "expected a YAML file"),
        ("halo: 96\n" + "# a comment\n" * 90_000 + "window: 256\n", "got a larger file"),
    ],
)
def test_a_file_with_anything_else_is_refused(tmp_path: Path, content: str, message: str) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(content)
    with pytest.raises(InputError, match=message):
        parse_segment(["scene.tif", "--config", str(config)])


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        parse_segment(["scene.tif", "--config", str(tmp_path / "none.yaml")])


def test_options_that_may_be_repeated_and_mappings_stand_in_the_file(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("place: https://x\nmodel: m\nout: o\ncollection: [a, b]\nquery: {cloud: {lt: 20}}\n")
    parent = GROUP.make_context("seamline", ["collect"])
    found = COMMANDS[("collect",)].make_context("collect", ["--config", str(config)], parent=parent).params
    assert (found["collection"], found["query"]) == (["a", "b"], '{"cloud": {"lt": 20}}')


def test_every_option_of_a_run_has_a_variable() -> None:
    without = {
        parameter.name
        for parameter in COMMANDS[("segment",)].params
        if parameter.param_type_name == "option" and not parameter.envvar
    }
    # Switches of one call, the working folder, whose variable is read where no folder is given, what is of one scene.
    assert without == {"overwrite", "check", "strict", "as_json", "quiet", "verbose", "work", "datetime"}
