"""Layer styles of QGIS: classes in their colours and names, layers by a colour ramp.

Written for QGIS 3.22, as their first element says. Later versions read them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement

from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.products.layers import Layer

_RAMP_STEPS = 16
"""Number of steps of a ramp; QGIS interpolates between their colours."""
_OUTLINE = {
    "outline_style": "solid",
    "outline_color": "50,50,50,255",
    "outline_width": "0.1",
    "outline_width_unit": "MM",
}


def build_class_style(classes: Sequence[LabelClass]) -> Element:
    """Return the style of a raster of labels: a palette with value, colour and name of each class."""
    document = _create_document()
    renderer = _add_renderer(document, "paletted")
    palette = SubElement(renderer, "colorPalette")
    for label in classes:
        SubElement(palette, "paletteEntry", value=str(label.value), color=label.hex, alpha="255", label=label.name)
    return document


def build_ramp_style(layer: Layer) -> Element:
    """Return the style of a layer's raster: band 1, decoded by the file's scale, through the layer's colour map.

    QGIS does not draw nodata, which the file declares.
    """
    import matplotlib  # takes a while, and only runs with layers need it
    from matplotlib.colors import to_hex

    document = _create_document()
    maximum = f"{layer.brightest:g}"
    renderer = _add_renderer(document, "singlebandpseudocolor", classificationMin="0", classificationMax=maximum)
    shader = SubElement(
        SubElement(renderer, "rastershader"),
        "colorrampshader",
        colorRampType="INTERPOLATED",
        classificationMode="1",
        clip="0",
        minimumValue="0",
        maximumValue=maximum,
    )
    colors = matplotlib.colormaps[layer.colormap]
    for step in range(_RAMP_STEPS + 1):
        part = step / _RAMP_STEPS
        value, color = part * layer.brightest, to_hex(colors(part))
        SubElement(shader, "item", value=f"{value:g}", label=f"{value:.2f}", color=color, alpha="255")
    return document


def build_polygon_style(attribute: str, classes: Sequence[LabelClass]) -> Element:
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
