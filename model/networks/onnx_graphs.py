"""ONNX graphs: export of the project's U-Net, and execution in ONNX Runtime or OpenVINO, both of them optional.

OpenVINO reads the same graphs as ONNX Runtime. Both would report their use to their makers over the network, which this
module switches off before it imports them.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from seamline.model.spec.config import Engine, EngineSettings, Precision, UNetConfig
from seamline.model.spec.errors import ModelError, get_first_line

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # OpenVINO then takes its stub

_PACKAGES: dict[Engine, tuple[str, ...]] = {"onnxruntime": ("onnxruntime",), "openvino": ("openvino",)}
_PIP_EXTRAS: dict[Engine, str] = {"onnxruntime": "onnx", "openvino": "openvino"}
_ENGINE_NAMES: dict[Engine, str] = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
_OPSET = 17
_DYNAMIC_AXES = {0: "batch", 2: "rows", 3: "cols"}
_PRECISION_HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16"}
"""OpenVINO's names of precisions."""
_EXPORT_LOCK = Lock()
"""Torch's exporter keeps its state in the process, and a worker may measure for one scene while it starts another."""


def has_packages(engine: Engine, converts: bool) -> bool:
    """Return whether the packages of an engine are installed; ``converts``: with what exports graphs from torch."""
    needed = [*_PACKAGES.get(engine, ())]
    if converts and engine in _PACKAGES:
        needed.append("onnx")
    return all(find_spec(package) is not None for package in needed)


def not_installed_error(engine: Engine) -> ModelError:
    """Return the error for an engine that was asked for and is not installed."""
    return ModelError(
        "--engine",
        got=f"{engine}, which is not installed here",
        expected=f"{_ENGINE_NAMES[engine]}, to run the network",
        fix=f"pip install 'seamline[{_PIP_EXTRAS[engine]}]'",
    )


# --- export of the project's U-Net ----------------------------------------------------------------------


def export_unet(network: nn.Module, config: UNetConfig, halo: int) -> bytes:
    """Export a U-Net with a fixed halo as an ONNX graph of any batch, height and width.

    The crops that follow from the halo are constants of the graph, so that the smallest window suffices as example.

    Args:
        network: maps (B, in_channels, H, W) and a halo to scores; float32, on the CPU.
        config: the configuration of the network.
        halo: pixels that the graph removes from every side.

    Returns:
        The graph as a file of ONNX: image (B, in_channels, H, W) → scores (B, classes, H − 2·halo, W − 2·halo).
    """
    edge = 2 * halo + 2 * config.divisor
    if config.padding == "valid" and not halo:
        # Without a halo nothing is trimmed, so the example needs a size that every pooling halves evenly.
        edge = 2 * (config.lost_border - config.trim) + config.divisor
    example, file = torch.zeros(1, config.in_channels, edge, edge), io.BytesIO()
    with _EXPORT_LOCK, warnings.catch_warnings(), torch.no_grad():
        # The tracer warns of comparisons of sizes, which come out the same for every window; the exporter warns that
        # it is deprecated.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _FixedHalo(network, halo),
            (example,),
            file,  # type: ignore[arg-type]  # the exporter without dynamo takes files, which its annotation leaves out
            dynamo=False,
            opset_version=_OPSET,
            input_names=["image"],
            output_names=["scores"],
            dynamic_axes={"image": _DYNAMIC_AXES, "scores": _DYNAMIC_AXES},
        )
    return file.getvalue()


class _FixedHalo(nn.Module):
    def __init__(self, network: nn.Module, halo: int) -> None:
        super().__init__()
        self.network, self.halo = network, halo

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.network(x, self.halo)
        return y


# --- weights in other files -----------------------------------------------------------------------------


def inline_external_weights(path: Path) -> bytes | None:
    """Return a graph with the weights that lie in files beside it, or ``None`` if it needs no other file.

    Only files in the graph's own folder are read, and none through a link.

    Raises:
        ModelError: the weights lie elsewhere or are too large for one file, or ``onnx`` is not installed to read them.
    """
    # A tensor names its file under the key "location", so a graph without this word needs no look by onnx.
    if not path.is_file() or b"location" not in path.read_bytes():
        return None
    try:
        import onnx  # here, because it is optional
    except ImportError:
        raise ModelError(
            f"network {path}",
            got="weights that may lie in other files, and no onnx to read them",
            expected="it",
            fix="pip install 'seamline[onnx]'",
        ) from None
    fix = "save it in one file, with onnx.save(onnx.load(FILE), OTHER)"
    try:
        graph = onnx.load(path, load_external_data=False)
        files = _find_external_files(graph)
        if not files:
            return None
        for name in files:
            if not _is_plain_neighbour(path, name):
                raise ModelError(
                    f"network {path}", got=f"weights in {name!r}", expected="files in the folder of the graph", fix=fix
                )
        onnx.load_external_data_for_model(graph, str(path.parent.resolve()))
        whole: bytes = graph.SerializeToString()
    except ModelError:
        raise
    except Exception as error:  # onnx and protobuf have many classes of errors, one of them for more than 2 GiB
        raise ModelError(
            f"network {path}",
            got=get_first_line(error),
            expected="a graph of less than 2 GiB, with its weights beside it",
            fix=fix,
        ) from error
    return whole


def _find_external_files(message: Any) -> set[str]:
    """Return the paths of the files in which tensors of a protobuf message and of its parts lie.

    A tensor that says it is external and names no file adds the empty path.
    """
    files: set[str] = set()
    if message.DESCRIPTOR.name == "TensorProto":
        files |= {entry.value for entry in message.external_data if entry.key == "location"}
        return files | ({""} if message.data_location == message.EXTERNAL and not files else set())
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if isinstance(value, Iterable) else (value,):
                files |= _find_external_files(part)
    return files


def _is_plain_neighbour(graph: Path, name: str) -> bool:
    """Return whether a name leads to a file in the graph's folder, or below it, without links."""
    file = graph.parent.resolve() / name
    is_relative = not Path(name).is_absolute() and ".." not in Path(name).parts
    return is_relative and file.resolve() == file and file.is_file()


def _check_single_file(path: Path) -> None:
    """Refuse a graph that would make an engine read other files."""
    if inline_external_weights(path) is not None:
        raise ModelError(
            f"network {path}",
            got="weights in other files",
            expected="all in one file",
            fix="import the graph again, with seamline model import",
        )


# --- execution ------------------------------------------------------------------------------------------


class Graph(Protocol):
    """A graph that an engine has loaded."""

    def __call__(self, x: Tensor) -> Tensor:
        """Run the graph: (B, …) float32 → (B, …) float32, a new tensor on the device of the input."""
        ...

    def prepare(self, shape: tuple[int, ...]) -> None:
        """Do what inputs of this shape need once, such as compiling."""
        ...


def load_graph(graph: Path | bytes, settings: EngineSettings) -> Graph:
    """Load a graph in the engine of the settings.

    Raises:
        ModelError: the engine is not installed, or refuses the graph.
    """
    return _OpenVinoGraph(graph, settings) if settings.engine == "openvino" else _OnnxRuntimeGraph(graph, settings)


@contextmanager
def _wrap_engine_errors(graph: Path | bytes, engine: Engine) -> Iterator[None]:
    """Turn any error of an engine into a ``ModelError`` of one line; engines have many classes of errors."""
    if not has_packages(engine, converts=False):
        raise not_installed_error(engine)
    try:
        yield
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ModelError(
            f"network {graph}" if isinstance(graph, Path) else "network",
            got=lines[-1][:300],
            expected=f"a graph that {_ENGINE_NAMES[engine]} runs",
            fix="export it again" if isinstance(graph, Path) else "take another --engine",
        ) from error


def open_onnx_session(graph: Path | bytes, settings: EngineSettings) -> Any:
    """Open an ONNX Runtime session of a graph, on the CPU or a CUDA device.

    Raises:
        ModelError: ONNX Runtime is not installed, or refuses the graph.
    """
    if isinstance(graph, Path):
        _check_single_file(graph)
    with _wrap_engine_errors(graph, "onnxruntime"):
        import onnxruntime  # here, because it is optional

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = settings.threads
        options.log_severity_level = 4  # its errors are raised, too
        # Spinning threads would take the core from the thread that reads the next chunk.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = ["CUDAExecutionProvider"] if settings.device == "cuda" else []
        return onnxruntime.InferenceSession(graph, options, providers=[*providers, "CPUExecutionProvider"])


class _OnnxRuntimeGraph:
    """A graph in ONNX Runtime."""

    def __init__(self, graph: Path | bytes, settings: EngineSettings) -> None:
        self._graph = graph if isinstance(graph, Path) else b""
        self._session = open_onnx_session(graph, settings)
        self._input = self._session.get_inputs()[0].name

    def __call__(self, x: Tensor) -> Tensor:
        """Run the graph; see ``Graph``."""
        with _wrap_engine_errors(self._graph, "onnxruntime"):
            (y, *_) = self._session.run(None, {self._input: x.cpu().contiguous().numpy()})
        return torch.from_numpy(y).to(x.device)

    def prepare(self, shape: tuple[int, ...]) -> None:
        """Do nothing: ONNX Runtime prepared the graph for every shape when it was loaded."""


def list_openvino_precisions() -> tuple[Precision, ...]:
    """Return the precisions in which OpenVINO runs well on this CPU."""
    import openvino  # here, because it is optional

    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("fp32", "bf16") if "BF16" in able else ("fp32",)


class _OpenVinoGraph:
    """A graph in OpenVINO, compiled once for each shape: with free sizes OpenVINO plans no memory and is slower."""

    def __init__(self, graph: Path | bytes, settings: EngineSettings) -> None:
        self._graph = graph if isinstance(graph, Path) else b""
        self._config = {
            "INFERENCE_NUM_THREADS": settings.threads or os.cpu_count() or 1,
            "INFERENCE_PRECISION_HINT": _PRECISION_HINTS[settings.precision],
            "NUM_STREAMS": 1,
            # With pinning the threads of all worker processes would be bound to the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        if isinstance(graph, Path):
            _check_single_file(graph)
        with _wrap_engine_errors(graph, "openvino"):
            import openvino  # here, because it is optional

            self._core = openvino.Core()
            self._model = self._core.read_model(graph)
        self._compiled: dict[tuple[int, ...], Any] = {}
        self._requests: dict[tuple[int, ...], Any] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """Run the graph; see ``Graph``."""
        shape = tuple(x.shape)
        self.prepare(shape)
        with _wrap_engine_errors(self._graph, "openvino"):
            if shape not in self._requests:
                self._requests[shape] = self._compiled[shape].create_infer_request()
            results = self._requests[shape].infer({0: x.contiguous().numpy()}, share_inputs=True)
        # The results are copies, because share_outputs is off; the request reuses its own buffers in the next call.
        return torch.from_numpy(results[0])

    def prepare(self, shape: tuple[int, ...]) -> None:
        """Compile the graph for inputs of this shape, if that was not done before."""
        if shape not in self._compiled:
            with _wrap_engine_errors(self._graph, "openvino"):
                self._model.reshape(list(shape))
                self._compiled[shape] = self._core.compile_model(self._model, "CPU", self._config)
