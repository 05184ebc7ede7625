"""Segment an xarray in memory or over Dask chunks, without files: ``predict``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask import delayed
from numpy.typing import NDArray

from seamline.flows.api.array_bands import BandMeanings, Meaning, stack_bands
from seamline.flows.api.models import load_model
from seamline.flows.api.segmenting import check_options
from seamline.flows.settings.model_folder import Model, RuntimeLoader
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.cluster.inference_thread import InferenceThread
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.execution.predictor import Predictor
from seamline.pipeline.execution.window_inference import find_source_window, infer_window
from seamline.pipeline.geometry.tiling import Index, Tiling
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.planning.memory import Raster
from seamline.pipeline.planning.tilings import list_candidate_tilings
from seamline.pipeline.products.zarr_store import LABELS_ARRAY, build_class_flags

_WINDOW = 1024
"""Edge in pixels of a window, about, where the user fixes none."""


_OPTIONS = ("window", "halo", "overlap", "chunk_tiles", "device", "engine", "precision", "batch", "threads")
"""Options of a run that ``predict`` takes."""


def predict(
    array: xr.DataArray | xr.Dataset,
    model: str | Path | Model,
    *,
    bands: Sequence[str | int] = (),
    scale: float | None = None,
    offset: float | None = None,
    nodata: float | None = None,
    probabilities: bool = False,
    options: SegmentOptions | None = None,
) -> xr.Dataset:
    """Segment an array, seamlessly whatever its chunks.

    An array over Dask chunks gives a lazy Dataset: nothing is computed yet, and a part that is computed reads what lies
    around it. Other arrays are segmented at once. Labels are those that ``segment`` gives the same pixels with the
    same window, halo, overlap, engine and precision. Where the options leave these open, nothing is measured: float32
    is taken, and the halo with which no tile can be seen.

    Args:
        array: dimensions (band, y, x) in any order, or a Dataset with a variable for each band. Other dimensions, such
            as time, are kept; each of their steps is segmented on its own.
        model: name of an embedded model, a model folder, or what ``load_model`` returned.
        bands: the array's bands in the order of the model, by name or number. Numbers are those of the coordinate of
            their dimension where it has numbers, as rioxarray's, else they count from 1. Default: by their names, which
            the coordinate of their dimension, a coordinate ``common_name``, or the attribute ``long_name`` tells.
        scale: value = number × scale + offset. Default: the attributes ``scale_factor`` and ``add_offset``; floats are
            values.
        offset: see ``scale``.
        nodata: number without data. Default: the attribute ``_FillValue``, ``missing_value`` or ``nodata``, or what the
            model assumes. NaN always is.
        probabilities: whether the probabilities of the classes are wanted, too.
        options: ``window``, ``halo``, ``overlap``, ``chunk_tiles``, ``device``, ``engine``, ``precision``, ``batch``
            and ``threads``; others, which are those of ``segment``, are refused.

    Returns:
        ``segmentation`` (…, y, x) uint8, 255 = no data; and ``probabilities`` (…, class, y, x) float32, NaN without
        data, if they are wanted. Coordinates and CRS are those of the array.

    Raises:
        InputError: bands are missing, or numbers have no meaning. Values that no surface has are refused when they are
            computed; with a scale that you give they are warned of.
        ModelError: the network cannot be run as the options ask.
    """
    known, options = load_model(model), check_options(options)
    _check_arguments(array, options)
    stack, meanings = stack_bands(array, known, bands, Meaning(scale, offset, nodata))
    height, width = stack.shape[-2:]
    if not stack.size:
        raise InputError(
            "the array", got=f"{height} × {width} pixels", expected="at least one", fix="select another part"
        )
    raster = Raster(height, width, len(known.spec.bands), stack.dtype.itemsize, len(known.classes), 0)
    tiling = _choose_tiling(list_candidate_tilings(raster, options.plan_options, known.reach))
    job = _ArrayJob(meanings, tiling, _make_loader(known, meanings, tiling.halo, options), len(known.classes))
    steps = stack.shape[:-3]
    parts = [_predict_step(job, stack[step].data, probabilities) for step in np.ndindex(*steps)]
    labels, *shares = (_join_steps(part, steps) for part in zip(*parts, strict=True))
    return _describe_result(stack, known, labels, *shares)


def _check_arguments(array: object, options: SegmentOptions) -> None:
    """Refuse what is no xarray, and options that would be ignored."""
    if not isinstance(array, xr.DataArray | xr.Dataset):
        raise InputError(
            "predict",
            got=f"a {type(array).__name__}",
            expected="an xarray.DataArray or Dataset",
            fix='xarray.DataArray(values, dims=("band", "y", "x")) of numbers, rioxarray.open_rasterio(path) of a file',
        )
    if ignored := options.model_dump(exclude_defaults=True, exclude=set(_OPTIONS)):
        raise InputError(
            "predict",
            got=f"the options {', '.join(ignored)}",
            expected=f"of the options {', '.join(_OPTIONS)} alone",
            fix="give bands, scale, offset and nodata as arguments of predict; other options are those of segment",
        )


def _choose_tiling(tilings: Sequence[Tiling]) -> Tiling:
    """Return the tiling whose windows are nearest to the preferred ones."""
    return min(tilings, key=lambda tiling: (abs(tiling.window - _WINDOW), tiling.window))


def _make_loader(model: Model, meanings: BandMeanings, halo: int, options: SegmentOptions) -> RuntimeLoader:
    from seamline.model.engines.candidates import choose_default_settings  # imports torch

    request = options.engine_request
    if request.precision == "auto":
        request = replace(request, precision="fp32")
    settings = choose_default_settings(model.spec.network, request, request.threads or 0)
    return RuntimeLoader(model.folder, model.digest, settings, meanings.radiometry, halo)


@dataclass(frozen=True)
class _ArrayJob:
    """What is the same for all parts of an array. Picklable and small.

    Attributes:
        meanings: what the numbers of the bands mean.
        tiling: tiling of the array.
        loader: loads the network.
        classes: number of classes.
    """

    meanings: BandMeanings
    tiling: Tiling
    loader: RuntimeLoader
    classes: int

    def infer(self, window: Window, pixels: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Infer a window from the pixels (bands, height, width) of ``find_source_window``; in any process.

        Returns:
            Labels (height, width) and probabilities (classes, height, width).
        """
        numbers = np.ascontiguousarray(pixels)
        valid = self.meanings.find_data(numbers)
        self.meanings.check_values(numbers, valid)
        thread, predictor = _load_predictor(self.loader)
        inferred = infer_window(self.tiling, window, numbers, valid, predictor, thread.run, self.classes)
        return inferred.labels, inferred.probabilities

    def predict_chunk(self, chunk: Index, pixels: Any) -> tuple[Any, Any]:
        """Return labels and probabilities of a chunk of the tiling; lazily if the pixels are those of a Dask array."""
        window = self.tiling.write_window_of(chunk)
        source = pixels[(slice(None), *find_source_window(self.tiling, window).to_slices())]
        if not isinstance(source, da.Array):
            return self.infer(window, np.asarray(source))
        labels, shares = delayed(self.infer, nout=2, pure=True)(window, source)
        return (
            da.from_delayed(labels, window.shape, np.uint8),
            da.from_delayed(shares, (self.classes, *window.shape), np.float32),
        )


_LOADING = Lock()
"""Held while a network is loaded: of several threads that want it at first, one loads it."""


def _load_predictor(loader: RuntimeLoader) -> tuple[InferenceThread, Predictor]:
    """Return a network that is loaded once in a process, and the thread that runs it."""
    with _LOADING:
        return _load_anew(loader)


@lru_cache(maxsize=2)
def _load_anew(loader: RuntimeLoader) -> tuple[InferenceThread, Predictor]:
    # The thread ends when nobody holds it any more, as that of an executor does.
    thread = InferenceThread()
    return thread, thread.run(loader)


def _predict_step(job: _ArrayJob, pixels: Any, probabilities: bool) -> tuple[Any, ...]:
    """Return labels (height, width) of pixels (bands, height, width), and probabilities (classes, …) if wanted.

    Of a Dask array they are lazy: they have a chunk for each of the tiling's chunks.
    """
    (rows, cols), wanted = job.tiling.chunk_grid, 1 + probabilities
    chunks = [[job.predict_chunk(Index(row, col), pixels)[:wanted] for col in range(cols)] for row in range(rows)]
    join = da.block if isinstance(pixels, da.Array) else np.block
    return tuple(join([[part[number] for part in row] for row in chunks]) for number in range(wanted))


def _join_steps(parts: Sequence[Any], steps: tuple[int, ...]) -> Any:
    """Return the arrays of all steps as one, with the dimensions of the steps first."""
    joined = (da if isinstance(parts[0], da.Array) else np).stack(parts)
    return joined.reshape(*steps, *parts[0].shape)


def _describe_result(stack: xr.DataArray, model: Model, labels: Any, probabilities: Any = None) -> xr.Dataset:
    """Return labels and probabilities as a Dataset with the coordinates of the pixels and the names of the classes."""
    *steps, band, rows, cols = stack.dims
    kept = {name: coordinate for name, coordinate in stack.coords.items() if band not in coordinate.dims}
    classes = {
        "class": ("class", [label.name for label in model.classes], {"long_name": "class"}),
        "class_value": ("class", np.array([label.value for label in model.classes], np.uint8)),
        "class_color": ("class", [label.hex for label in model.classes]),
    }
    attributes = {"long_name": "segmentation label", **build_class_flags(model.classes)}
    variables: dict[str, Any] = {LABELS_ARRAY: ((*steps, rows, cols), labels, attributes)}
    if probabilities is not None:
        title = {"long_name": "probability of the class", "units": "1"}
        variables["probabilities"] = ((*steps, "class", rows, cols), probabilities, title)
    result = xr.Dataset(variables, {**kept, **classes}, {"model": model.spec.name, "model_digest": model.digest})
    mapping = stack.encoding.get("grid_mapping") or stack.attrs.get("grid_mapping")
    if mapping is not None or "spatial_ref" in kept:
        for variable in result.data_vars.values():
            variable.encoding["grid_mapping"] = mapping or "spatial_ref"
    return result
