"""Class names beside the COG: what is written is what was meant. What programs read of it: tests/test_readers.py."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.classes import LabelClass
from pipeline.sidecars import have_sidecars, remove_sidecars, write_sidecars

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
    cog = tmp_path_factory.getbasetemp() / "labels.tif"
    pixels = {label.value: 10**12 + label.value for label in classes}
    write_sidecars(cog, classes, pixels)
    palette = ElementTree.parse(cog.with_suffix(".qml")).findall("pipe/rasterrenderer[@type='paletted']//paletteEntry")
    styled = [(int(e.get("value", "")), e.get("label"), tuple(bytes.fromhex(e.get("color", "#")[1:]))) for e in palette]
    assert styled == [(label.value, label.name, label.color) for label in classes]
    table = ElementTree.parse(f"{cog}.aux.xml").findall("PAMRasterBand/GDALRasterAttributeTable/Row")
    rows = [[cell.text for cell in row] for row in table]
    assert rows == [
        [str(label.value), str(pixels[label.value]), label.name, *map(str, label.color), "255"] for label in classes
    ]


def test_they_come_and_go_together(tmp_path: Path) -> None:
    cog = tmp_path / "labels.tif"
    assert not have_sidecars(cog)
    write_sidecars(cog, [LabelClass(0, "water", (0, 0, 255))], {0: 1})
    assert have_sidecars(cog)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.qml", "labels.tif.aux.xml"]
    (tmp_path / "labels.qml").unlink()
    assert not have_sidecars(cog)
    remove_sidecars(cog)
    assert not list(tmp_path.iterdir())
