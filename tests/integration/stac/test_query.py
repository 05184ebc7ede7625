"""``items.parquet`` beside the items, in other readers; ``seamline query`` beside brute force."""

from __future__ import annotations

import glob
import json
import re
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import geopandas
import pyarrow.compute
import pystac.validation
import pytest
import shapely
import stac_geoparquet.arrow
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyarrow import parquet

from seamline.flows.cli.main import app, main
from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.time_span import TimeSpan
from seamline.pipeline.products.run_record import ClassArea
from seamline.pipeline.stac import query as query_module
from seamline.pipeline.stac.catalog import update_catalog, write_item
from seamline.pipeline.stac.extent import Box, Interval
from seamline.pipeline.stac.items import rebase_hrefs
from seamline.pipeline.stac.query import query_items
from seamline.pipeline.stac.scene_item import ModelReference, Provenance, build_scene_item

LAND = ("land", "water", "cloud shadow")
CITY = ("ground", "building")
MODEL = ModelReference("a U-Net", "ab" * 32, Path("/models/a/model.json"))


def publish(
    out: Path,
    name: str,
    names: tuple[str, ...],
    share: float,
    acquired: datetime | None,
    corner: tuple[float, float] | None,
) -> None:
    """A scene of one degree, its north-western ``corner`` in degrees; the second class has a ``share`` of it."""
    classes = [LabelClass(value, label, (value, 0, 0)) for value, label in enumerate(names)]
    areas = [ClassArea(entry.name, entry.value, 1, 0.0, None if corner is None else 1e6) for entry in classes]
    areas[1] = ClassArea(areas[1].name, 1, 1, share, areas[1].area_m2)
    lon, lat = corner or (0, 0)
    grid = GeoBox((100, 100), Affine(0.01, 0, lon, 0, -0.01, lat), None if corner is None else "EPSG:4326")
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text("{}")
    processed = datetime(2026, 11, 22, tzinfo=UTC)
    provenance = Provenance(
        "/scenes/a.tif", MODEL, acquired and TimeSpan.at(acquired), processed, {"seamline": "0.1.0"}, "segmented"
    )
    write_item(build_scene_item(folder, name, grid, classes, areas, provenance), folder)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of two models: over Manaus, in a city, across the antimeridian, without a place, without a time."""
    out = tmp_path_factory.mktemp("it's [a] *folder*") / "results"
    for year in (2025, 2026):
        publish(out, f"manaus-{year}", LAND, 0.3, datetime(year, 7, 23, 14, 20, tzinfo=UTC), (-60.5, -2.5))
    publish(out, "dry", LAND, 0.01, datetime(2026, 7, 23, tzinfo=UTC), (-60.5, -2.5))
    publish(out, "city", CITY, 0.4, datetime(2026, 1, 1, tzinfo=UTC), (-60.5, -2.5))
    publish(out, "fiji", LAND, 0.9, datetime(2026, 2, 28, 23, 59, tzinfo=UTC), (179.5, -16))
    publish(out, "micrograph", CITY, 0.5, None, None)
    publish(out, "undated", LAND, 0.5, None, (10, 50))
    update_catalog(out)
    return out


def ids(items: list[dict[str, Any]]) -> list[str]:
    return [item["id"] for item in items]


def test_the_line_of_sql_in_the_guide(out: Path, tmp_path: Path) -> None:
    """And the command below it finds the same."""
    guide = (Path(__file__).parents[3] / "docs" / "guides" / "queries.md").read_text()
    (line,) = re.findall(r"```sql\n(.*items\.parquet.*)\n```", guide)
    (command,) = re.findall(r"^seamline query results --bbox=(\S+) --datetime (\S+) --where \"(.*)\"$", guide, re.M)
    line = line.replace("'results/items.parquet'", "read_parquet($1)")  # the folder has an odd name
    publish(tmp_path, "undated", LAND, 0.5, None, (-60.5, -2.5))
    update_catalog(tmp_path)
    assert duckdb.execute(line, [str(tmp_path / "items.parquet")]).fetchall() == []
    publish(tmp_path, "undated", LAND, 0.5, datetime(2026, 1, 1, tzinfo=UTC), (-60.5, -2.5))
    update_catalog(tmp_path)  # all have a time now
    assert len(duckdb.execute(line, [str(tmp_path / "items.parquet")]).fetchall()) == 1
    rows = duckdb.execute(line, [glob.escape(str(out / "items.parquet"))]).fetchall()
    assert [(row[0], row[2]) for row in rows] == [("manaus-2026", 0.3)]
    box, interval, where = command
    assert ids(query_items(out, Box.from_text(box), where, Interval.from_text(interval))) == ["manaus-2026"]


def items_of(out: Path) -> dict[str, dict[str, Any]]:
    return {path.parent.name: json.loads(path.read_text()) for path in out.glob("*/item.json")}


def test_the_table_is_the_items_in_stac_geoparquets_own_reader(out: Path) -> None:
    """Of scenes with a place; its reader knows no others."""
    table = parquet.read_table(out / "items.parquet")
    placed = table.filter(pyarrow.compute.is_valid(table["geometry"]))
    found = {item["id"]: item for item in stac_geoparquet.arrow.stac_table_to_items(placed)}
    assert found.keys() == {name for name, item in items_of(out).items() if item["geometry"]}
    for name, item in found.items():
        written = items_of(out)[name]
        valid = without_nulls(item)
        properties = {"datetime": None, **valid["properties"]}
        pystac.validation.validate_dict({**valid, "properties": properties, "stac_extensions": []})
        expected, read = (without_nulls(one) for one in (rebase_hrefs(written, name), item))
        outlines = [shapely.geometry.shape(one.pop("geometry")) for one in (expected, read)]
        assert shapely.equals(*outlines)
        assert read.pop("links")[:-1] == expected.pop("links")
        for one in (expected, read):  # its reader adds microseconds
            for time in {"created", "datetime", "start_datetime", "end_datetime"} & one["properties"].keys():
                one["properties"][time] = datetime.fromisoformat(one["properties"][time])
        assert read == expected


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    return [without_nulls(part) for part in value] if isinstance(value, list | tuple) else value


def test_geopandas_and_gdal_see_scenes_on_the_map(out: Path) -> None:
    table = geopandas.read_parquet(out / "items.parquet")
    assert table.crs == "OGC:CRS84" and len(table) == 7
    assert table[["water_share", "building_share"]].notna().sum().tolist() == [5, 2]
    assert table.geometry.isna().sum() == 1


def test_hrefs_lead_to_the_files(out: Path) -> None:
    rows = parquet.read_table(out / "items.parquet", columns=["assets"]).to_pylist()
    assert all((out / row["assets"]["run"]["href"]).is_file() for row in rows)
    (item,) = query_items(out, where="id = 'city'")
    assert all(Path(asset["href"]).is_file() for asset in item["assets"].values())
    links = {link["rel"]: link["href"] for link in item["links"]}
    assert (
        links["self"] == str((out / "city" / "item.json").resolve()) and Path(links["parent"]) == out / "catalog.json"
    )


@pytest.mark.parametrize(
    ("box", "found"),
    [
        ("-60.2,-3.2,-60,-3", ["city", "dry", "manaus-2025", "manaus-2026"]),
        ("-180,-90,180,90", ["city", "dry", "fiji", "manaus-2025", "manaus-2026", "undated"]),
        ("179,-20,-179,-10", ["fiji"]),
        ("-179.9,-20,-179.8,-10", ["fiji"]),
        ("179,-20,179.8,-10", ["fiji"]),
        ("-170,-90,170,90", ["city", "dry", "manaus-2025", "manaus-2026", "undated"]),
        ("170,-90,-61,90", ["fiji"]),
        ("0,-20,5,-10", []),
        ("20,-90,-170,90", ["fiji"]),
    ],
)
def test_boxes(out: Path, box: str, found: list[str]) -> None:
    assert ids(query_items(out, Box.from_text(box))) == found


@pytest.fixture(scope="module")
def outlines(out: Path) -> dict[str, Any]:
    return {n: shapely.geometry.shape(i["geometry"]) for n, i in items_of(out).items() if i["geometry"]}


@settings(max_examples=15, deadline=None)
@given(st.floats(-180, 180), st.floats(-180, 180), st.floats(-30, 55), st.floats(0, 30))
def test_boxes_beside_brute_force(
    out: Path, outlines: dict[str, Any], west: float, east: float, south: float, height: float
) -> None:
    """A box across the antimeridian goes on beyond 180°, where the outlines are once more."""
    turned = shapely.box(west, south, east if east >= west else east + 360, south + height)
    expected = {
        name
        for name, outline in outlines.items()
        for turn in (0, 360)
        if turned.intersects(shapely.affinity.translate(outline, turn))
    }
    found = set(ids(query_items(out, Box(west, south, east, south + height))))
    assert expected ^ found <= {n for n in outlines if shapely.distance(turned.boundary, outlines[n]) < 1e-9}


@pytest.mark.parametrize(
    ("interval", "found"),
    [
        ("2026", ["city", "dry", "fiji", "manaus-2026"]),
        ("2025", ["manaus-2025"]),
        ("2026-02", ["fiji"]),
        ("2026-02-28", ["fiji"]),
        ("../2026-01-01", ["city", "manaus-2025"]),
        # Of "dry" and "city" only the day is known.
        ("2026-07-23T14:20:00Z/..", ["dry", "manaus-2026"]),
        ("2026-07-23T16:20:00+02:00", ["dry", "manaus-2026"]),
        ("2026-07-23T14:21:00Z/..", ["dry"]),
        ("2026-07-24/..", []),
        ("../2026-07-22", ["city", "fiji", "manaus-2025"]),
        ("2026-03/2026-06", []),
    ],
)
def test_times_without_scenes_whose_time_is_unknown(out: Path, interval: str, found: list[str]) -> None:
    assert ids(query_items(out, interval=Interval.from_text(interval))) == found


@pytest.mark.parametrize(
    "where",
    [
        "water_share >",
        "water_shar > 0.05",
        "true) OR (true",
        "true; DROP TABLE items",
        "true LIMIT 1",
        "id, title",
        "(SELECT count(*) FROM read_text('SECRET')) > 0",
        "EXISTS (FROM glob('/etc/*'))",
        "EXISTS (FROM 'SECRET')",
        "true; COPY items TO 'STOLEN'",
        "EXISTS (FROM out)",
        "datetime > 'never'",
        "$1 = 1",
        " ",
        "id = '\ud800'",
        "id = '\0",
        "list_sum(range(1000000000)) > 0",
        "length(repeat(id, 2000000000)) > 0",
    ],
)
def test_what_is_no_expression_is_one_line(
    out: Path, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing else is read, and nothing written."""
    (tmp_path / "secret.csv").write_text("a\n1\n")
    where = where.replace("SECRET", str(tmp_path / "secret.csv")).replace("STOLEN", str(tmp_path / "stolen.csv"))
    before = (out / "items.parquet").read_bytes()
    monkeypatch.setattr(sys, "argv", ["seamline", "query", str(out), "--where", where])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert ended.value.code == 2 and said.out == ""
    assert said.err.startswith("seamline: --where: got ") and said.err.count("\n") == 1
    assert (out / "items.parquet").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]


def test_an_expression_without_end_is_ended(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_module, "_TIME_LIMIT_S", 1)
    endless = "list_sum(list_transform(range(10000000), lambda x: length(md5(md5(md5(md5(x::VARCHAR))))))) > 0"
    with pytest.raises(InputError, match=r"--where: got .*\(not done after 1 s\)"):
        query_items(out, where=endless)


def test_the_command_prints_a_table_or_items(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app(["query", str(out), "--where", "water_share > 0.5"], standalone_mode=False)
    said = capsys.readouterr().out
    assert "fiji" in said and "2026-02-28" in said and "water 90.0 %" in said and "city" not in said
    app(["query", str(out), "--bbox", "-61,-4,-59,-2", "--datetime", "2025", "--json", "-"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert (found["type"], ids(found["features"])) == ("FeatureCollection", ["manaus-2025"])
    app(["query", str(out), "--json", str(tmp_path / "found.json")], standalone_mode=False)
    assert len(json.loads((tmp_path / "found.json").read_text())["features"]) == 7
    capsys.readouterr()
    app(["query", str(out), "--where", "water_share > 1"], standalone_mode=False)
    assert capsys.readouterr().out == "no scenes\n"
    app(["query", str(out), "--where", "water_share > 1", "--json", "-"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out) == {"type": "FeatureCollection", "features": []}


@pytest.mark.parametrize("is_there", [True, False])
def test_a_damaged_item_is_named_and_left_out_and_a_removed_one_left_out(
    is_there: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("whole", "damaged"):
        publish(tmp_path, name, LAND, 0.5, datetime(2026, 1, 1, tzinfo=UTC), (0, 0))
    update_catalog(tmp_path)
    if is_there:
        (tmp_path / "damaged" / "item.json").write_text("{")
    else:
        shutil.rmtree(tmp_path / "damaged")
    monkeypatch.setattr(sys, "argv", ["seamline", "query", str(tmp_path), "--json", "-"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code and ids(json.loads(capsys.readouterr().out)["features"]) == ["whole"]
    named = [record.getMessage().split(" is left out: ")[0] for record in caplog.records]
    assert named == ([f"{tmp_path}/damaged/item.json"] if is_there else [])


def test_a_pipe_gets_whole_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "scene-" + "x" * 120
    publish(tmp_path, name, LAND, 0.5, datetime(2026, 1, 1, tzinfo=UTC), (0, 0))
    update_catalog(tmp_path)
    app(["query", str(tmp_path)], standalone_mode=False)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("scene-")]
    assert line.split()[:2] == [name, "2026-01-01"]


def test_a_file_in_a_folder_that_is_not_there_is_refused(out: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--json .*got no folder"):
        app(["query", str(out), "--json", str(tmp_path / "no" / "x.json")], standalone_mode=False)
    assert not (tmp_path / "no").exists()


def test_results_that_cannot_be_asked(out: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"got no items\.parquet"):
        query_items(tmp_path)
    (tmp_path / "items.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"got items\.parquet with damage"):
        query_items(tmp_path)
    rows = parquet.read_table(out / "items.parquet").slice(0, 1).to_pylist()
    rows[0]["links"][-1]["href"] = "../outside/item.json"
    parquet.write_table(type(parquet.read_table(out / "items.parquet")).from_pylist(rows), tmp_path / "items.parquet")
    with pytest.raises(InputError, match=r"with damage \(the link \.\./outside/item\.json\)"):
        query_items(tmp_path)


def test_an_item_unlike_all_others_keeps_none_out(out: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        item = items_of(out)["city"] | {"id": name}
        item["properties"]["odd"] = {"a": 1, "b": [1], "c": "text"}[name]
        (tmp_path / name / "item.json").write_text(json.dumps(item))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "item.json").write_text("{")
    update_catalog(tmp_path)
    assert ids(query_items(tmp_path, where="odd = '[1]'")) == ["b"]
    assert ids(query_items(tmp_path)) == ["a", "b", "c"]
