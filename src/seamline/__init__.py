"""Seamline: seamless semantic segmentation of satellite and aerial scenes of any size.

The packages stand beside this folder in the repository and are linked into it, so that they are imported as
``seamline.pipeline``, ``seamline.flows`` and ``seamline.model``.
"""
