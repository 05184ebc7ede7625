"""What QGIS makes of results; run by the Python that has ``qgis.core``, in a process of its own.

Reads a list of requests as JSON from standard input, ``{"reader": "raster", "path": …}`` and what that reader asks for,
and prints a list of answers. Every reader is a function of its request.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from qgis.core import (
    Qgis,
    QgsApplication,
    QgsMapLayer,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsPointXY,
    QgsRaster,
    QgsRasterLayer,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QSize, Qt


def raster(request: dict[str, Any]) -> dict[str, Any]:
    """Open ``path`` as a user does, with the style that QGIS finds; identify the map ``points``; draw it to ``png``."""
    layer = QgsRasterLayer(request["path"], "results")
    provider, renderer = layer.dataProvider(), layer.renderer()
    identified = [
        provider.identify(QgsPointXY(*point), QgsRaster.IdentifyFormatValue).results().get(1)
        for point in request["points"]
    ]
    draw(layer, layer.width(), layer.height(), request["png"])
    return {
        "valid": layer.isValid(),
        "crs": layer.crs().authid(),
        "size": [layer.height(), layer.width()],
        "renderer": renderer.type(),
        "classes": [[int(entry.value), entry.label, entry.color.getRgb()] for entry in renderer.classes()],
        "identified": identified,
    }


def ramp(request: dict[str, Any]) -> dict[str, Any]:
    """Open ``path``, a layer beside the labels, with the style that QGIS finds; draw it to ``png``."""
    layer = QgsRasterLayer(request["path"], "results")
    renderer = layer.renderer()
    shader = renderer.shader().rasterShaderFunction()
    draw(layer, layer.width(), layer.height(), request["png"])
    return {
        "renderer": renderer.type(),
        "limits": [shader.minimumValue(), shader.maximumValue()],
        "colors": [[item.value, item.color.getRgb()] for item in shader.colorRampItemList()],
    }


def vector(request: dict[str, Any]) -> dict[str, Any]:
    """Open ``path`` as a user does, with the style that QGIS finds; draw it to ``png`` of ``size`` (width, height)."""
    layer = QgsVectorLayer(request["path"], "results", "ogr")
    renderer = layer.renderer()
    draw(layer, *request["size"], request["png"])
    return {
        "valid": layer.isValid(),
        "crs": layer.crs().authid(),
        "features": layer.featureCount(),
        "extent": [getattr(layer.extent(), side)() for side in ("xMinimum", "yMinimum", "xMaximum", "yMaximum")],
        "renderer": renderer.type(),
        "classes": [
            [int(category.value()), category.label(), category.symbol().color().getRgb()]
            for category in renderer.categories()
        ],
    }


def draw(layer: QgsMapLayer, width: int, height: int, png: str) -> None:
    """Draw all of a layer as a map of so many pixels, clear where it has nothing."""
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setDestinationCrs(layer.crs())
    settings.setExtent(layer.extent())
    settings.setOutputSize(QSize(width, height))
    settings.setBackgroundColor(Qt.transparent)
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    job.renderedImage().save(png)


READERS = {"raster": raster, "ramp": ramp, "vector": vector}


def main() -> None:
    application = QgsApplication([], False)
    application.initQgis()
    answers = [READERS[request["reader"]](request) for request in json.load(sys.stdin)]
    print(json.dumps({"version": Qgis.QGIS_VERSION, "answers": answers}), flush=True)
    os._exit(0)  # what QGIS frees at the end of Python it may free twice


if __name__ == "__main__":
    main()
