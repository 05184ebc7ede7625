"""The record of a run: what is written is read, older layouts are read, newer ones refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.products.run_record import ClassArea, RunRecord, TilingRecord, read_record, write_record

RECORD = RunRecord(
    scene="scene",
    source="scene.tif",
    model="a U-Net",
    scene_digest="ab",
    model_digest="cd",
    plan=TilingRecord(window=256, halo=48, overlap=0, chunk_tiles=2, divisor=16, stride=160),
    settings={"engine": "torch"},
    outputs=("cog",),
    pixels_scene=100,
    pixels_inferred=400,
    windows=1,
    chunks=1,
    seconds={"total": 1.5},
    workers=2,
    peak_memory_bytes=3,
    projected_memory_bytes=4,
    classes=(ClassArea("land", 0, 90, 0.9, 9000.0), ClassArea("water", 1, 10, 0.1, None)),
    polygons={"min_area_m2": 100.0, "simplify_pixels": 0.5},
    hull=((0.0, 0.0), (10.0, 0.0), (10.0, 10.0)),
    finished="2026-01-01T00:00:00+00:00",
)


def change(folder: Path, **fields: object) -> None:
    path = folder / "run.json"
    values = {name: value for name, value in (json.loads(path.read_text()) | fields).items() if value is not ...}
    path.write_text(json.dumps(values))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    assert read_record(tmp_path) == RECORD
    assert json.loads((tmp_path / "run.json").read_text())["record_version"] == 1


def test_a_record_without_version_and_later_fields_is_read(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    change(tmp_path, record_version=..., device_memory_bytes=..., options=..., versions=..., polygons=..., hull=...)
    assert read_record(tmp_path) == RECORD.model_copy(update={"hull": None, "polygons": None})


@pytest.mark.parametrize("version", [2, 0, -1, None, "1", 1.0, True])
def test_a_record_of_another_version_is_refused(tmp_path: Path, version: object) -> None:
    write_record(tmp_path, RECORD)
    change(tmp_path, record_version=version, seconds="of another meaning")
    with pytest.raises(
        InputError, match=f"run.json of scene {tmp_path.name}: got record_version {version!r}, expected 1"
    ):
        read_record(tmp_path)


def test_what_others_add_is_kept(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    change(tmp_path, note="by hand")
    write_record(tmp_path, read_record(tmp_path))
    assert json.loads((tmp_path / "run.json").read_text())["note"] == "by hand"


@pytest.mark.parametrize("fields", [{"workers": ...}, {"plan": {"window": 256}}, {"classes": "land"}, {"scene": 5}])
def test_a_json_object_that_is_no_record_is_refused(tmp_path: Path, fields: dict[str, object]) -> None:
    write_record(tmp_path, RECORD)
    change(tmp_path, **fields)
    with pytest.raises(InputError, match=rf"run.json of scene {tmp_path.name}: got {next(iter(fields))}.*--overwrite"):
        read_record(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\ud800", "[" * 100_000])
def test_what_is_no_json_object_is_a_value_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(ValueError):
        read_record(tmp_path)
