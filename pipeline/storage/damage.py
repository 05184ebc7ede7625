"""Which errors mean that a file of published results is damaged."""

from __future__ import annotations

import zlib

from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

READ_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    zlib.error,
    RasterioError,
    CPLE_BaseError,
)
"""Errors that readers of JSON, Zarr and COG raise on damaged bytes."""
