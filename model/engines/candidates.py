"""Which settings of a network are worth a trial on this machine: engines, precisions, layouts, threads and batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from seamline.model.engines.engines import check_engine, is_installed, list_engines, list_precisions
from seamline.model.engines.torch_engine import has_onednn
from seamline.model.networks.onnx_graphs import not_installed_error
from seamline.model.spec.config import Engine, EngineRequest, EngineSettings, Program, UNetConfig
from seamline.model.spec.errors import ModelError


def choose_plain_settings(network: UNetConfig | Program, request: EngineRequest, threads: int) -> EngineSettings:
    """Return the plainest way to run a network within the user's request: float32, in the engine that comes first.

    Args:
        network: the U-Net's configuration, or the description of a program.
        request: what the user fixes; it may fix another precision or engine.
        threads: threads of the network; 0 leaves them to the engine.

    Returns:
        Settings that the engine accepts.

    Raises:
        ModelError: the network cannot run here as requested.
    """
    device = request.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = "fp32" if request.precision == "auto" else request.precision
    if request.engine != "auto":
        engine = request.engine
    elif engines := list_engines_to_try(network, device):
        engine = engines[0]
    else:
        raise not_installed_error(list_engines(network, device)[0])
    if engine == "torch" and device == "cpu" and precision in ("bf16", "fp16") and not has_onednn(precision):
        raise ModelError(
            "--precision", got=precision, expected="fp32, which this CPU is made for", fix="leave it to be measured"
        )
    settings = EngineSettings(device, precision, _list_layouts(network, engine)[0], request.batch or 1, threads, engine)
    check_engine(network, settings)
    return settings


def list_engines_to_try(network: UNetConfig | Program, device: str) -> list[Engine]:
    """Return the installed engines for a network, without torch's compiler, which takes minutes on a CPU."""
    return [
        engine for engine in list_engines(network, device) if engine != "compiled" and is_installed(network, engine)
    ]


def vary_engine(
    network: UNetConfig | Program, request: EngineRequest, base: EngineSettings
) -> Iterator[EngineSettings]:
    """Yield ``base`` in all engines, precisions and layouts that the request leaves open, ``base`` itself first.

    Args:
        network: the U-Net's configuration, or the description of a program.
        request: what the user fixes.
        base: the plain settings, from ``choose_plain_settings``.
    """
    for engine in [base.engine] if request.engine != "auto" else list_engines_to_try(network, base.device):
        precisions = list_precisions(network, engine, base.device)
        if request.precision != "auto":
            # The base's engine has been checked with this precision, also where it is slow and therefore not listed.
            possible = engine == base.engine or request.precision in precisions
            precisions = (request.precision,) if possible else ()
        for precision in precisions:
            for channels_last in _list_layouts(network, engine):
                yield replace(base, engine=engine, precision=precision, channels_last=channels_last)


def vary_threads(request: EngineRequest, base: EngineSettings, threads: int) -> Iterator[EngineSettings]:
    """Yield ``base`` with all threads and, on a CPU where the request leaves them open, with half of them.

    Args:
        request: what the user fixes.
        base: the best settings so far.
        threads: the most threads.
    """
    counts = {threads}
    if base.device == "cpu" and request.threads is None:
        counts.add(max(1, threads // 2))
    return (replace(base, threads=count) for count in sorted(counts, reverse=True))


def vary_batch(request: EngineRequest, base: EngineSettings) -> Iterator[EngineSettings]:
    """Yield ``base`` with several batch sizes where the request leaves them open and the engine runs batches."""
    if request.batch is not None or base.engine not in ("torch", "compiled"):
        return iter([base])  # graphs are run window by window
    sizes = (1, 2, 4, 8, 16) if base.device == "cuda" else (1, 2)
    return (replace(base, batch=size) for size in sizes)


def _list_layouts(network: UNetConfig | Program, engine: Engine) -> tuple[bool, ...]:
    """Return the values of ``channels_last`` to try."""
    if not isinstance(network, UNetConfig):
        return (False,)
    return {"torch": (False, True), "compiled": (True,)}.get(engine, (False,))
