"""Networks that were brought as programs: TorchScript, ``torch.export`` and ONNX, run whole and in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from seamline.model.networks.onnx_graphs import load_graph
from seamline.model.spec.config import EngineSettings, Program
from seamline.model.spec.errors import ModelError


class TorchProgram:
    """A TorchScript module or a ``torch.export`` program; it computes the whole window, then the halo is cropped.

    Attributes:
        program: axes, batch size and window size of the program.
    """

    def __init__(self, module: Callable[[Tensor], Tensor], program: Program, settings: EngineSettings) -> None:
        """Move the program to its device.

        Args:
            module: the loaded program.
            program: its axes, batch size and window size.
            settings: the device.
        """
        self._module = module.to(settings.device) if isinstance(module, nn.Module) else module
        self.program = program

    def __call__(self, x: Tensor, halo: int) -> Tensor:
        """Map normalised windows (B, bands, H, W) to scores (B, outputs, H − 2·halo, W − 2·halo)."""
        return _run_program(self._module, self.program, x, halo)


class OnnxProgram:
    """An imported ONNX graph in ONNX Runtime or OpenVINO; it computes the whole window, then the halo is cropped.

    Attributes:
        program: axes, batch size and window size of the graph.
    """

    def __init__(self, graph: Path | bytes, program: Program, settings: EngineSettings) -> None:
        """Load the graph in its engine.

        Args:
            graph: the ONNX file or its bytes.
            program: its axes, batch size and window size.
            settings: engine, device, precision and threads.
        """
        self._graph = load_graph(graph, settings)
        self.program = program

    def __call__(self, x: Tensor, halo: int) -> Tensor:
        """Map normalised windows (B, bands, H, W) to scores (B, outputs, H − 2·halo, W − 2·halo)."""
        return _run_program(self._graph, self.program, x, halo)

    def prepare(self, shape: tuple[int, ...], halo: int) -> None:
        """Compile the graph for batches of this shape (B, bands, H, W) before the first one is run."""
        batch, bands, height, width = shape
        batch = self.program.batch or batch
        self._graph.prepare((batch, height, width, bands) if self.program.channels_last else (batch, *shape[1:]))


def _run_program(module: Callable[[Tensor], Tensor], program: Program, x: Tensor, halo: int) -> Tensor:
    """Call a program with its order of axes and its batch size, and crop the halo."""
    x = x.movedim(1, -1) if program.channels_last else x
    size = program.batch or len(x)
    parts = []
    for start in range(0, len(x), size):
        part = x[start : start + size]
        batch = part
        if len(part) < size:  # fill up the last batch with its last window, for programs of a fixed batch size
            batch = torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])])
        try:
            parts.append(module(batch)[: len(part)])
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # the frameworks have no common class of errors
            raise ModelError(
                "the network",
                got=(str(error).strip().splitlines() or [type(error).__name__])[-1][:200],
                expected=f"windows of {x.shape[-2]} × {x.shape[-1]} to run",
                fix="take another --window, or export it with free height and width",
            ) from error
    y = torch.cat(parts)
    return _crop_halo(y.movedim(-1, 1) if program.channels_last else y, halo)


def _crop_halo(y: Tensor, halo: int) -> Tensor:
    """Return (…, H − 2·halo, W − 2·halo) of (…, H, W): the array without ``halo`` pixels on every side."""
    return y[..., halo : y.shape[-2] - halo, halo : y.shape[-1] - halo] if halo else y
