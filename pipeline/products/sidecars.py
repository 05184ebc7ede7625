"""Side-car files with the names and colours of classes, for raster and vector files that cannot hold them.

``<name>.qml`` is the layer style that QGIS finds by its name. ``segmentation.tif.aux.xml`` is GDAL's: a raster
attribute table, which gdalinfo, ArcGIS and newer QGIS read. The statistics are in the TIFF itself. Each file belongs to
an output of a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, SubElement, fromstring, indent, tostring

from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.products.layers import LAYERS
from seamline.pipeline.products.styles import build_class_style, build_polygon_style, build_ramp_style
from seamline.pipeline.storage.atomic import atomic_write

_STYLE = "segmentation.qml"
ATTRIBUTE_TABLE = "segmentation.tif.aux.xml"
"""GDAL's side-car of the labels."""
_LAYER_STYLES = {f"{layer.name}.qml": layer for layer in LAYERS.values()}
_POLYGON_STYLE = "polygons.qml"
SIDECARS: Mapping[str, tuple[str, ...]] = {
    "cog": (_STYLE, ATTRIBUTE_TABLE),
    **{layer.name: (name,) for name, layer in _LAYER_STYLES.items()},
    "polygons": (_POLYGON_STYLE,),
}
"""Names of the side-car files of each output."""

_TABLE_TAG = "GDALRasterAttributeTable"
_FIELD_TAGS = ("Name", "Type", "Usage")
# Values of GDAL's GDALRATFieldType and GDALRATFieldUsage (gdal.h). Counts are reals: GDAL's integers have 32 bits.
_INTEGER, _REAL, _STRING = "0", "1", "2"
_COLUMNS = (
    ("Value", _INTEGER, "5"),  # MinMax
    ("Count", _REAL, "1"),  # PixelCount
    ("Class", _STRING, "2"),  # Name
    ("Red", _INTEGER, "6"),
    ("Green", _INTEGER, "7"),
    ("Blue", _INTEGER, "8"),
    ("Alpha", _INTEGER, "9"),
)
"""Name, type and usage of each column of the raster attribute table."""


def write_sidecars(
    folder: Path, outputs: Iterable[str], classes: Sequence[LabelClass], pixels: Mapping[int, int]
) -> None:
    """Write the side-car files of some outputs; each file appears whole or not at all.

    Args:
        folder: the scene's folder.
        outputs: outputs of a run, keys of ``SIDECARS``; others have no side-cars.
        classes: classes of the labels; their names are printable text.
        pixels: number of pixels of each class, by its value.
    """
    for name in list_sidecars(outputs):
        with atomic_write(folder / name) as part:
            part.write_bytes(_encode_document(_build_document(name, classes, pixels)))


def list_sidecars(outputs: Iterable[str]) -> list[str]:
    """Return the names of all side-car files of the outputs."""
    return [name for output in outputs for name in SIDECARS.get(output, ())]


def _encode_document(document: Element) -> bytes:
    """Return a document as it is written: without an XML declaration, behind which GDAL would find no table."""
    indent(document)
    return (tostring(document, encoding="unicode") + "\n").encode("utf-8")


def _build_document(name: str, classes: Sequence[LabelClass], pixels: Mapping[int, int]) -> Element:
    if name in _LAYER_STYLES:
        return build_ramp_style(_LAYER_STYLES[name])
    if name == ATTRIBUTE_TABLE:
        return _build_attribute_table(classes, pixels)
    return build_class_style(classes) if name == _STYLE else build_polygon_style("class", classes)


def _build_attribute_table(classes: Sequence[LabelClass], pixels: Mapping[int, int]) -> Element:
    """Return GDAL's side-car (PAM) with a raster attribute table of band 1: a row for each class."""
    rows = [(label.value, pixels[label.value], label.name, *label.color, 255) for label in classes]
    return _build_table(_COLUMNS, [[str(value) for value in row] for row in rows])


def _build_table(columns: Iterable[Sequence[str]], rows: Iterable[Sequence[str]]) -> Element:
    dataset = Element("PAMDataset")
    band = SubElement(dataset, "PAMRasterBand", band="1")
    table = SubElement(band, _TABLE_TAG, tableType="thematic")
    for index, texts in enumerate(columns):
        field = SubElement(table, "FieldDefn", index=str(index))
        for tag, text in zip(_FIELD_TAGS, texts, strict=True):
            SubElement(field, tag).text = text
    for index, values in enumerate(rows):
        row = SubElement(table, "Row", index=str(index))
        for value in values:
            SubElement(row, "F").text = value
    return dataset


def normalize_attribute_table(document: bytes) -> bytes:
    """Return GDAL's side-car of the labels as a run writes it, without what programs add that open the raster.

    GDAL and QGIS keep statistics and histograms there, and write the file anew. The attribute table stays what it was.

    Args:
        document: content of the file.

    Returns:
        The content of a file with its table alone; ``document`` if that is no such file.
    """
    try:
        table = fromstring(document).find(f"PAMRasterBand[@band='1']/{_TABLE_TAG}")
    except ParseError:
        return document
    if table is None:
        return document
    columns = [[field.findtext(tag, "") for tag in _FIELD_TAGS] for field in table.findall("FieldDefn")]
    rows = [[cell.text or "" for cell in row.findall("F")] for row in table.findall("Row")]
    return _encode_document(_build_table(columns, rows))
