"""Find out what kind of network a file from elsewhere holds, and write a model folder of it.

Formats that can be read without running code of the file's author are read: ONNX graphs, TorchScript, ``torch.export``
programs, weights of milesial's Pytorch-UNet, whose names tell the network, and folders of segmentation-models-pytorch.
Pickles that hold code are refused.
"""

from __future__ import annotations

import copy
import io
import logging
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from seamline.model.engines.programs import OnnxProgram, TorchProgram
from seamline.model.importers.milesial import BilinearUNet, convert_state_dict
from seamline.model.importers.probe import ImportedNetwork, probe_program
from seamline.model.importers.reach import choose_edge
from seamline.model.importers.smp import get_activation, get_divisor, is_saved_network, load_smp_network
from seamline.model.networks.onnx_graphs import inline_external_weights, open_onnx_session
from seamline.model.networks.torch_archive import list_members
from seamline.model.networks.torch_export import load_exported_program
from seamline.model.networks.torch_programs import load_program
from seamline.model.spec.config import MAX_SIZE, EngineSettings, Program, ProgramFormat, UNetConfig
from seamline.model.spec.document import write_model_spec
from seamline.model.spec.errors import ModelError, get_first_line
from seamline.model.spec.spec import UNET_ARCHITECTURE, ModelSpec

_WEIGHTS_SUFFIXES: dict[ProgramFormat, str] = {"onnx": ".onnx", "torchscript": ".pt", "torch.export": ".pt2"}
_LATTICES = (1, 2, 4, 8, 16, 32, 64)
"""Divisors that networks in memory are tried with, in pixels."""
_EXPORT_LOGGERS = ("torch.export", "torch.fx.experimental.symbolic_shapes")
_EXPORT_HINT = "save it with torch.export.save, torch.onnx.export, or as a state_dict of milesial's Pytorch-UNet"


def read_network(path: Path, bands: int) -> ImportedNetwork:
    """Find out what network a file or folder holds.

    Args:
        path: the file, or a folder of segmentation-models-pytorch.
        bands: number of input bands, as the user states it.

    Returns:
        The network.

    Raises:
        ModelError: the file is of no known kind, holds code, or does not take this number of bands.
    """
    if path.is_dir() and is_saved_network(path):
        return _read_smp(path, bands)
    if not path.is_file():
        raise ModelError(
            f"network {path}",
            got="a folder without config.json and model.safetensors" if path.is_dir() else "no such file",
            expected="a file, or a folder that segmentation-models-pytorch saved",
            fix="check the path",
        )
    program_format = _detect_format(path)
    if program_format is None:
        return _read_milesial(path, bands)
    if program_format == "onnx":
        return _read_onnx(path, bands)
    return _read_torch_program(path, program_format, bands)


def convert_module(module: nn.Module, bands: int) -> ImportedNetwork:
    """Turn a network in memory into a program, and measure its divisor and reach.

    Args:
        module: maps (B, bands, H, W) float32 to scores (B, classes, H, W). It is copied, and the copy is set to
            evaluation mode.
        bands: input bands.

    Returns:
        The network, as a ``torch.export`` program.

    Raises:
        ModelError: the module does not run on such images, or torch cannot export it.
    """
    network = copy.deepcopy(module).cpu().float().eval()
    name = type(module).__name__
    return replace(_trace(Path(name), network, bands, _find_lattice(network, bands)), architecture=name)


def _find_lattice(network: nn.Module, bands: int) -> int:
    """Return the smallest power of two of whose multiples a network takes heights and widths.

    Raises:
        ModelError: it takes no multiples of the largest one that is tried.
    """
    reason: Exception | None = None
    for lattice in _LATTICES:
        edge = 2 * _LATTICES[-1] + lattice  # no multiple of a larger candidate
        try:
            with torch.inference_mode():
                if network(torch.zeros(1, bands, edge, edge)).shape[-2:] == (edge, edge):
                    return lattice
        except Exception as error:  # noqa: BLE001 - modules raise errors of any class
            reason = error
    raise ModelError(
        f"network {type(network).__name__}",
        got=f"{'no scores' if reason is None else get_first_line(reason)} on an image of {bands} × {edge} × {edge}",
        expected="(B, classes, H, W) for (B, bands, H, W)",
        fix="check bands, and give the bare network, without what comes before and after",
    )


def write_model_folder(imported: ImportedNetwork, spec: ModelSpec, folder: Path) -> None:
    """Write the weights and ``model.json`` of an imported network.

    Args:
        imported: the network.
        spec: its description.
        folder: the model folder, which is created.
    """
    folder.mkdir(parents=True, exist_ok=True)
    imported.write_weights(folder / spec.weights)
    write_model_spec(spec, folder)


def get_weights_name(network: UNetConfig | Program) -> str:
    """Return the name of the file of weights in a model folder."""
    return "model.safetensors" if isinstance(network, UNetConfig) else "model" + _WEIGHTS_SUFFIXES[network.format]


def _detect_format(path: Path) -> ProgramFormat | None:
    """Return the format of a program by its content, and ``None`` for other files, which should be a state_dict.

    ONNX files have no mark of their own, so that only their name tells them.
    """
    if path.suffix.lower() == ".onnx":
        return "onnx"
    if zipfile.is_zipfile(path):
        names = list_members(path)
        if any(name.endswith("constants.pkl") for name in names):
            return "torchscript"
        if any("models/" in name or name.endswith("serialized_exported_program.json") for name in names):
            return "torch.export"
    return None


def _check_bands(path: Path, network_bands: int, named_bands: int) -> None:
    if network_bands != named_bands:
        raise ModelError(
            f"network {path}",
            got=f"{named_bands} bands in --bands",
            expected=f"{network_bands}, as the network has inputs",
            fix="name each input's band, in the network's order",
        )


# --- networks of Python: Pytorch-UNet, segmentation-models-pytorch --------------------------------------


def _read_milesial(path: Path, bands: int) -> ImportedNetwork:
    network = convert_state_dict(_load_state_dict(path), path)
    if isinstance(network, BilinearUNet):
        _check_bands(path, network.bands, bands)
        return replace(_trace(path, network, bands, 1 << network.depth), architecture=UNET_ARCHITECTURE)
    config, weights = network
    _check_bands(path, config.in_channels, bands)
    return ImportedNetwork(
        config, config.receptive_radius, lambda target: save_file(weights, target), UNET_ARCHITECTURE
    )


def _load_state_dict(path: Path) -> dict[str, Tensor]:
    """Load the tensors in a file of ``torch.save`` without running code."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"network {path}",
            got="a pickle that would run code when it is read, or no file of torch.save",
            expected="tensors alone, torch.save(network.state_dict(), …)",
            fix=_EXPORT_HINT,
        ) from error
    except Exception as error:  # damaged bytes make torch raise errors of any class
        raise ModelError(
            f"network {path}",
            got=f"{type(error).__name__}: {get_first_line(error)}",
            expected="ONNX, TorchScript, a torch.export program or a state_dict",
            fix=_EXPORT_HINT,
        ) from error
    for name in ("state_dict", "model_state_dict", "model"):  # checkpoints hold more than the network
        if isinstance(loaded, dict) and isinstance(loaded.get(name), dict):
            loaded = loaded[name]
    tensors = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)} if isinstance(loaded, dict) else {}
    if not tensors:
        raise ModelError(f"network {path}", got="no tensors by name", expected="a state_dict", fix=_EXPORT_HINT)
    return tensors


def _read_smp(path: Path, bands: int) -> ImportedNetwork:
    network, arguments = load_smp_network(path)
    _check_bands(path, arguments.get("in_channels", 3), bands)
    name = f"{type(network).__name__} ({arguments['encoder_name']})"
    imported = _trace(path, network, bands, get_divisor(network))
    return replace(imported, architecture=name, activation=get_activation(arguments))


def _trace(path: Path, network: nn.Module, bands: int, divisor: int) -> ImportedNetwork:
    """Turn a network made of Python into a program, which runs where its classes are not installed."""
    exported = _export(path, network, bands, divisor)
    window, batch = _get_fixed_sizes(exported)

    def build(measured_divisor: int, classes: int) -> TorchProgram:
        program = Program("torch.export", bands, classes, measured_divisor, window, batch)
        return TorchProgram(exported.module(), program, EngineSettings())

    return probe_program(path, build, bands, window, lambda target: torch.export.save(exported, target), divisor)


def _export(path: Path, network: nn.Module, bands: int, divisor: int) -> torch.export.ExportedProgram:
    """Export a program of any batch, and of heights and widths that are multiples of the divisor.

    A network that cannot be exported like this is exported for one image, of the largest size up to ``_WINDOW_EDGE``.
    """
    height, width = (torch.export.Dim(name, min=2, max=MAX_SIZE) for name in ("rows", "cols"))
    sizes = {0: torch.export.Dim("batch", min=1, max=MAX_SIZE), 2: divisor * height, 3: divisor * width}
    example = torch.zeros(2, bands, 4 * divisor, 6 * divisor)
    try:
        with _silence_exporter():
            return torch.export.export(network.eval(), (example,), dynamic_shapes=(sizes,))
    except Exception:  # noqa: BLE001 - the exporter raises errors of any class; the second attempt reports what is wrong
        pass
    edge = choose_edge(divisor)
    try:
        with _silence_exporter():
            return torch.export.export(network, (torch.zeros(1, bands, edge, edge),))
    except Exception as error:
        raise ModelError(
            f"network {path}",
            got=get_first_line(error),
            expected=f"what torch.export takes, of {edge} × {edge} pixels",
            fix="let no Python of the network's forward depend on values of tensors, or use torch.onnx.export",
        ) from error


@contextmanager
def _silence_exporter() -> Iterator[None]:
    """Keep back what the exporter prints of a network that it cannot export, such as its graph: the error says why."""
    loggers = [logging.getLogger(name) for name in _EXPORT_LOGGERS]
    were_disabled = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, was_disabled in zip(loggers, were_disabled, strict=True):
            logger.disabled = was_disabled


# --- programs -------------------------------------------------------------------------------------------


def _read_onnx(path: Path, bands: int) -> ImportedNetwork:
    settings = EngineSettings(engine="onnxruntime")
    whole = inline_external_weights(path)
    graph = path if whole is None else whole
    window, batch, channels_last = _read_onnx_input(path, open_onnx_session(graph, settings), bands)

    def build(divisor: int, classes: int) -> OnnxProgram:
        return OnnxProgram(graph, Program("onnx", bands, classes, divisor, window, batch, channels_last), settings)

    def write_weights(target: Path) -> None:
        if whole is None:
            shutil.copyfile(path, target)
        else:
            target.write_bytes(whole)

    return probe_program(path, build, bands, window, write_weights)


def _read_onnx_input(path: Path, session: Any, bands: int) -> tuple[int | None, int | None, bool]:
    """Return the only window and batch that a graph takes (``None`` for any), and whether its channels come last."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shape = inputs[0].shape if len(inputs) == 1 else []
    if len(shape) != 4 or inputs[0].type != "tensor(float)" or not outputs:
        raise ModelError(
            f"network {path}",
            got=f"inputs {[(i.shape, i.type) for i in inputs]}",
            expected="one float32 image (batch, bands, height, width)",
            fix="export the bare network, without what comes before and after",
        )
    fixed = [size if isinstance(size, int) and size > 0 else None for size in shape]
    channels_last = fixed[1] != bands and fixed[3] == bands
    channels, height, width = (fixed[3], fixed[1], fixed[2]) if channels_last else fixed[1:]
    _check_bands(path, channels or bands, bands)
    if height != width:
        raise ModelError(f"network {path}", got=f"windows of {height}×{width}", expected="squares", fix=_EXPORT_HINT)
    return height, fixed[0], channels_last


def _read_torch_program(path: Path, program_format: ProgramFormat, bands: int) -> ImportedNetwork:
    module: Callable[[Tensor], Tensor]
    window, batch = None, None
    try:
        if program_format == "torch.export":
            exported = load_exported_program(path)
            module, (window, batch) = exported.module(), _get_fixed_sizes(exported)
        else:
            module = load_program(path, program_format)
    except ModelError:
        raise
    except Exception as error:  # damaged bytes make torch raise errors of any class
        raise ModelError(
            f"network {path}",
            got=get_first_line(error),
            expected=f"a {program_format} program",
            fix="export it again",
        ) from error

    def build(divisor: int, classes: int) -> TorchProgram:
        program = Program(program_format, bands, classes, divisor, window, batch)
        return TorchProgram(module, program, EngineSettings())

    return probe_program(path, build, bands, window, lambda target: shutil.copyfile(path, target))


def _get_fixed_sizes(program: torch.export.ExportedProgram) -> tuple[int | None, int | None]:
    """Return the only window and batch that an exported program takes; ``None`` for any."""
    (name,) = program.graph_signature.user_inputs
    shape = next(node.meta["val"].shape for node in program.graph.nodes if node.name == name)
    batch, _, height, _ = (size if isinstance(size, int) else None for size in shape)
    return height, batch
