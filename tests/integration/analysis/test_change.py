"""``seamline change``: transitions are those of every pixel; files that others read; refusals."""

from __future__ import annotations

import csv
import json
import shutil
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rio_cogeo import cog_validate

import seamline
from seamline.pipeline.analysis import transitions
from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.geometry.pixel_area import measure_pixel_areas
from tests.support.command_line import CommandLine
from tests.support.served_scenes import CLASSES, GRIDS, SHAPE
from tests.support.small_map import make_observations, make_period_labels, publish_map

GRID = GRIDS["utm"]


def find_codes(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return np.where((before == NODATA) | (after == NODATA), 65535, before * 100 + after.astype(int))


def hide_doubtful(period: str, least: float) -> np.ndarray:
    """Labels of a period without those of which fewer scenes had the label, by fractions of whole numbers."""
    seen, agreed = make_observations(period)
    counts = {(n, k): n > 0 and float(Fraction(k, n)) >= least for n, k in {*zip(seen.flat, agreed.flat, strict=True)}}
    is_sure = np.vectorize(lambda n, k: counts[n, k])(seen, agreed)
    return np.where(is_sure, make_period_labels(period), NODATA)


@pytest.mark.parametrize("least", [0.0, 0.333, 1 / 3, 0.5, 0.667, 0.7, 0.9949, 1.0])
def test_pixels_of_exactly_the_least_agreement_count(small_map: Path, tmp_path: Path, least: float) -> None:
    seamline.change(small_map, out=tmp_path, from_period="2024", to_period="2025", min_agreement=least)
    with rasterio.open(tmp_path / "transitions.tif") as file:
        assert np.array_equal(file.read(1), find_codes(hide_doubtful("2024", least), hide_doubtful("2025", least)))


@pytest.mark.parametrize("least", [0.0, 0.7])
def test_transitions_are_those_of_every_pixel(
    small_map: Path, tmp_path: Path, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transitions, "_BLOCK", 128)
    out = tmp_path / "change"
    found = seamline.change(small_map, out=out, from_period="2024", to_period="2025", min_agreement=least)
    expected = find_codes(hide_doubtful("2024", least), hide_doubtful("2025", least))
    with rasterio.open(out / "transitions.tif") as file:
        assert np.array_equal(file.read(1), expected) and file.dtypes == ("uint16",) and file.nodata == 65535
        assert (file.crs, file.transform) == (GRID.crs.to_wkt(), GRID.transform)
        assert file.colormap(1)[1] == (*CLASSES[1].color, 255) and file.colormap(1)[0] != (*CLASSES[0].color, 255)
        assert file.tags()["TRANSITION_1"] == "land → water" and file.tags()["CODE"].startswith("100 ×")
    assert cog_validate(out / "transitions.tif", quiet=True)[0]
    areas = measure_pixel_areas(GRID)
    assert areas is not None
    area = areas[0 : SHAPE[0]]
    total = area[expected != 65535].sum()
    codes = sorted(set(np.unique(expected).tolist()) - {65535})
    assert [entry.value for entry in found.transitions] == codes
    for entry in found.transitions:
        where = expected == entry.value
        assert (entry.pixels, entry.area_m2) == (where.sum(), area[where].sum())
        assert entry.share == pytest.approx(area[where].sum() / total)
    with (out / "transitions.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    document = json.loads((out / "transitions.json").read_text())
    for row, written, entry in zip(rows, document["transitions"], found.transitions, strict=True):
        assert (row["from"], row["to"], int(row["code"])) == (entry.before.name, entry.after.name, entry.value)
        assert float(row["hectares"]) * 1e4 == pytest.approx(entry.area_m2) and written["pixels"] == entry.pixels
    assert (
        document["from"]["start"].startswith("2024-01-01") and document["pixels_compared"] == (expected < 65535).sum()
    )
    legend = ElementTree.parse(out / "transitions.tif.aux.xml")
    assert [row.findall("F")[2].text for row in legend.iter("Row")] == [entry.name for entry in found.transitions]
    style = ElementTree.parse(out / "transitions.qml")
    assert [entry.get("value") for entry in style.iter("paletteEntry")] == list(map(str, codes))
    assert {path.name for path in out.iterdir()} == {
        f"transitions.{ending}" for ending in ("tif", "tif.aux.xml", "qml", "csv", "json")
    }


def test_two_maps_are_compared_where_they_overlap(small_map: Path, tmp_path: Path) -> None:
    rows, cols = -50, 120
    grid = GeoBox(SHAPE, GRID.transform @ Affine.translation(cols, rows), GRID.crs)
    other = publish_map(tmp_path / "other", grid, ("2025",))
    found = seamline.change(small_map, other, out=tmp_path / "out", from_period="2024")
    expected = find_codes(make_period_labels("2024")[:250, 120:], make_period_labels("2025")[50:, :300])
    with rasterio.open(tmp_path / "out" / "transitions.tif") as file:
        assert np.array_equal(file.read(1), expected)
        assert file.transform == GRID.transform @ Affine.translation(cols, 0)
    assert found.pixels == expected.size


def test_scenes_of_one_grid_are_compared_by_their_ids(small_map: Path, tmp_path: Path) -> None:
    """Without map.json the folder is a catalogue of scenes."""
    shutil.copytree(small_map, tmp_path / "results")
    (tmp_path / "results" / "map.json").unlink()
    ids = {"from_period": "land-2024", "to_period": "land-2025"}
    found = seamline.change(tmp_path / "results", out=tmp_path / "a", **ids)
    assert found.transitions == seamline.change(small_map, out=tmp_path / "b", **ids).transitions


def test_labels_of_three_digits_have_other_codes(small_map: Path) -> None:
    from seamline.pipeline.analysis.listing import find_named_result
    from seamline.pipeline.common.classes import LabelClass

    pair = transitions.ResultPair.of(find_named_result(small_map, "2024"), find_named_result(small_map, "2025"), 0)
    assert pair.factor == 100
    object.__setattr__(pair.before.published, "classes", (LabelClass(254, "x", (0, 0, 0)),))
    assert pair.factor == 256 and transitions.UNKNOWN > 254 * 256 + 254


def test_the_command_shows_what_changed(small_map: Path, tmp_path: Path, command_line: CommandLine) -> None:
    words = ("change", str(small_map), "--from", "2024", "--to", "2025", "--out", str(tmp_path / "out"))
    code, out, _ = command_line(*words)
    assert code == 0 and "land → water" in out and "land, unchanged" in out
    code, out, _ = command_line(*words, "--json")
    answer = json.loads(out)
    assert answer["folder"] == str(tmp_path / "out") and answer["transitions"][1]["to"] == "water"


def test_what_cannot_be_compared_is_refused(small_map: Path, tmp_path: Path, command_line: CommandLine) -> None:
    def publish(name: str, grid: GeoBox) -> str:
        return str(publish_map(tmp_path / name, grid, ("2025",)))

    there = GRID.transform
    coarse = GeoBox(SHAPE, there @ Affine.scale(2), GRID.crs)
    shifted = GeoBox(SHAPE, there @ Affine.translation(0.4, 0), GRID.crs)
    far = GeoBox(SHAPE, there @ Affine.translation(1000, 0), GRID.crs)
    other_crs = publish("zone", GeoBox(SHAPE, there, "EPSG:32621"))
    bare = tmp_path / "bare"
    shutil.copytree(small_map, bare)
    for folder in bare.glob("land-*/segmentation.zarr/agreement"):
        shutil.rmtree(folder)
    first, out = str(small_map), tmp_path / "out"
    both = ("--from", "2024", "--to", "2025")
    for words, text in (
        ((first, *both[:3], "2026"), "got '2026', which is not in it, expected one of 2024, 2025"),
        ((first, "--from", "2024"), "got 2 results and no name, expected one of 2024, 2025"),
        ((first, "--from", "2024", "--to", "land-2024"), "got 2024 twice"),
        ((first, *both, "--min-agreement", "70"), "--min-agreement: got 70.0, expected a share"),
        ((str(bare), *both, "--min-agreement", "0.7"), "got no layer agreement of 2024"),
        ((first, other_crs, "--from", "2024"), "expected one CRS of both"),
        ((first, publish("coarse", coarse), "--from", "2024"), "got pixels of 30 × 30 and 60 × 60"),
        ((first, publish("shifted", shifted), "--from", "2024"), "got pixels that lie 0.40 columns"),
        ((first, publish("far", far), "--from", "2024"), "got no pixel that both have"),
        ((first, first, first, *both), "got 3 maps, expected one or two"),
        ((str(tmp_path), *both), "got no catalog.json"),
        (("s3://Bucket/land", *both), "got s3://Bucket/land"),
    ):
        code, _, error = command_line("change", *words, "--out", str(out))
        assert (code, text in error, error.count("\n")) == (2, True, 1), error
        assert not out.exists()
    code, _, error = command_line("change", first, *both, "--out", first)
    assert code == 2 and "got a folder of results" in error


def test_other_classes_are_refused(small_map: Path, tmp_path: Path) -> None:
    from seamline.pipeline.analysis.listing import find_named_result
    from seamline.pipeline.common.classes import LabelClass

    before, after = (find_named_result(small_map, period) for period in ("2024", "2025"))
    object.__setattr__(after.published, "classes", (LabelClass(0, "land", (0, 0, 0)),))
    with pytest.raises(seamline.InputError, match="got 0 land, 1 water, 2 ice and 0 land, expected the same"):
        transitions.ResultPair.of(before, after, 0)
