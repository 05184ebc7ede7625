"""Seamline: seamless semantic segmentation of satellite and aerial scenes of any size.

The packages stand beside this folder in the repository and are linked into it, so that they are imported as
``seamline.pipeline``, ``seamline.flows`` and ``seamline.model``.
"""

import os

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def _repair_environment() -> None:
    """Change variables that would make libraries fail which are imported or started later, here and in children.

    ONNX Runtime reports to its makers over the network unless it is told not to; its function for that comes too late.

    OpenMP takes a number of threads for each level of nesting, such as "4,2"; other libraries take one number alone. A
    proxy cannot reach Prefect's server on this machine.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    threads = os.environ.pop("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if threads.isdecimal() and int(threads):
        os.environ["OMP_NUM_THREADS"] = threads
    if any(os.environ.get(name) or os.environ.get(name.lower()) for name in _PROXIES):
        known = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").split(",")
        direct = dict.fromkeys([*filter(None, map(str.strip, known)), *_LOOPBACK])
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(direct)


_repair_environment()
