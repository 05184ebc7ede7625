"""Defaults for what the author of a model left out: its name, wavelengths of its bands, colours of its classes."""

from __future__ import annotations

import re

WAVELENGTHS = {
    "coastal": 0.443,
    "blue": 0.482,
    "green": 0.561,
    "red": 0.655,
    "rededge071": 0.705,
    "rededge075": 0.74,
    "rededge078": 0.783,
    "nir": 0.842,
    "nir08": 0.865,
    "nir09": 0.945,
    "cirrus": 1.375,
    "swir16": 1.61,
    "swir22": 2.2,
}
"""Centres of STAC's common bands in µm, precise enough to tell two near infrared bands of a sensor apart."""

_PALETTE = (
    *("#8fae5d", "#2b6fb3", "#c8553d", "#f2c14e", "#5b4a72"),
    *("#7fc8a9", "#a05195", "#6b705c", "#f28482", "#3d405b"),
)


def get_default_color(label: int) -> str:
    """Return the colour (#rrggbb) of a class without one; the colours repeat after ten labels."""
    return _PALETTE[label % len(_PALETTE)]


def make_model_name(text: str, default: str) -> str:
    """Make a valid model name of a file or folder name.

    Args:
        text: Any text.
        default: Name to use if no letter or digit is left of the text.

    Returns:
        Lower-case letters and digits, with hyphens between them.
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or default
