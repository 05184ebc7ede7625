"""Side-car files with the names and colours of classes, for raster and vector files that cannot hold them.

``<name>.qml`` is the layer style that QGIS finds by its name: classes in their colours and names, layers by a colour
ramp. It is written for QGIS 3.22, as its first element says; later versions read it too. ``segmentation.tif.aux.xml``
is GDAL's: a raster attribute table, which gdalinfo, ArcGIS and newer QGIS read. The statistics are in the TIFF itself.
Each file belongs to an output of a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol
from xml.etree.ElementTree import Element, ParseError, SubElement, fromstring, indent, tostring

from seamline.pipeline.common.band_statistics import BandStatistics
from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.products.cog import read_statistics
from seamline.pipeline.products.layers import LAYERS, Layer
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

_RAMP_STEPS = 16
"""Number of steps of a ramp; QGIS interpolates between their colours."""
_OUTLINE = {
    "outline_style": "solid",
    "outline_color": "50,50,50,255",
    "outline_width": "0.1",
    "outline_width_unit": "MM",
}


class LegendEntry(Protocol):
    """A value of a raster, what it stands for, and its colour: red, green and blue, 0 to 255."""

    @property
    def value(self) -> int: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def color(self) -> tuple[int, int, int]: ...  # noqa: D102


def write_legend(raster: Path, entries: Sequence[LegendEntry], pixels: Mapping[int, int]) -> None:
    """Write the style for QGIS and the attribute table for GDAL of a raster of codes; each appears whole or not at all.

    Args:
        raster: path of the raster.
        entries: what its values stand for.
        pixels: number of pixels of each value.
    """
    documents = {
        raster.with_suffix(".qml"): _build_class_style(entries),
        raster.with_name(f"{raster.name}.aux.xml"): _build_attribute_table(entries, pixels),
    }
    for path, document in documents.items():
        with atomic_write(path) as part:
            part.write_bytes(_encode_document(document))


def write_sidecars(
    folder: Path, outputs: Iterable[str], classes: Sequence[LabelClass], pixels: Mapping[int, int]
) -> None:
    """Write the side-car files of some outputs; each file appears whole or not at all.

    Args:
        folder: the scene's folder. The COG of a layer whose colours depend on its values is already there.
        outputs: outputs of a run, keys of ``SIDECARS``; others have no side-cars.
        classes: classes of the labels; their names are printable text.
        pixels: number of pixels of each class, by its value.
    """
    for name in list_sidecars(outputs):
        with atomic_write(folder / name) as part:
            part.write_bytes(_encode_document(_build_document(folder, name, classes, pixels)))


def list_sidecars(outputs: Iterable[str]) -> list[str]:
    """Return the names of all side-car files of the outputs."""
    return [name for output in outputs for name in SIDECARS.get(output, ())]


def _encode_document(document: Element) -> bytes:
    """Return a document as it is written: without an XML declaration, behind which GDAL would find no table."""
    indent(document)
    return (tostring(document, encoding="unicode") + "\n").encode("utf-8")


def _build_document(folder: Path, name: str, classes: Sequence[LabelClass], pixels: Mapping[int, int]) -> Element:
    if (layer := _LAYER_STYLES.get(name)) is not None:
        is_fixed = None not in (layer.darkest, layer.brightest)
        return build_ramp_style(layer, None if is_fixed else read_statistics(folder / f"{layer.name}.tif")[0])
    if name == ATTRIBUTE_TABLE:
        return _build_attribute_table(classes, pixels)
    return _build_class_style(classes) if name == _STYLE else _build_polygon_style("class", classes)


def _build_attribute_table(classes: Sequence[LegendEntry], pixels: Mapping[int, int]) -> Element:
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


def _build_class_style(classes: Sequence[LegendEntry]) -> Element:
    """Return the style of a raster of labels: a palette with value, colour and name of each class."""
    document = _create_document()
    renderer = _add_renderer(document, "paletted")
    palette = SubElement(renderer, "colorPalette")
    for label in classes:
        color = "#{:02x}{:02x}{:02x}".format(*label.color)
        SubElement(palette, "paletteEntry", value=str(label.value), color=color, alpha="255", label=label.name)
    return document


def build_ramp_style(layer: Layer, statistics: BandStatistics | None = None) -> Element:
    """Return the style of a layer's raster: band 1, decoded by the file's scale, through the layer's colour map.

    QGIS does not draw nodata, which the file declares. ``statistics`` are those of the file, which a layer without a
    range of its own needs.
    """
    import matplotlib  # takes a while, and only runs with layers need it
    from matplotlib.colors import to_hex

    low, high = layer.find_range(statistics)
    limits = {"minimum": f"{low:g}", "maximum": f"{high:g}"}
    document = _create_document()
    renderer = _add_renderer(
        document,
        "singlebandpseudocolor",
        classificationMin=limits["minimum"],
        classificationMax=limits["maximum"],
    )
    shader = SubElement(
        SubElement(renderer, "rastershader"),
        "colorrampshader",
        colorRampType="INTERPOLATED",
        classificationMode="1",
        clip="0",
        minimumValue=limits["minimum"],
        maximumValue=limits["maximum"],
    )
    colors = matplotlib.colormaps[layer.colormap]
    for step in range(_RAMP_STEPS + 1):
        part = step / _RAMP_STEPS
        value, color = low + part * (high - low), to_hex(colors(part))
        label = f"{value:.2f}" if layer.scale != 1 else str(layer.decode(value))
        SubElement(shader, "item", value=f"{value:g}", label=label, color=color, alpha="255")
    return document


def _build_polygon_style(attribute: str, classes: Sequence[LabelClass]) -> Element:
    """Return the style of polygons: filled with the colour of the class in ``attribute``, with a thin outline."""
    document = _create_document()
    renderer = SubElement(document, "renderer-v2", type="categorizedSymbol", attr=attribute)
    categories, symbols = SubElement(renderer, "categories"), SubElement(renderer, "symbols")
    for label in classes:
        value = str(label.value)
        SubElement(categories, "category", symbol=value, value=value, label=label.name, render="true")
        symbol = SubElement(symbols, "symbol", type="fill", name=value, alpha="1")
        layer = SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1", "pass": "0"})
        options = SubElement(layer, "Option", type="Map")
        for name, text in {"color": "{},{},{},255".format(*label.color), "style": "solid", **_OUTLINE}.items():
            SubElement(options, "Option", type="QString", name=name, value=text)
    return document


def _create_document() -> Element:
    return Element("qgis", version="3.22.0")


def _add_renderer(document: Element, kind: str, **limits: str) -> Element:
    """Add a renderer of band 1 to a raster style and return it."""
    attributes = {"type": kind, "band": "1", "opacity": "1", **limits}
    return SubElement(SubElement(document, "pipe"), "rasterrenderer", attributes)


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
