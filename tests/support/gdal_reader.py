"""What a GDAL that is only a library, without its Python, makes of a raster; run in a process of its own.

``gdal_reader.py LIBRARY PATH…`` prints GDAL's version and, of each raster, what gdalinfo says and the pixels of its
first band, as bytes. The declarations are those of gdal.h and gdal_utils.h.
"""

from __future__ import annotations

import base64
import ctypes
import json
import sys
from ctypes import POINTER, c_char_p, c_int, c_uint, c_void_p
from typing import Any

RASTER, READ, BYTE = 0x02, 0, 1


def declared(library: str) -> ctypes.CDLL:
    gdal = ctypes.CDLL(library)
    for name, result, arguments in (
        ("GDALVersionInfo", c_char_p, [c_char_p]),
        ("GDALOpenEx", c_void_p, [c_char_p, c_uint, c_void_p, c_void_p, c_void_p]),
        ("GDALInfoOptionsNew", c_void_p, [POINTER(c_char_p), c_void_p]),
        ("GDALInfo", c_void_p, [c_void_p, c_void_p]),
        ("GDALGetRasterBand", c_void_p, [c_void_p, c_int]),
        ("GDALRasterIO", c_int, [c_void_p, *[c_int] * 5, c_void_p, *[c_int] * 5]),
        ("CPLGetLastErrorMsg", c_char_p, []),
    ):
        function = getattr(gdal, name)
        function.restype, function.argtypes = result, arguments
    gdal.GDALAllRegister()
    return gdal


def read(gdal: ctypes.CDLL, path: str) -> dict[str, Any]:
    dataset = gdal.GDALOpenEx(path.encode(), RASTER, None, None, None)
    if not dataset:
        raise OSError(gdal.CPLGetLastErrorMsg().decode())
    options = gdal.GDALInfoOptionsNew((c_char_p * 2)(b"-json", None), None)
    info: dict[str, Any] = json.loads(ctypes.string_at(gdal.GDALInfo(dataset, options)))
    width, height = info["size"]
    pixels = ctypes.create_string_buffer(width * height)
    band = gdal.GDALGetRasterBand(dataset, 1)
    if gdal.GDALRasterIO(band, READ, 0, 0, width, height, pixels, width, height, BYTE, 0, 0):
        raise OSError(gdal.CPLGetLastErrorMsg().decode())
    return {"info": info, "pixels": base64.b64encode(pixels.raw).decode()}


if __name__ == "__main__":
    library = declared(sys.argv[1])
    version = library.GDALVersionInfo(b"RELEASE_NAME").decode()
    print(json.dumps({"version": version, "rasters": [read(library, path) for path in sys.argv[2:]]}))
