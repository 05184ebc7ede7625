"""Which rasters stand beside the labels of a scene or of a map, how their numbers are encoded, and how each is shown.

Value = digital number × scale; the largest number that the type holds is nodata.

Those of scenes are uint8, ``NODATA`` where there is no label; a run writes those that are wanted:

- ``probabilities``: one raster for each class. Maps have it, too.
- ``confidence``: the margin between the two most probable classes.
- ``disagreement``: how much the windows that vote on a pixel differed before they were blended.

Those of maps, which are made of many scenes:

- ``agreement``: uint8, the share of the observations of a pixel whose own label is that of the map.
- ``observations``: uint16, how many scenes have a valid label at a pixel; nodata where none has.
- ``last_date``: uint16, the day of the last of them.

``layer_values.py`` computes those of scenes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Literal

from seamline.pipeline.common.band_statistics import BandStatistics

LAYER_SCALE = 0.004
"""Value of one digital number of a share: 250 stands for 1."""
EPOCH = date(1970, 1, 1)
"""The day that the number 0 of a layer of days stands for."""
DAYS_DECODING = {"units": f"days since {EPOCH}", "calendar": "proleptic_gregorian"}
"""Attributes by which CF readers decode days to dates."""


@dataclass(frozen=True)
class Layer:
    """A raster beside the labels.

    Attributes:
        name: name of its array and of its file.
        title: title for people.
        colormap: colour map of matplotlib that shows it.
        per_class: whether it has one raster for each class.
        of_scenes: whether ``segment --outputs`` may ask for it; otherwise only maps have it.
        dtype: type of its digital numbers.
        scale: value of one digital number.
        unit: unit of its values, as CF writes it.
        overview: what a pixel of an overview has of the valid ones of four: their average, or the largest.
        darkest: value that gets the first colour of the colour map. ``None``: the smallest one in the file.
        brightest: value that gets the last colour, as all larger ones do. ``None``: the largest one in the file.
    """

    name: str
    title: str
    colormap: str
    per_class: bool = False
    of_scenes: bool = True
    dtype: Literal["uint8", "uint16"] = "uint8"
    scale: float = LAYER_SCALE
    unit: str = "1"
    overview: Literal["average", "maximum"] = "average"
    darkest: float | None = 0.0
    brightest: float | None = 1.0

    def __post_init__(self) -> None:
        if self.is_date and self.scale != 1:
            raise ValueError(f"layer {self.name}: got a scale of {self.scale}, expected 1 for days")

    @property
    def nodata(self) -> int:
        """Digital number that stands for no data."""
        return get_nodata(self.dtype)

    @property
    def is_date(self) -> bool:
        """Whether its values are days since ``EPOCH``."""
        return self.unit == DAYS_DECODING["units"]

    def shape(self, classes: int, height: int, width: int) -> tuple[int, ...]:
        """Return the shape of the layer's array.

        Args:
            classes: number of classes.
            height: rows of the labels.
            width: columns of the labels.

        Returns:
            (classes, height, width) or (height, width).
        """
        return (classes, height, width) if self.per_class else (height, width)

    def decode(self, number: float) -> float | int | str | None:
        """Return what a digital number means, for people: a value, a day in ISO 8601, or None for nodata."""
        if number == self.nodata:
            return None
        if self.is_date:
            return (EPOCH + timedelta(round(number))).isoformat()
        return round(number) if self.scale == 1 else round(number * self.scale, 3)

    def find_range(self, statistics: BandStatistics | None) -> tuple[float, float]:
        """Return the values that get the first and the last colour.

        Args:
            statistics: statistics of the file's digital numbers. ``None``: it has none, since all of it is nodata.
        """
        low, high = self.darkest, self.brightest
        if low is None:
            low = statistics.minimum * self.scale if statistics else 0.0
        if high is None:
            high = statistics.maximum * self.scale if statistics else 0.0
        return low, max(high, low + self.scale)


def get_nodata(dtype: object) -> int:
    """Return the digital number that stands for no data in a raster of a type (a name or of numpy): the largest."""
    return {"uint8": 2**8 - 1, "uint16": 2**16 - 1}[str(dtype)]


LAYERS = {
    layer.name: layer
    for layer in (
        Layer("probabilities", "probability of each class", "viridis", per_class=True),
        Layer("confidence", "margin between the two most probable classes", "viridis"),
        # Two windows of equal weight that are certain of different classes have 0.71.
        Layer("disagreement", "how far overlapping windows differed before they were blended", "magma", brightest=0.25),
        Layer("agreement", "share of the observations that have the label of the map", "viridis", of_scenes=False),
        Layer(
            "observations",
            "number of valid observations",
            "viridis",
            of_scenes=False,
            dtype="uint16",
            scale=1,
            brightest=None,
        ),
        Layer(
            "last_date",
            "day of the last valid observation",
            "viridis",
            of_scenes=False,
            dtype="uint16",
            scale=1,
            unit=DAYS_DECODING["units"],
            overview="maximum",
            darkest=None,
            brightest=None,
        ),
    )
}
"""All layers by name."""
SCENE_LAYERS = tuple(layer.name for layer in LAYERS.values() if layer.of_scenes)
"""Names of those that a run on a scene may write."""
PROBABILITIES, CONFIDENCE, DISAGREEMENT = "probabilities", "confidence", "disagreement"


@dataclass(frozen=True)
class RasterContent:
    """What a COG shows and what its bands mean, as far as the file says so.

    Attributes:
        array: name of the array in a Zarr store whose values it has.
        bands: name of each band.
        colors: colour table, digital number to (red, green, blue, alpha), 0 to 255. ``None``: no colour table.
        scale: value = digital number × scale.
        unit: unit of the values, 1 of numbers and classes.
        dtype: type of the digital numbers; the largest one is nodata.
        tags: metadata of the file.
    """

    array: str
    bands: tuple[str, ...]
    colors: Mapping[int, tuple[int, int, int, int]] | None = None
    scale: float = 1.0
    unit: str = "1"
    dtype: str = "uint8"
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def nodata(self) -> int:
        """Digital number that stands for no data."""
        return get_nodata(self.dtype)
