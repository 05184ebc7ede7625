"""Class names beside the COG: what is written is what was meant. What programs read of it: tests/test_readers.py."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
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


def test_they_come_together(tmp_path: Path) -> None:
    classes = [LabelClass(0, "water", (0, 0, 255))]
    for output, names in SIDECARS.items():
        assert list_sidecars([output, "zarr"]) == [*names]
        write_sidecars(tmp_path, [output, "zarr"], classes, {0: 1})
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
        for name in names:
            (tmp_path / name).unlink()
