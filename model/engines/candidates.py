"""Which settings of a network are good on this machine, and which are worth a trial."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from seamline.model.devices.cuda_device import require_cuda
from seamline.model.engines.engines import check_engine, is_installed, list_engines, list_precisions
from seamline.model.engines.torch_engine import has_onednn
from seamline.model.networks.onnx_graphs import not_installed_error
from seamline.model.spec.config import Engine, EngineRequest, EngineSettings, Precision, Program, UNetConfig
from seamline.model.spec.errors import ModelError

_DEFAULT_DEVICE_BATCH = 8
"""Windows of the smallest size in a batch on a CUDA device where nothing was measured."""


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
    if device == "cuda":
        require_cuda()
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


def choose_default_settings(network: UNetConfig | Program, request: EngineRequest, threads: int) -> EngineSettings:
    """Return the settings that a network is known to run well with here, within the user's request.

    Nothing is measured: a reduced precision is taken where the processor or device has instructions for it, and
    channels-last where convolutions are fastest in it. Whether the precision's labels are those of float32 is yet to
    be checked.

    Args:
        network: the U-Net's configuration, or the description of a program.
        request: what the user fixes.
        threads: threads of the network; 0 leaves them to the engine.

    Raises:
        ModelError: the network cannot run here as requested.
    """
    plain = choose_plain_settings(network, request, threads)
    precision = plain.precision
    if request.precision == "auto":
        possible = list_precisions(network, plain.engine, plain.device)
        precision = next((fast for fast in _list_fast_precisions(plain.device) if fast in possible), plain.precision)
    batch = plain.batch
    if request.batch is None and plain.device == "cuda" and plain.engine in ("torch", "compiled"):
        batch = _DEFAULT_DEVICE_BATCH
    return replace(plain, precision=precision, channels_last=_list_layouts(network, plain.engine)[-1], batch=batch)


def _list_fast_precisions(device: str) -> tuple[Precision, ...]:
    """Return the reduced precisions for which a processor or device has instructions, the best first."""
    if device == "cuda":
        capability = torch.cuda.get_device_capability()
        return ("bf16",) if capability >= (8, 0) else ("fp16",) if capability >= (7, 0) else ()
    if not hasattr(torch.cpu, "get_capabilities"):  # in newer versions of torch only
        return ()
    able = torch.cpu.get_capabilities()
    return ("bf16",) if able.get("avx512_bf16") or able.get("amx_bf16") else ()


def order_by_promise(variants: Iterable[EngineSettings], default: EngineSettings) -> list[EngineSettings]:
    """Return variants in the order in which a short measurement tries them.

    The plain settings stay first, since all others are compared with them. The default follows, then other engines,
    then other settings of the default's engine; reduced precisions before float32.

    Args:
        variants: from ``vary_engine``.
        default: from ``choose_default_settings``.
    """
    plain, *others = variants
    default = replace(default, batch=plain.batch)
    others.sort(key=lambda one: (one != default, one.engine == default.engine, one.precision == "fp32"))
    return [plain, *others]


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
