"""Layer styles of QGIS, which it finds by the name of a file: classes in our colours and names, layers by a ramp.

Written for QGIS 3.22 (its first element says so); later ones read them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement

import matplotlib
from matplotlib.colors import to_hex

from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.products.layers import Layer

_RAMP_STEPS = 16
"""Colours of a ramp between which QGIS interpolates."""
_OUTLINE = {
    "outline_style": "solid",
    "outline_color": "50,50,50,255",
    "outline_width": "0.1",
    "outline_width_unit": "MM",
}


def build_class_style(classes: Sequence[LabelClass]) -> Element:
    """Band 1 through a palette, an entry of value, colour and label for each class."""
    renderer = _add_renderer(qgis := _create_document(), "paletted")
    palette = SubElement(renderer, "colorPalette")
    for label in classes:
        SubElement(palette, "paletteEntry", value=str(label.value), color=label.hex, alpha="255", label=label.name)
    return qgis


def build_ramp_style(layer: Layer) -> Element:
    """Values of band 1 of a layer, after the file's scale, through its colour map.

    What has no data is not drawn: QGIS takes that from the file.
    """
    most = f"{layer.brightest:g}"
    limits = {"classificationMin": "0", "classificationMax": most}
    renderer = _add_renderer(qgis := _create_document(), "singlebandpseudocolor", **limits)
    shader = SubElement(
        SubElement(renderer, "rastershader"), "colorrampshader",
        colorRampType="INTERPOLATED", classificationMode="1", clip="0", minimumValue="0", maximumValue=most,
    )  # fmt: skip
    colors = matplotlib.colormaps[layer.colormap]
    for step in range(_RAMP_STEPS + 1):
        part = step / _RAMP_STEPS
        value, color = part * layer.brightest, to_hex(colors(part))
        SubElement(shader, "item", value=f"{value:g}", label=f"{value:.2f}", color=color, alpha="255")
    return qgis


def build_polygon_style(attribute: str, classes: Sequence[LabelClass]) -> Element:
    """Polygons by the class in ``attribute``, filled with its colour, with a thin outline."""
    renderer = SubElement(qgis := _create_document(), "renderer-v2", type="categorizedSymbol", attr=attribute)
    categories, symbols = SubElement(renderer, "categories"), SubElement(renderer, "symbols")
    for label in classes:
        value = str(label.value)
        SubElement(categories, "category", symbol=value, value=value, label=label.name, render="true")
        symbol = SubElement(symbols, "symbol", type="fill", name=value, alpha="1")
        layer = SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1", "pass": "0"})
        options = SubElement(layer, "Option", type="Map")
        for name, text in {"color": "{},{},{},255".format(*label.color), "style": "solid", **_OUTLINE}.items():
            SubElement(options, "Option", type="QString", name=name, value=text)
    return qgis


def _create_document() -> Element:
    return Element("qgis", version="3.22.0")


def _add_renderer(qgis: Element, kind: str, **limits: str) -> Element:
    look = {"type": kind, "band": "1", "opacity": "1", **limits}
    return SubElement(SubElement(qgis, "pipe"), "rasterrenderer", look)
