"""The xarray accessor ``dataset.seamline``: classes, counts, pictures and the notebook view of a scene's results.

It is an accessor, as rioxarray's ``.rio`` is, because xarray's operations return plain Datasets and would lose a
subclass.
"""

from __future__ import annotations

import io
import math
from base64 import b64encode
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from seamline.pipeline.common.classes import format_percent
from seamline.pipeline.products.zarr_store import LABELS_ARRAY
from seamline.pipeline.report.formatting import format_area

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_THUMBNAIL_SIZE = 480
"""Pixels of a picture's longer side."""
_MAX_LABELS_READ = 25_000_000
"""Pixels of labels that the notebook view reads to draw a picture, at most."""


class SegmentationAccessor:
    """Methods of a Dataset that ``open_result`` returned, or of a selection of it."""

    def __init__(self, dataset: xr.Dataset) -> None:
        if LABELS_ARRAY not in dataset or "class_value" not in dataset.coords:
            raise AttributeError("not a Dataset that open_result yields: no segmentation, or no class_value")
        self._dataset = dataset

    @property
    def classes(self) -> dict[int, str]:
        """Name of the class of each label."""
        return dict(zip(self._values.tolist(), self._names, strict=True))

    @property
    def colors(self) -> dict[str, str]:
        """Colour (#rrggbb) of each class, by its name."""
        return dict(zip(self._names, np.atleast_1d(self._dataset["class_color"].values).tolist(), strict=True))

    def table(self) -> pd.DataFrame:
        """Return label, colour, share and area (m²) of each class in the whole scene, as the run counted them."""
        columns = {"value": "class_value", "color": "class_color", "share": "class_share", "area_m2": "class_area"}
        rows = {name: np.atleast_1d(self._dataset[key].values) for name, key in columns.items()}
        return pd.DataFrame(rows, index=pd.Index(self._names, name="class"))

    def count(self) -> pd.Series[int]:
        """Count the pixels of each class in this Dataset; reads all of its labels."""
        labels = self._dataset[LABELS_ARRAY]
        # One compute() for all classes, so that the pixels are read once.
        counts = xr.concat([(labels == value).sum() for value in self._values], "class").compute()
        return pd.Series(counts.values, index=pd.Index(self._names, name="class"), name="pixels")

    def picture(self, size: int = _THUMBNAIL_SIZE) -> NDArray[np.uint8]:
        """Draw every n-th label in its class's colour.

        Returns:
            RGBA (height, width, 4), at most ``size`` pixels a side, transparent where there is no data.
        """
        labels = self._dataset[LABELS_ARRAY]
        step = max(1, math.ceil(max(labels.shape) / size))
        table = np.zeros((256, 4), np.uint8)
        for value, color in zip(self._values, self.colors.values(), strict=True):
            table[value] = (*bytes.fromhex(color[1:]), 255)
        picture: NDArray[np.uint8] = table[labels[::step, ::step].values]
        return picture

    def plot(self, axes: Axes | None = None) -> Axes:
        """Plot the labels with a legend, on ``axes`` or on new ones, and return the axes."""
        from matplotlib.patches import Patch  # imported here because matplotlib starts slowly

        if axes is None:
            from matplotlib import pyplot  # imported here: it changes matplotlib's global state

            axes = pyplot.figure(layout="constrained").add_subplot()
        labels = self._dataset[LABELS_ARRAY]
        height, width = labels.shape
        extent = (0.0, float(width), float(height), 0.0)  # left, right, bottom, top
        if {"x", "y"} <= set(labels.coords) and min(labels.shape) > 1:
            x, y = labels["x"].values, labels["y"].values
            half_x, half_y = (x[-1] - x[0]) / (width - 1) / 2, (y[-1] - y[0]) / (height - 1) / 2
            extent = (x[0] - half_x, x[-1] + half_x, y[-1] + half_y, y[0] - half_y)
        axes.imshow(self.picture(1000), extent=extent, interpolation="nearest")
        handles = [Patch(facecolor=color, edgecolor="#a9b1bb", lw=0.5) for color in self.colors.values()]
        legend = axes.legend(handles, self._names, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a "$" in a name is no formula
        axes.set_title(str(self._dataset.attrs.get("scene", "")), parse_math=False)
        return axes

    def __repr__(self) -> str:
        rows = [f"    {name:<24} {format_percent(share):>8}" for name, share in self.table()["share"].items()]
        return "\n".join([f"{self._title}, classes of the whole scene:", *rows, repr(self._dataset)])

    def _repr_html_(self) -> str:
        environment = Environment(
            loader=PackageLoader("seamline.pipeline.results"), autoescape=True, undefined=StrictUndefined
        )
        attributes, table = self._dataset.attrs, self.table()
        return environment.get_template("dataset.html").render(
            title=self._title,
            about=" · ".join(f"{key} {attributes[key]}" for key in ("datetime", "model") if key in attributes),
            classes=[
                {
                    "name": name,
                    "color": row.color,
                    "share": format_percent(row.share),
                    "area": _format_area(row.area_m2),
                }
                for name, row in zip(table.index, table.itertuples(), strict=True)
            ],
            thumbnail=self._thumbnail,
            standard=self._dataset._repr_html_(),
        )

    @property
    def _names(self) -> list[str]:
        return [str(name) for name in np.atleast_1d(self._dataset["class"].values)]

    @property
    def _values(self) -> NDArray[np.uint8]:
        return np.atleast_1d(self._dataset["class_value"].values)

    @property
    def _title(self) -> str:
        return str(self._dataset.attrs.get("title", "Segmentation"))

    @cached_property
    def _thumbnail(self) -> str:
        """Data URI of a picture, or "".

        Of the whole scene it is the run's preview, otherwise it is drawn from the labels unless they are too many.
        """
        labels, attributes = self._dataset[LABELS_ARRAY], self._dataset.attrs
        preview = Path(str(attributes.get("folder", ""))) / "preview.png"
        if list(labels.shape) == list(attributes.get("shape", ())) and preview.is_file():
            with Image.open(preview) as picture:
                picture.thumbnail((2 * _THUMBNAIL_SIZE, 2 * _THUMBNAIL_SIZE))
                return _encode_data_uri(picture)
        if labels.ndim != 2 or not 0 < labels.size <= _MAX_LABELS_READ:
            return ""
        return _encode_data_uri(Image.fromarray(self.picture()))


def register_accessor() -> None:
    """Register ``.seamline`` on xarray's Dataset, once in a process."""
    if getattr(xr.Dataset, "seamline", None) is None:
        xr.register_dataset_accessor("seamline")(SegmentationAccessor)  # type: ignore[no-untyped-call]


def _format_area(square_metres: Any) -> str:
    return format_area(None if math.isnan(square_metres) else float(square_metres))


def _encode_data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
