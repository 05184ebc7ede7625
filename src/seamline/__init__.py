"""Seamline: seamless semantic segmentation of satellite and aerial scenes of any size.

The packages stand beside this folder in the repository and are linked into it, so that they are imported as
``seamline.pipeline``, ``seamline.flows`` and ``seamline.model``. Scripts and notebooks need ``import seamline`` alone:

    result = seamline.segment("scene.tif", "land-water-cloud", "results")
    dataset = seamline.open_result("results", result.folder.name)
    labels = seamline.predict(array, "land-water-cloud").segmentation
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seamline.errors import SeamlineError
    from seamline.flows.api.arrays import predict
    from seamline.flows.api.collecting import collect
    from seamline.flows.api.evaluating import evaluate
    from seamline.flows.api.maps import change, mosaic, zones
    from seamline.flows.api.models import load_model, save_model
    from seamline.flows.api.segmenting import Progress, open_scene, plan, segment
    from seamline.flows.maps.observer import MapResult
    from seamline.flows.maps.options import MosaicOptions
    from seamline.flows.runs.observer import RunResult
    from seamline.flows.runs.planning import Plan
    from seamline.flows.settings.model_folder import Model
    from seamline.flows.settings.options import SegmentOptions
    from seamline.model.spec.errors import ModelError
    from seamline.pipeline.analysis.write_change import Change
    from seamline.pipeline.common.errors import InputError, RunError
    from seamline.pipeline.results.dataset import open_result
    from seamline.pipeline.scenes.scene import Scene

_MODULES = {
    "Change": "pipeline.analysis.write_change",
    "InputError": "pipeline.common.errors",
    "MapResult": "flows.maps.observer",
    "Model": "flows.settings.model_folder",
    "ModelError": "model.spec.errors",
    "MosaicOptions": "flows.maps.options",
    "Plan": "flows.runs.planning",
    "Progress": "flows.api.segmenting",
    "RunError": "pipeline.common.errors",
    "RunResult": "flows.runs.observer",
    "Scene": "pipeline.scenes.scene",
    "SeamlineError": "errors",
    "SegmentOptions": "flows.settings.options",
    "change": "flows.api.maps",
    "collect": "flows.api.collecting",
    "evaluate": "flows.api.evaluating",
    "load_model": "flows.api.models",
    "mosaic": "flows.api.maps",
    "open_result": "pipeline.results.dataset",
    "open_scene": "flows.api.segmenting",
    "plan": "flows.api.segmenting",
    "predict": "flows.api.arrays",
    "save_model": "flows.api.models",
    "segment": "flows.api.segmenting",
    "zones": "flows.api.maps",
}
"""Where each name comes from. It is imported on first use, since what is behind it takes seconds to import."""

__all__ = [
    "Change",
    "InputError",
    "MapResult",
    "Model",
    "ModelError",
    "MosaicOptions",
    "Plan",
    "Progress",
    "RunError",
    "RunResult",
    "Scene",
    "SeamlineError",
    "SegmentOptions",
    "change",
    "collect",
    "evaluate",
    "load_model",
    "mosaic",
    "open_result",
    "open_scene",
    "plan",
    "predict",
    "save_model",
    "segment",
    "zones",
]

_DEFAULTS = {
    "ORT_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
}
"""Environment variables that stay where the user has set them. Nothing is reported to the makers of libraries. Prefect
waits 20 s for the server that it starts for a flow in a script, whose first start takes longer on a busy machine."""

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def _repair_environment() -> None:
    """Change variables that would make libraries fail which are imported or started later, here and in children.

    OpenMP takes a number of threads for each level of nesting, such as "4,2"; other libraries take one number alone. A
    proxy cannot reach Prefect's server on this machine.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    threads = os.environ.pop("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if threads.isdecimal() and int(threads):
        os.environ["OMP_NUM_THREADS"] = threads
    if any(os.environ.get(name) or os.environ.get(name.lower()) for name in _PROXIES):
        known = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").split(",")
        direct = dict.fromkeys([*filter(None, map(str.strip, known)), *_LOOPBACK])
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(direct)


_repair_environment()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module
    from inspect import isfunction

    found = getattr(import_module(f"{__name__}.{find_module(name)}"), name)
    if isfunction(found):
        from seamline.flows.api.messages import name_arguments

        found = name_arguments(found)
    globals()[name] = found
    return found


def find_module(name: str) -> str:
    """Return the module below this package in which a name of ``__all__`` is defined."""
    return _MODULES[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
