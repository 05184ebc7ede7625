"""ONNX graphs: made of the project's own U-Net, and run by ONNX Runtime or OpenVINO, of which neither must be there.

OpenVINO reads the same graphs as ONNX Runtime. Its own converter from torch is not used: it tells its makers of every
conversion over the network, and a worker tells nobody anything.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from model.config import Engine, Precision, Settings, UNetConfig
from model.errors import ModelError

PACKAGES: dict[Engine, tuple[str, ...]] = {"onnxruntime": ("onnxruntime",), "openvino": ("openvino",)}
EXTRAS: dict[Engine, str] = {"onnxruntime": "onnx", "openvino": "openvino"}
NAMES: dict[Engine, str] = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
OPSET = 17
AXES = {0: "batch", 2: "rows", 3: "cols"}


def installed(engine: Engine, converts: bool) -> bool:
    """Whether the packages of an engine are there; ``converts``: also what makes graphs of torch's modules."""
    needed = (*PACKAGES.get(engine, ()), *(("onnx",) if converts and engine in PACKAGES else ()))
    return all(find_spec(package) is not None for package in needed)


def not_installed(engine: Engine) -> ModelError:
    """What to say of an engine that is asked for and not there."""
    return ModelError(
        "--engine",
        got=f"{engine}, which is not installed here",
        expected=f"{NAMES[engine]}, to run the network",
        fix=f"pip install 'seamline[{EXTRAS[engine]}]'",
    )


def unet_graph(network: nn.Module, config: UNetConfig, halo: int) -> bytes:
    """The network with its halo as an ONNX graph of any batch, height and width.

    What the halo leaves out of the decoder stands in the graph as constants, so that it is traced on the smallest
    window there is.

    Args:
        network: maps (B, in_channels, H, W) and a halo to scores; float32, on the CPU.
        config: what it is made of.
        halo: pixels on every side that are thrown away.
    """
    edge = 2 * halo + 2 * config.divisor
    if config.padding == "valid" and not halo:
        edge = 2 * (config.lost_border - config.trim) + config.divisor  # of a size that every pooling halves evenly
    example, file = torch.zeros(1, config.in_channels, edge, edge), io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # Of a tracer that sees sizes compared, which are the same in every window, and of an exporter that is as old.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _WithHalo(network, halo),
            (example,),
            file,  # type: ignore[arg-type]  # the exporter that is not dynamo's takes files, as it always did
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["scores"],
            dynamic_axes={"image": AXES, "scores": AXES},
        )
    return file.getvalue()


class _WithHalo(nn.Module):
    def __init__(self, network: nn.Module, halo: int) -> None:
        super().__init__()
        self.network, self.halo = network, halo

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.network(x, self.halo)
        return y


class Graph(Protocol):
    """A graph that is loaded."""

    def __call__(self, x: Tensor) -> Tensor:
        """(B, …) float32 → (B, …) float32: a tensor of its own, where the input is."""
        ...

    def prepare(self, shape: tuple[int, ...]) -> None:
        """Do for inputs of this shape what needs to be done once."""
        ...


def load_graph(graph: Path | bytes, settings: Settings) -> Graph:
    """A graph in the engine of the settings.

    Raises:
        ModelError: the engine is not installed, or refuses the graph.
    """
    return OpenVinoGraph(graph, settings) if settings.engine == "openvino" else OnnxRuntimeGraph(graph, settings)


@contextmanager
def _reported(graph: Path | bytes, engine: Engine) -> Iterator[None]:
    """What an engine says of a graph in one line; each has classes of errors of its own, of which there are many."""
    if not installed(engine, converts=False):
        raise not_installed(engine)
    try:
        yield
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ModelError(
            f"network {graph}" if isinstance(graph, Path) else "network",
            got=lines[-1][:300],
            expected=f"a graph that {NAMES[engine]} runs",
            fix="export it again" if isinstance(graph, Path) else "take another --engine",
        ) from error


# --- ONNX Runtime ---------------------------------------------------------------------------------------


def onnx_session(graph: Path | bytes, settings: Settings) -> Any:
    """An ONNX Runtime session of a graph, on the CPU or a CUDA device.

    Raises:
        ModelError: ONNX Runtime is not installed, or refuses the graph.
    """
    with _reported(graph, "onnxruntime"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = settings.threads
        options.log_severity_level = 3
        # Threads that wait must not take the core from the one that reads.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = ["CUDAExecutionProvider"] if settings.device == "cuda" else []
        return onnxruntime.InferenceSession(graph, options, providers=[*providers, "CPUExecutionProvider"])


class OnnxRuntimeGraph:
    """A graph in ONNX Runtime."""

    def __init__(self, graph: Path | bytes, settings: Settings) -> None:
        self._graph = graph if isinstance(graph, Path) else b""
        self._session = onnx_session(graph, settings)
        self._input = self._session.get_inputs()[0].name

    def __call__(self, x: Tensor) -> Tensor:
        """As ``Graph``."""
        with _reported(self._graph, "onnxruntime"):
            (y, *_) = self._session.run(None, {self._input: x.cpu().contiguous().numpy()})
        return torch.from_numpy(y).to(x.device)

    def prepare(self, shape: tuple[int, ...]) -> None:
        """As ``Graph``; all was done when it was loaded."""


def runs_on_cuda() -> bool:
    """Whether the ONNX Runtime that is installed has CUDA in it."""
    if not installed("onnxruntime", converts=False):
        return False
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


# --- OpenVINO -------------------------------------------------------------------------------------------

HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16"}


def openvino_precisions() -> tuple[Precision, ...]:
    """The precisions in which OpenVINO runs well on this CPU."""
    import openvino

    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("fp32", "bf16") if "BF16" in able else ("fp32",)


class OpenVinoGraph:
    """A graph in OpenVINO, compiled for each shape that comes: of free sizes it plans no memory, and is slower."""

    def __init__(self, graph: Path | bytes, settings: Settings) -> None:
        self._graph = graph if isinstance(graph, Path) else b""
        self._config = {
            "INFERENCE_NUM_THREADS": settings.threads or os.cpu_count() or 1,
            "INFERENCE_PRECISION_HINT": HINTS[settings.precision],
            "NUM_STREAMS": 1,
            # Bound to cores, the threads of all worker processes would meet on the same ones.
            "ENABLE_CPU_PINNING": False,
        }
        with _reported(graph, "openvino"):
            import openvino

            self._core = openvino.Core()
            self._model = self._core.read_model(graph)
        self._compiled: dict[tuple[int, ...], Any] = {}
        self._requests: dict[tuple[int, ...], Any] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """As ``Graph``."""
        shape = tuple(x.shape)
        self.prepare(shape)
        with _reported(self._graph, "openvino"):
            if shape not in self._requests:
                self._requests[shape] = self._compiled[shape].create_infer_request()
            found = self._requests[shape].infer({0: x.contiguous().numpy()}, share_inputs=True)
        return torch.from_numpy(found[0])  # a copy: the request's own buffer is its next result's

    def prepare(self, shape: tuple[int, ...]) -> None:
        """As ``Graph``."""
        if shape not in self._compiled:
            with _reported(self._graph, "openvino"):
                self._model.reshape(list(shape))
                self._compiled[shape] = self._core.compile_model(self._model, "CPU", self._config)
