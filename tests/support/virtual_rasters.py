"""VRTs that the tests write, band by band."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

EDGE = 20
"""Pixels along each side."""
_HEAD = """<VRTDataset rasterXSize="{0}" rasterYSize="{0}"><SRS>EPSG:32620</SRS>
<GeoTransform>500000, 30, 0, 6000000, 0, -30</GeoTransform>"""


def make_source(name: str | Path, index: int = 1) -> str:
    """The element of a source, at the folder of the VRT unless the name is absolute."""
    relative = 0 if Path(name).is_absolute() else 1
    return (
        f'<SimpleSource><SourceFilename relativeToVRT="{relative}">{name}</SourceFilename>'
        f"<SourceBand>{index}</SourceBand></SimpleSource>"
    )


def make_band(index: int, name: str, content: str, dtype: str = "UInt16", kind: str = "") -> str:
    """The element of a band; ``kind`` is Derived, Raw or nothing."""
    subclass = f' subClass="VRT{kind}RasterBand"' if kind else ""
    return (
        f'<VRTRasterBand dataType="{dtype}" band="{index}"{subclass}>'
        f"<Description>{name}</Description><Scale>0.0001</Scale>{content}</VRTRasterBand>"
    )


def make_mask(name: str) -> str:
    """The element of a mask that lies in another file."""
    return f'<MaskBand><VRTRasterBand dataType="Byte">{make_source(name)}</VRTRasterBand></MaskBand>'


def make_vrt(bands: Sequence[str], edge: int = EDGE) -> str:
    return f"{_HEAD.format(edge)}{''.join(bands)}</VRTDataset>"
