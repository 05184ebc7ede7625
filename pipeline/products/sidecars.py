"""Side-car files with the names and colours of classes, for raster and vector files that cannot hold them.

``<name>.qml`` is the layer style that QGIS finds by its name. ``segmentation.tif.aux.xml`` is GDAL's: a raster
attribute table, which gdalinfo, ArcGIS and newer QGIS read. The statistics are in the TIFF itself. Each file belongs to
an output of a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.products.layers import LAYERS
from seamline.pipeline.products.styles import build_class_style, build_polygon_style, build_ramp_style
from seamline.pipeline.storage.atomic import atomic_write

_STYLE, _TABLE = "segmentation.qml", "segmentation.tif.aux.xml"
_LAYER_STYLES = {f"{layer.name}.qml": layer for layer in LAYERS.values()}
_POLYGON_STYLE = "polygons.qml"
SIDECARS: Mapping[str, tuple[str, ...]] = {
    "cog": (_STYLE, _TABLE),
    **{layer.name: (name,) for name, layer in _LAYER_STYLES.items()},
    "polygons": (_POLYGON_STYLE,),
}
"""Names of the side-car files of each output."""

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
        document = _build_document(name, classes, pixels)
        indent(document)
        with atomic_write(folder / name) as part:
            # Without an XML declaration, behind which GDAL would find no table.
            part.write_text(tostring(document, encoding="unicode") + "\n", encoding="utf-8")


def list_sidecars(outputs: Iterable[str]) -> list[str]:
    """Return the names of all side-car files of the outputs."""
    return [name for output in outputs for name in SIDECARS.get(output, ())]


def _build_document(name: str, classes: Sequence[LabelClass], pixels: Mapping[int, int]) -> Element:
    if name in _LAYER_STYLES:
        return build_ramp_style(_LAYER_STYLES[name])
    if name == _TABLE:
        return _build_attribute_table(classes, pixels)
    return build_class_style(classes) if name == _STYLE else build_polygon_style("class", classes)


def _build_attribute_table(classes: Sequence[LabelClass], pixels: Mapping[int, int]) -> Element:
    """Return GDAL's side-car (PAM) with a raster attribute table of band 1: a row for each class."""
    dataset = Element("PAMDataset")
    band = SubElement(dataset, "PAMRasterBand", band="1")
    table = SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for index, (name, kind, usage) in enumerate(_COLUMNS):
        field = SubElement(table, "FieldDefn", index=str(index))
        for tag, text in (("Name", name), ("Type", kind), ("Usage", usage)):
            SubElement(field, tag).text = text
    for index, label in enumerate(classes):
        row = SubElement(table, "Row", index=str(index))
        for value in (label.value, pixels[label.value], label.name, *label.color, 255):
            SubElement(row, "F").text = str(value)
    return dataset
