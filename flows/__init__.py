"""Where scenes meet models: the segmentation as one function, as a Prefect flow and as a command line.

In a notebook ``flows.open_result(DIR, scene)`` is what a run left, as an xarray Dataset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seamline.pipeline.results.dataset import open_result as open_result

__all__ = ["open_result"]


def __getattr__(name: str) -> Any:
    if name == "open_result":  # with xarray and dask, which the command line does not wait for
        from seamline.pipeline.results.dataset import open_result

        return open_result
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
