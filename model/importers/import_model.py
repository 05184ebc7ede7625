"""Networks from elsewhere: which kind of file is it, what does its network take, and a model folder of it.

What can be read without running code of the file's author is read: ONNX graphs, TorchScript, ``torch.export``
programs, weights of milesial's Pytorch-UNet, whose names tell the network, and folders of
segmentation-models-pytorch. Pickles with code are refused.
"""

from __future__ import annotations

import pickle
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from seamline.model.engines.programs import OnnxProgram, TorchProgram
from seamline.model.importers.milesial import BilinearUNet, convert_state_dict
from seamline.model.importers.reach import WINDOW_EDGE, measure_reach
from seamline.model.importers.smp import get_activation, get_divisor, is_saved_network, load_smp_network
from seamline.model.networks.onnx_graphs import inline_external_weights, open_onnx_session
from seamline.model.networks.torch_programs import list_members, load_exported_program, load_program
from seamline.model.spec.config import EngineSettings, Program, ProgramFormat, UNetConfig
from seamline.model.spec.document import write_model_spec
from seamline.model.spec.errors import ModelError, get_first_line
from seamline.model.spec.spec import UNET_ARCHITECTURE, UNKNOWN, Activation, ModelSpec

WEIGHTS_SUFFIXES: dict[ProgramFormat, str] = {"onnx": ".onnx", "torchscript": ".pt", "torch.export": ".pt2"}
EXPORT_HINT = "save it with torch.export.save, torch.onnx.export, or as a state_dict of milesial's Pytorch-UNet"


@dataclass(frozen=True)
class ImportedNetwork:
    """A network that was found in a file: what it is, how far it reaches; ``save`` writes the file of its weights.

    ``architecture`` as far as the file tells it; ``activation`` if it tells what comes after the network's outputs.
    """

    network: UNetConfig | Program
    receptive_radius: int | None
    save: Callable[[Path], object]
    architecture: str = UNKNOWN
    activation: Activation | None = None


def read_network(path: Path, bands: int) -> ImportedNetwork:
    """Find out what is in a file; ``bands`` are those that its user says it takes.

    Raises:
        ModelError: it is of no known kind, holds code, or does not take so many bands.
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
    form = _detect_format(path)
    if form is None:
        return _read_milesial(path, bands)
    if form == "onnx":
        return _read_onnx(path, bands)
    return _read_torch_program(path, form, bands)


def write_model_folder(found: ImportedNetwork, spec: ModelSpec, folder: Path) -> None:
    """Write the model folder of ``spec``, whose network was found."""
    folder.mkdir(parents=True, exist_ok=True)
    found.save(folder / spec.weights)
    write_model_spec(spec, folder)


def get_weights_name(network: UNetConfig | Program) -> str:
    """What the file of weights is called in a model folder."""
    return "model.safetensors" if isinstance(network, UNetConfig) else "model" + WEIGHTS_SUFFIXES[network.format]


def _detect_format(path: Path) -> ProgramFormat | None:
    """By content: a program's, or ``None`` for a state_dict. ONNX has no mark of its own, so there the name counts."""
    if path.suffix.lower() == ".onnx":
        return "onnx"
    if zipfile.is_zipfile(path):
        names = list_members(path)
        if any(name.endswith("constants.pkl") for name in names):
            return "torchscript"
        if any("models/" in name or name.endswith("serialized_exported_program.json") for name in names):
            return "torch.export"
    return None


def _load_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors in a file of ``torch.save``, read without running code."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"network {path}",
            got="a pickle that would run code when it is read, or no file of torch.save",
            expected="tensors alone, torch.save(network.state_dict(), …)",
            fix=EXPORT_HINT,
        ) from error
    except Exception as error:  # whatever the bytes lead torch to
        raise ModelError(
            f"network {path}",
            got=f"{type(error).__name__}: {get_first_line(error)}",
            expected="ONNX, TorchScript, a torch.export program or a state_dict",
            fix=EXPORT_HINT,
        ) from error
    for name in ("state_dict", "model_state_dict", "model"):  # of checkpoints that hold more
        if isinstance(loaded, dict) and isinstance(loaded.get(name), dict):
            loaded = loaded[name]
    tensors = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)} if isinstance(loaded, dict) else {}
    if not tensors:
        raise ModelError(f"network {path}", got="no tensors by name", expected="a state_dict", fix=EXPORT_HINT)
    return tensors


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


def _read_smp(path: Path, bands: int) -> ImportedNetwork:
    network, arguments = load_smp_network(path)
    _check_bands(path, arguments.get("in_channels", 3), bands)
    name = f"{type(network).__name__} ({arguments['encoder_name']})"
    found = _trace(path, network, bands, get_divisor(network))
    return replace(found, architecture=name, activation=get_activation(arguments))


def _trace(path: Path, network: nn.Module, bands: int, divisor: int) -> ImportedNetwork:
    """A network made of Python as a program, which runs where its classes are not installed."""
    exported = _export(path, network, bands, divisor)
    window, batch = _get_fixed_sizes(exported)
    form: ProgramFormat = "torch.export"

    def run(lattice: int, classes: int) -> TorchProgram:
        return TorchProgram(exported.module(), Program(form, bands, classes, lattice, window, batch), EngineSettings())

    return _probe(path, run, bands, window, lambda target: torch.export.save(exported, target), divisor)


def _export(path: Path, network: nn.Module, bands: int, divisor: int) -> torch.export.ExportedProgram:
    """A program of any batch, and of heights and widths that are multiples of the divisor.

    Where that cannot be exported, of one image of ``EDGE``, or a little less, in height and width.
    """
    most, edge = 4096, WINDOW_EDGE // divisor * divisor
    height, width = (torch.export.Dim(name, min=2, max=most) for name in ("rows", "cols"))
    sizes = {0: torch.export.Dim("batch", min=1, max=most), 2: divisor * height, 3: divisor * width}
    example = torch.zeros(2, bands, 4 * divisor, 6 * divisor)
    try:
        return torch.export.export(network.eval(), (example,), dynamic_shapes=(sizes,))
    except Exception:  # noqa: BLE001 - of the exporter, for which there is no list; the second try tells what is wrong
        pass
    try:
        return torch.export.export(network, (torch.zeros(1, bands, edge, edge),))
    except Exception as error:
        raise ModelError(
            f"network {path}", got=get_first_line(error), expected=f"what torch.export takes, of {edge} × {edge} pixels",
            fix="export it with torch.export.save or torch.onnx.export, at a size that it takes",
        ) from error  # fmt: skip


def _read_onnx(path: Path, bands: int) -> ImportedNetwork:
    settings = EngineSettings(engine="onnxruntime")
    graph = inline_external_weights(path)
    session = open_onnx_session(path if graph is None else graph, settings)
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
        raise ModelError(f"network {path}", got=f"windows of {height}×{width}", expected="squares", fix=EXPORT_HINT)

    def run(divisor: int, classes: int) -> OnnxProgram:
        program = Program("onnx", bands, classes, divisor, height, fixed[0], channels_last)
        return OnnxProgram(path if graph is None else graph, program, settings)

    def save(target: Path) -> None:
        shutil.copyfile(path, target) if graph is None else target.write_bytes(graph)

    return _probe(path, run, bands, height, save)


def _read_torch_program(path: Path, form: ProgramFormat, bands: int) -> ImportedNetwork:
    module: Callable[[Tensor], Tensor]
    window, batch = None, None
    try:
        if form == "torch.export":
            exported = load_exported_program(path)
            module, (window, batch) = exported.module(), _get_fixed_sizes(exported)
        else:
            module = load_program(path, form)
    except ModelError:
        raise
    except Exception as error:  # whatever the bytes lead torch to
        raise ModelError(
            f"network {path}", got=get_first_line(error), expected=f"a {form} program", fix="export it again"
        ) from error

    def run(divisor: int, classes: int) -> TorchProgram:
        return TorchProgram(module, Program(form, bands, classes, divisor, window, batch), EngineSettings())

    return _probe(path, run, bands, window, lambda target: shutil.copyfile(path, target))


def _get_fixed_sizes(program: torch.export.ExportedProgram) -> tuple[int | None, int | None]:
    """The only window and batch that an exported program takes; ``None`` for any."""
    (name,) = program.graph_signature.user_inputs
    shape = next(node.meta["val"].shape for node in program.graph.nodes if node.name == name)
    batch, _, height, _ = (size if isinstance(size, int) else None for size in shape)
    return height, batch


def _probe(
    path: Path,
    run: Callable[[int, int], OnnxProgram | TorchProgram],
    bands: int,
    window: int | None,
    save: Callable[[Path], object],
    lattice: int = 1,
) -> ImportedNetwork:
    """Run a program on noise: how many outputs it has, of what size, and its reach; ``lattice``: sizes it takes."""
    network = run(1, 1)
    edge = window or WINDOW_EDGE // lattice * lattice
    try:
        with torch.inference_mode():
            y = network(torch.zeros(1, bands, edge, edge), 0)
    except Exception as error:  # of the framework; there is no list
        raise ModelError(
            f"network {path}",
            got=f"{get_first_line(error)} on an image of {bands} × {edge} × {edge}",
            expected="one score for each class and pixel",
            fix="check --bands; export it with free height and width, or with one fixed window",
        ) from error
    if not isinstance(y, Tensor) or y.ndim != 4 or y.shape[-2:] != (edge, edge) or not y.shape[1]:
        raise ModelError(
            f"network {path}",
            got=f"an output of shape {tuple(getattr(y, 'shape', ()))} for an image of {edge} × {edge}",
            expected=f"(1, classes, {edge}, {edge})",
            fix="export a network whose output has the size of its input",
        )
    if not y.is_floating_point():
        raise ModelError(
            f"network {path}", got=f"an output of {str(y.dtype).removeprefix('torch.')}", expected="scores in float32",
            fix="export the network without what comes after its scores",
        )  # fmt: skip
    reach = measure_reach(lambda x: network(x, 0), bands, window, lattice)
    while window is None and reach.divisor < edge and not _can_run(network, bands, edge + reach.divisor):
        # Its deepest levels say so little that noise does not tell; the sizes that it takes do.
        reach = measure_reach(lambda x: network(x, 0), bands, window, 2 * reach.divisor)
    return ImportedNetwork(run(reach.divisor, y.shape[1]).program, reach.radius, save)


def _can_run(network: OnnxProgram | TorchProgram, bands: int, edge: int) -> bool:
    try:
        with torch.inference_mode():
            return network(torch.zeros(1, bands, edge, edge), 0).shape[-2:] == (edge, edge)
    except ModelError:
        return False


def _check_bands(path: Path, found: int, named: int) -> None:
    if found != named:
        raise ModelError(
            f"network {path}", got=f"{named} bands in --bands", expected=f"{found}, as the network has inputs",
            fix="name each input's band, in the network's order",
        )  # fmt: skip
