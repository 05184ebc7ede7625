"""Extras: the packages that only some commands need, and the error where they are missing.

``pip install 'seamline[serve]'`` installs those of the extra ``serve``. Nothing that segments, plans, inspects or
verifies imports them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from seamline.pipeline.common.errors import InputError

EXTRAS = {
    "flows": ("prefect",),
    "onnx": ("onnx", "onnxruntime"),
    "openvino": ("onnx", "openvino"),
    "pools": ("prefect", "prefect_docker", "prefect_kubernetes"),
    "query": ("duckdb",),
    "s3": ("obstore",),
    "serve": ("maplibre", "morecantile", "pyogrio", "rio_tiler", "titiler", "uvicorn"),
    "slurm": ("dask_jobqueue",),
    "smp": ("segmentation_models_pytorch",),
    "train": ("pyogrio", "scipy"),
    "vectors": ("pmtiles", "pyogrio", "scipy"),
}
"""Extra → modules that its packages are imported as."""


class MissingExtraError(InputError, ImportError):
    """Something was asked for that needs an extra which is not installed; the message says what to type."""


def list_missing_modules(extra: str) -> list[str]:
    """Return the modules of an extra that are not installed here."""
    return [module for module in EXTRAS[extra] if find_spec(module) is None]


def require_extras(what: str, *extras: str) -> None:
    """Refuse what needs extras of which one is not installed.

    Args:
        what: What needs them, as a user knows it.
        extras: The extras.

    Raises:
        MissingExtraError: One is missing, or a part of it.
    """
    missing = {extra: modules for extra in extras if (modules := list_missing_modules(extra))}
    if missing:
        raise MissingExtraError(
            what,
            got=f"no {', '.join(dict.fromkeys(module for modules in missing.values() for module in modules))} here",
            expected=f"the packages of seamline[{','.join(missing)}]",
            fix=f"pip install 'seamline[{','.join(missing)}]'",
        )


@contextmanager
def explain_missing_extra(what: str, extra: str) -> Iterator[None]:
    """Raise ``MissingExtraError`` in place of Python's own error where a module imports an extra.

    Args:
        what: What needs the extra, as a user knows it.
        extra: The extra.
    """
    try:
        yield
    except ModuleNotFoundError:
        require_extras(what, extra)
        raise
