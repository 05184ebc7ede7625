"""What lies beside the COG so that class names are seen where the TIFF cannot carry them.

``segmentation.qml`` is the layer style that QGIS finds by its name; ``segmentation.tif.aux.xml`` is GDAL's, with a
raster attribute table, which gdalinfo, ArcGIS and newer QGIS read. The statistics are in the TIFF itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from pipeline.classes import LabelClass
from pipeline.files import replacing

__all__ = ["have_sidecars", "remove_sidecars", "write_sidecars"]

# Of GDAL's GDALRATFieldType and GDALRATFieldUsage (gdal.h). Counts are reals: GDAL's integers have 32 bits.
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


def write_sidecars(cog: Path, classes: Sequence[LabelClass], pixels: Mapping[int, int]) -> None:
    """Write the style and the attribute table of ``cog``; each appears whole or not at all.

    ``pixels`` has the number of pixels of each class by its value. Names are printable text.
    """
    for path, document in zip(_paths(cog), (_style(classes), _attribute_table(classes, pixels)), strict=True):
        indent(document)
        with replacing(path) as part:
            # Without an XML declaration: GDAL would find no table behind one.
            part.write_text(tostring(document, encoding="unicode") + "\n", encoding="utf-8")


def have_sidecars(cog: Path) -> bool:
    """Whether everything that belongs beside ``cog`` is there."""
    return all(path.exists() for path in _paths(cog))


def remove_sidecars(cog: Path) -> None:
    """Remove what lies beside ``cog``, where it is."""
    for path in _paths(cog):
        path.unlink(missing_ok=True)


def _paths(cog: Path) -> tuple[Path, Path]:
    return cog.with_suffix(".qml"), cog.with_name(f"{cog.name}.aux.xml")


def _style(classes: Sequence[LabelClass]) -> Element:
    """A QGIS layer style: band 1 through a palette, an entry of value, colour and label for each class."""
    qgis = Element("qgis", version="3.22.0")
    renderer = SubElement(SubElement(qgis, "pipe"), "rasterrenderer", type="paletted", band="1", opacity="1")
    palette = SubElement(renderer, "colorPalette")
    for label in classes:
        SubElement(palette, "paletteEntry", value=str(label.value), color=label.hex, alpha="255", label=label.name)
    return qgis


def _attribute_table(classes: Sequence[LabelClass], pixels: Mapping[int, int]) -> Element:
    """GDAL's side-car (PAM) with a raster attribute table of band 1, a row for each class."""
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
