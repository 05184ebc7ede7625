"""Look at this machine for ``seamline doctor``: software, GDAL, memory, devices, folders, the model."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

import rasterio
from dask.utils import format_bytes
from packaging.requirements import Requirement

from seamline.flows.settings.checks import (
    SHOWN_PACKAGES,
    Check,
    State,
    judge_drivers,
    judge_extras,
    judge_folder,
    judge_packages,
)
from seamline.flows.settings.folders import get_cache_folder, inspect_folder
from seamline.flows.settings.model_folder import Model, open_model
from seamline.model.spec.errors import ModelError, get_first_line
from seamline.pipeline.cluster.connect import CLIENT_MEMORY
from seamline.pipeline.cluster.machine import CORES, NVIDIA_DRIVER, get_memory_limit, share_memory
from seamline.pipeline.common.classes import format_count
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.extras import EXTRAS, list_missing_modules
from seamline.pipeline.raster_io.abilities import (
    READ_DRIVERS,
    VECTOR_DRIVERS,
    WRITTEN_CODECS,
    WRITTEN_DRIVERS,
    find_cog_problem,
    find_crs_problem,
    has_gdal_data,
    list_missing_drivers,
    list_missing_vector_drivers,
    split_codecs,
)

_PYTHON = "Python"
_GDAL_FIX = "unset GDAL_DATA, PROJ_DATA and PROJ_LIB, which name the data of another GDAL, or install rasterio anew"


def check_software() -> Iterator[Check]:
    """Check Python, the packages that Seamline and its installed extras require, and what GDAL can do."""
    missing = {extra: list_missing_modules(extra) for extra in EXTRAS}
    asked = ["", *(extra for extra, modules in missing.items() if not modules)]
    every = [Requirement(need) for need in requires("seamline") or () if not need.startswith("seamline")]
    needs = [
        need for need in every if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in asked)
    ]
    versions = {_PYTHON: platform.python_version()}
    for name in {*SHOWN_PACKAGES, *(need.name for need in needs)}:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    yield Check("Python", State.OK, f"{versions[_PYTHON]} on {platform.system()} {platform.machine()}")
    python = Requirement(f"{_PYTHON}{metadata('seamline')['Requires-Python']}")
    yield judge_packages([python, *needs], versions)
    yield judge_extras(missing)
    crs = _check_crs()
    yield crs
    if crs.state is not State.FAILED:  # a COG has a CRS
        yield _check_cog()
    yield from _check_drivers()


def _check_crs() -> Check:
    found = f"GDAL {rasterio.__gdal_version__} with PROJ {rasterio.__proj_version__}"
    if problem := find_crs_problem():
        return Check("CRS", State.FAILED, problem, _GDAL_FIX)
    if not has_gdal_data():
        return Check("CRS", State.WARNING, f"{found}: CRS are transformed, but GDAL finds no data", _GDAL_FIX)
    return Check("CRS", State.OK, f"{found}: transformed")


def _check_cog() -> Check:
    try:
        with tempfile.TemporaryDirectory(prefix="seamline-doctor-") as folder:
            problem = find_cog_problem(Path(folder))
    except OSError as error:
        problem = f"no temporary folder: {error.strerror}"
    if problem:
        return Check("COG", State.FAILED, problem, "make room for temporary files; if there is, install rasterio anew")
    return Check("COG", State.OK, "written and read back")


def _check_drivers() -> Iterator[Check]:
    known = (*WRITTEN_DRIVERS, *READ_DRIVERS)
    lost = {name: READ_DRIVERS.get(name, "results") for name in list_missing_drivers(known)}
    yield judge_drivers("raster formats", known, lost, WRITTEN_DRIVERS)
    if not list_missing_modules("vectors"):
        lost = {name: VECTOR_DRIVERS[name] for name in list_missing_vector_drivers(VECTOR_DRIVERS)}
        yield judge_drivers("vector formats", tuple(VECTOR_DRIVERS), lost, ())
    working, missing = split_codecs()
    lost = {name: "results" if name in WRITTEN_CODECS else f"GeoTIFF compressed with {name}" for name in missing}
    yield judge_drivers("GeoTIFF codecs", (*working, *missing), lost, WRITTEN_CODECS)


def check_resources(workers: int, engines: Mapping[str, str]) -> Iterator[Check]:
    """Check cores and memory, devices and engines.

    Args:
        workers: Worker processes that a run would start here.
        engines: Name of each installed package that runs networks → its version.
    """
    found = f"{format_count(CORES, 'core')}, {format_bytes(get_memory_limit())}"
    try:
        share = share_memory(workers, CLIENT_MEMORY)
        yield Check(
            "cores and memory",
            State.OK,
            f"{found}: `segment` starts {format_count(workers, 'worker')} of {format_bytes(share)}",
        )
    except InputError as error:
        yield Check("cores and memory", State.FAILED, f"{found}: {error.got}", error.fix)
    yield _check_devices()
    yield Check("engines", State.OK, ", ".join(f"{name} {number}" for name, number in engines.items()))


def _check_devices() -> Check:
    try:
        import torch  # takes seconds
    except (ImportError, OSError) as error:  # OSError: one of its libraries does not load
        return Check("GPUs", State.FAILED, f"torch does not load: {get_first_line(error)}", "install torch anew")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if names:
        return Check("GPUs", State.OK, ", ".join(names))
    if NVIDIA_DRIVER.exists():
        fix = "install a torch that was built for CUDA; look at nvidia-smi and CUDA_VISIBLE_DEVICES"
        return Check("GPUs", State.WARNING, "none that torch can use, but an NVIDIA driver", fix)
    return Check("GPUs", State.OK, "none: networks run on the CPU")


def check_folders(folders: Sequence[Path]) -> Iterator[Check]:
    """Check the cache, the folder of temporary files and other folders."""
    yield judge_folder("cache", inspect_folder(get_cache_folder()), is_optional=True)
    yield judge_folder("temporary files", inspect_folder(Path(tempfile.gettempdir())))
    for folder in folders:
        yield judge_folder("folder", inspect_folder(folder))


def check_model(name: str) -> tuple[Check, Model | None]:
    """Open a model; its weights are compared with their digest."""
    try:
        model = open_model(name)
    except ModelError as error:
        return Check("model", State.FAILED, str(error), "see seamline model list"), None
    return Check("model", State.OK, f"{model.spec.name} {model.spec.version}, digest {model.digest[:12]}"), model
