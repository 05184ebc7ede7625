"""Where scenes meet models: segmentation as one function, as Prefect flows and as a command line.

In a notebook, ``open_result(DIR, scene)`` opens the results of a scene as an xarray Dataset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seamline.pipeline.results.dataset import open_result as open_result

__all__ = ["open_result"]


def __getattr__(name: str) -> Any:
    if name == "open_result":  # imported on first use, since it imports xarray and dask, which start slowly
        from seamline.pipeline.results.dataset import open_result

        return open_result
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
