"""ONNX graphs: made of the project's own U-Net, and run by ONNX Runtime or OpenVINO, of which neither must be there.

OpenVINO reads the same graphs as ONNX Runtime. Its own converter from torch is not used: it tells its makers of every
conversion over the network, and a worker tells nobody anything.
"""

from __future__ import annotations

import io
import os
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

PACKAGES: dict[Engine, tuple[str, ...]] = {"onnxruntime": ("onnxruntime",), "openvino": ("openvino",)}
PIP_EXTRAS: dict[Engine, str] = {"onnxruntime": "onnx", "openvino": "openvino"}
ENGINE_NAMES: dict[Engine, str] = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
OPSET = 17
DYNAMIC_AXES = {0: "batch", 2: "rows", 3: "cols"}
_EXPORT_LOCK = Lock()
"""Torch's exporter keeps what it is at in the process; a worker may measure for one scene and begin another."""


def has_packages(engine: Engine, converts: bool) -> bool:
    """Whether the packages of an engine are there; ``converts``: also what makes graphs of torch's modules."""
    needed = (*PACKAGES.get(engine, ()), *(("onnx",) if converts and engine in PACKAGES else ()))
    return all(find_spec(package) is not None for package in needed)


def not_installed_error(engine: Engine) -> ModelError:
    """What to say of an engine that is asked for and not there."""
    return ModelError(
        "--engine",
        got=f"{engine}, which is not installed here",
        expected=f"{ENGINE_NAMES[engine]}, to run the network",
        fix=f"pip install 'seamline[{PIP_EXTRAS[engine]}]'",
    )


def export_unet(network: nn.Module, config: UNetConfig, halo: int) -> bytes:
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
    with _EXPORT_LOCK, warnings.catch_warnings(), torch.no_grad():
        # Of a tracer that sees sizes compared, which are the same in every window, and of an exporter that is as old.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _FixedHalo(network, halo),
            (example,),
            file,  # type: ignore[arg-type]  # the exporter that is not dynamo's takes files, as it always did
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["scores"],
            dynamic_axes={"image": DYNAMIC_AXES, "scores": DYNAMIC_AXES},
        )
    return file.getvalue()


class _FixedHalo(nn.Module):
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


def load_graph(graph: Path | bytes, settings: EngineSettings) -> Graph:
    """A graph in the engine of the settings.

    Raises:
        ModelError: the engine is not installed, or refuses the graph.
    """
    return OpenVinoGraph(graph, settings) if settings.engine == "openvino" else OnnxRuntimeGraph(graph, settings)


@contextmanager
def _wrap_engine_errors(graph: Path | bytes, engine: Engine) -> Iterator[None]:
    """What an engine says of a graph in one line; each has classes of errors of its own, of which there are many."""
    if not has_packages(engine, converts=False):
        raise not_installed_error(engine)
    try:
        yield
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ModelError(
            f"network {graph}" if isinstance(graph, Path) else "network",
            got=lines[-1][:300],
            expected=f"a graph that {ENGINE_NAMES[engine]} runs",
            fix="export it again" if isinstance(graph, Path) else "take another --engine",
        ) from error


def inline_external_weights(path: Path) -> bytes | None:
    """A graph whose weights lie in files beside it, with them in it; ``None`` for one that needs no other file.

    Only files in the graph's own folder are read, and none through a link.

    Raises:
        ModelError: its weights lie elsewhere, or are too much for one file, or ``onnx`` is not installed to read them.
    """
    if not path.is_file() or b"location" not in path.read_bytes():
        return None
    try:
        import onnx
    except ImportError:
        raise ModelError(
            f"network {path}", got="weights that may lie in other files, and no onnx to read them",
            expected="it", fix="pip install 'seamline[onnx]'",
        ) from None  # fmt: skip
    fix = "save it in one file, with onnx.save(onnx.load(FILE), OTHER)"
    try:
        graph = onnx.load(path, load_external_data=False)
        places = _find_external_files(graph)
        if not places:
            return None
        folder = path.parent.resolve()
        for place in places:
            file = folder / place
            if Path(place).is_absolute() or ".." in Path(place).parts or file.resolve() != file or not file.is_file():
                raise ModelError(
                    f"network {path}", got=f"weights in {place!r}", expected="files in the folder of the graph", fix=fix
                )
        onnx.load_external_data_for_model(graph, str(folder))
        whole: bytes = graph.SerializeToString()
    except ModelError:
        raise
    except Exception as error:  # of onnx and protobuf, which have many; more than 2 GiB among them
        raise ModelError(
            f"network {path}", got=get_first_line(error),
            expected="a graph of less than 2 GiB, with its weights beside it", fix=fix,
        ) from error  # fmt: skip
    return whole


def _find_external_files(message: Any) -> set[str]:
    """Where the tensors of a graph lie that lie in other files, in whatever part of it they are."""
    found: set[str] = set()
    if message.DESCRIPTOR.name == "TensorProto":
        found |= {entry.value for entry in message.external_data if entry.key == "location"}
        return found | ({""} if message.data_location == message.EXTERNAL and not found else set())
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if isinstance(value, Iterable) else (value,):
                found |= _find_external_files(part)
    return found


def _check_single_file(path: Path) -> None:
    """Refuse a graph of a model folder that would make an engine read other files."""
    if inline_external_weights(path) is not None:
        raise ModelError(
            f"network {path}", got="weights in other files", expected="all in one file",
            fix="import the graph again, with seamline model import",
        )  # fmt: skip


# --- ONNX Runtime ---------------------------------------------------------------------------------------


def open_onnx_session(graph: Path | bytes, settings: EngineSettings) -> Any:
    """An ONNX Runtime session of a graph, on the CPU or a CUDA device.

    Raises:
        ModelError: ONNX Runtime is not installed, or refuses the graph.
    """
    if isinstance(graph, Path):
        _check_single_file(graph)
    with _wrap_engine_errors(graph, "onnxruntime"):
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

    def __init__(self, graph: Path | bytes, settings: EngineSettings) -> None:
        self._graph = graph if isinstance(graph, Path) else b""
        self._session = open_onnx_session(graph, settings)
        self._input = self._session.get_inputs()[0].name

    def __call__(self, x: Tensor) -> Tensor:
        """As ``Graph``."""
        with _wrap_engine_errors(self._graph, "onnxruntime"):
            (y, *_) = self._session.run(None, {self._input: x.cpu().contiguous().numpy()})
        return torch.from_numpy(y).to(x.device)

    def prepare(self, shape: tuple[int, ...]) -> None:
        """As ``Graph``; all was done when it was loaded."""


# --- OpenVINO -------------------------------------------------------------------------------------------

PRECISION_HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16"}


def list_openvino_precisions() -> tuple[Precision, ...]:
    """The precisions in which OpenVINO runs well on this CPU."""
    import openvino

    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("fp32", "bf16") if "BF16" in able else ("fp32",)


class OpenVinoGraph:
    """A graph in OpenVINO, compiled for each shape that comes: of free sizes it plans no memory, and is slower."""

    def __init__(self, graph: Path | bytes, settings: EngineSettings) -> None:
        self._graph = graph if isinstance(graph, Path) else b""
        self._config = {
            "INFERENCE_NUM_THREADS": settings.threads or os.cpu_count() or 1,
            "INFERENCE_PRECISION_HINT": PRECISION_HINTS[settings.precision],
            "NUM_STREAMS": 1,
            # Bound to cores, the threads of all worker processes would meet on the same ones.
            "ENABLE_CPU_PINNING": False,
        }
        if isinstance(graph, Path):
            _check_single_file(graph)
        with _wrap_engine_errors(graph, "openvino"):
            import openvino

            self._core = openvino.Core()
            self._model = self._core.read_model(graph)
        self._compiled: dict[tuple[int, ...], Any] = {}
        self._requests: dict[tuple[int, ...], Any] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """As ``Graph``."""
        shape = tuple(x.shape)
        self.prepare(shape)
        with _wrap_engine_errors(self._graph, "openvino"):
            if shape not in self._requests:
                self._requests[shape] = self._compiled[shape].create_infer_request()
            found = self._requests[shape].infer({0: x.contiguous().numpy()}, share_inputs=True)
        return torch.from_numpy(found[0])  # a copy: the request's own buffer is its next result's

    def prepare(self, shape: tuple[int, ...]) -> None:
        """As ``Graph``."""
        if shape not in self._compiled:
            with _wrap_engine_errors(self._graph, "openvino"):
                self._model.reshape(list(shape))
                self._compiled[shape] = self._core.compile_model(self._model, "CPU", self._config)
