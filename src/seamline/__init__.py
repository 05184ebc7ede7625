"""Seamline: seamless semantic segmentation of satellite and aerial scenes of any size.

The packages stand beside this folder in the repository and are linked into it, so that they are imported as
``seamline.pipeline``, ``seamline.flows`` and ``seamline.model``.
"""

import os

# OpenMP takes a number for each level of nesting, such as "4,2". Some libraries that are imported later take one alone.
if "OMP_NUM_THREADS" in os.environ:
    _threads = os.environ.pop("OMP_NUM_THREADS").partition(",")[0].strip()
    if _threads.isdecimal() and int(_threads):
        os.environ["OMP_NUM_THREADS"] = _threads
