"""Class names beside the COG: what is written is what was meant. What programs read of it: tests/test_readers.py."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.products.sidecars import (
    ATTRIBUTE_TABLE,
    SIDECARS,
    list_sidecars,
    normalize_attribute_table,
    write_sidecars,
)
from tests.support.small_rasters import write_geotiff

BYTE = st.integers(0, 255)
NAME = st.text(min_size=1).filter(str.isprintable) | st.sampled_from(["<&>\"'", "]]>", "a  b ", "лес", "水"])
CLASSES = st.lists(
    st.builds(LabelClass, st.integers(0, 254), NAME, st.tuples(BYTE, BYTE, BYTE)),
    min_size=1,
    max_size=5,
    unique_by=lambda label: label.value,
)


@settings(max_examples=15)  # each is brought to the disk
@given(CLASSES)
def test_names_colours_and_counts_come_back(
    tmp_path_factory: pytest.TempPathFactory, classes: list[LabelClass]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    pixels = {label.value: 10**12 + label.value for label in classes}
    write_sidecars(folder, ("cog", "polygons"), classes, pixels)
    style = ElementTree.parse(folder / "segmentation.qml")
    palette = style.findall("pipe/rasterrenderer[@type='paletted']//paletteEntry")
    styled = [(int(e.get("value", "")), e.get("label"), tuple(bytes.fromhex(e.get("color", "#")[1:]))) for e in palette]
    assert styled == [(label.value, label.name, label.color) for label in classes]
    table = ElementTree.parse(folder / "segmentation.tif.aux.xml").findall("*/GDALRasterAttributeTable/Row")
    rows = [[cell.text for cell in row] for row in table]
    assert rows == [
        [str(label.value), str(pixels[label.value]), label.name, *map(str, label.color), "255"] for label in classes
    ]
    renderer = ElementTree.parse(folder / "polygons.qml").find("renderer-v2[@type='categorizedSymbol'][@attr='class']")
    assert renderer is not None
    for label, category in zip(classes, renderer.findall("categories/category"), strict=True):
        color = renderer.find(f"symbols/symbol[@name='{category.get('symbol')}']/layer/Option/Option[@name='color']")
        assert (category.get("value"), category.get("label")) == (str(label.value), label.name)
        assert color is not None and color.get("value") == ",".join(map(str, (*label.color, 255)))


def test_what_programs_add_to_the_attribute_table_is_left_out(tmp_path: Path) -> None:
    classes = [LabelClass(0, "land & sea", (1, 2, 3)), LabelClass(1, "лес", (4, 5, 6))]
    write_sidecars(tmp_path, ("cog",), classes, {0: 7, 1: 8})
    written = (tmp_path / ATTRIBUTE_TABLE).read_text()
    band = '<PAMRasterBand band="1">'
    metadata = "<Metadata><MDI key='a'>1</MDI></Metadata>"
    added = f"{band}<Description>x</Description><Histograms><HistItem/></Histograms>{metadata}"
    rewritten = written.replace(band, added).replace("<Type>", '<Type typeAsString="Real">').replace("    ", "\t")
    assert rewritten.count("Histograms") == 2 and "\t" in rewritten
    for text in (written, rewritten):
        assert normalize_attribute_table(text.encode()) == written.encode()
    for other in (b"", b"<PAMDataset/>", b"\xff", written.replace("лес", "wood").encode()):
        assert normalize_attribute_table(other) == other


UNBOUNDED = ("observations", "last_date")


def write_counts(path: Path, values: np.ndarray) -> Path:
    """A raster with the statistics that a COG of a run has."""
    write_geotiff(path, values, nodata=65535)
    valid = values[values != 65535]
    found = {} if not valid.size else {"MINIMUM": valid.min(), "MAXIMUM": valid.max(), "MEAN": 0, "STDDEV": 0}
    with rasterio.open(path, "r+") as file:
        file.update_tags(1, **{f"STATISTICS_{name}": value for name, value in found.items()})
    return path


def read_ramp(path: Path) -> list[tuple[float, str | None]]:
    document = ElementTree.parse(path)
    renderer = document.find("pipe/rasterrenderer")
    assert renderer is not None
    items = [(float(item.get("value", "nan")), item.get("label")) for item in document.iter("item")]
    limits = [float(renderer.get(name, "nan")) for name in ("classificationMin", "classificationMax")]
    assert limits == [items[0][0], items[-1][0]]
    return items


def test_counts_and_days_are_coloured_by_the_statistics_of_the_file(tmp_path: Path) -> None:
    values = np.array([[[3, 48], [19_723, 65_535]]], np.uint16)
    for name in UNBOUNDED:
        write_counts(tmp_path / f"{name}.tif", values)
    write_sidecars(tmp_path, UNBOUNDED, [], {})
    counts, days = (read_ramp(tmp_path / f"{name}.qml") for name in UNBOUNDED)
    assert (counts[0], counts[-1]) == ((0, "0"), (19_723, "19723"))
    assert (days[0], days[-1]) == ((3, "1970-01-04"), (19_723, "2024-01-01"))
    for name in UNBOUNDED:  # of nothing but nodata there are none
        write_counts(tmp_path / f"{name}.tif", np.full((1, 2, 2), 65_535, np.uint16))
    write_sidecars(tmp_path, UNBOUNDED, [], {})
    assert read_ramp(tmp_path / "observations.qml")[-1] == (1, "1")


def test_they_come_together(tmp_path: Path) -> None:
    classes = [LabelClass(0, "water", (0, 0, 255))]
    cogs = [write_counts(tmp_path / f"{name}.tif", np.full((1, 2, 2), 3, np.uint16)) for name in UNBOUNDED]
    for output, names in SIDECARS.items():
        assert list_sidecars([output, "zarr"]) == [*names]
        write_sidecars(tmp_path, [output, "zarr"], classes, {0: 1})
        assert sorted(path.name for path in tmp_path.iterdir() if path not in cogs) == sorted(names)
        for name in names:
            (tmp_path / name).unlink()
