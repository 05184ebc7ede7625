"""The options of a run, once for all commands that take some of them.

A command has one parameter ``options: SegmentOptions``. ``take_options`` puts the options of the command line in its
place, and calls the command with what they say, validated.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from seamline.flows.cli.arguments import split_names, validate_options

_SCENE, _TILING, _NETWORK, _CLUSTER, _OUTPUTS = "Scene", "Tiling", "Network", "Cluster", "Outputs"
"""Groups of options in the help; those that most people need come first, in none of them."""

_LISTS = ("outputs", "polygon_formats", "bands")
"""Options whose values are names separated by commas."""


@dataclass(frozen=True)
class RunOption:
    """An option of the command line that is a field of ``SegmentOptions``.

    Attributes:
        type: type of its value on the command line.
        default: what is taken where it is not given.
        help: what it does.
        panel: group in the help; None for the one that comes first.
        is_variable: whether the environment variable ``SEAMLINE_<NAME>`` may give it.
    """

    type: Any
    default: Any
    help: str
    panel: str | None = None
    is_variable: bool = True

    def to_parameter(self, name: str) -> inspect.Parameter:
        """Return the parameter of a command that Typer makes an option of."""
        declared = typer.Option(
            "--" + name.replace("_", "-"),  # with a name of its own a switch has no --no-…
            help=self.help,
            rich_help_panel=self.panel,
            envvar=f"SEAMLINE_{name.upper()}" if self.is_variable else None,
            show_envvar=False,
        )
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(name, kind, default=self.default, annotation=Annotated[self.type, declared])


RUN_OPTIONS = {
    "outputs": RunOption(
        str, "cog,zarr", "What to write: cog, zarr, polygons, probabilities, confidence, disagreement"
    ),
    "bands": RunOption(str, "", "The scene's bands in the model's order, separated by commas"),
    "aoi": RunOption(Path | None, None, "Polygons that limit the work: GeoJSON, GeoPackage, Shapefile, KML, …"),
    "check": RunOption(bool, False, "Compare all checksums of what is finished", is_variable=False),
    "overwrite": RunOption(bool, False, "Start over where something else is", is_variable=False),
    "scale": RunOption(float | None, None, "Value = digital number × scale + offset", _SCENE),
    "offset": RunOption(float | None, None, "See --scale", _SCENE),
    "nodata": RunOption(str | None, None, "Digital number that means no data, or none", _SCENE),
    "datetime": RunOption(
        str | None,
        None,
        "When the scene was taken, if its files don't say so: 2024-06-01, a time, or START/END",
        _SCENE,
        is_variable=False,
    ),
    "on_bad_block": RunOption(str, "fail", "fail, or nodata: go on without unreadable blocks", _SCENE),
    "window": RunOption(str, "auto", "Edge of the network's windows in pixels, or auto", _TILING),
    "halo": RunOption(str, "auto", "Context that is read and thrown away, in pixels, or auto", _TILING),
    "overlap": RunOption(str, "auto", "Band in which tiles are feathered, in pixels, or auto", _TILING),
    "chunk_tiles": RunOption(int | None, None, "Tiles along the edge of a chunk", _TILING),
    "device": RunOption(str, "auto", "auto, cpu or cuda", _NETWORK),
    "precision": RunOption(str, "auto", "auto, fp32, bf16, fp16 or fp64", _NETWORK),
    "engine": RunOption(str, "auto", "auto, torch, compiled, onnxruntime or openvino: what runs the network", _NETWORK),
    "batch": RunOption(int | None, None, "Windows that go through the network at once", _NETWORK),
    "threads": RunOption(int | None, None, "Threads of the network in each worker", _NETWORK),
    "cluster": RunOption(str, "local", "local, or the address of a Dask scheduler", _CLUSTER),
    "workers": RunOption(int | None, None, "Worker processes of the local cluster", _CLUSTER),
    # Its variable, SEAMLINE_WORK, is read where no folder is given, also by flows.
    "work": RunOption(Path | None, None, "Folder to work in where --out is s3://…", _CLUSTER, is_variable=False),
    "credentials": RunOption(str | None, None, "Prefect Secret block with the keys of object storage", _CLUSTER),
    "zarr_format": RunOption(int, 3, "Version of the Zarr format: 3, or 2 for old QGIS", _OUTPUTS),
    "zarr_shards": RunOption(bool, False, "Few large objects, for object stores", _OUTPUTS),
    "polygon_formats": RunOption(str, "fgb,gpkg,parquet", "Files of polygons: fgb, gpkg, parquet, pmtiles", _OUTPUTS),
    "polygon_min_area": RunOption(float, 0, "Smaller ones, in m², become part of a neighbour", _OUTPUTS),
    "polygon_simplify": RunOption(float, 0, "Fewer corners: tolerance in pixels; 0: exact", _OUTPUTS),
}
"""Options by the names of their fields, in the order of the help."""

SCENE_OPTIONS = ("bands", "aoi", "scale", "offset", "nodata")
TILING_OPTIONS = ("window", "halo", "overlap", "chunk_tiles")
NETWORK_OPTIONS = ("device", "precision", "engine", "batch", "threads")
CLUSTER_OPTIONS = ("cluster", "workers", "credentials")


def take_options(
    names: Sequence[str], prepare: Callable[[], None] = lambda: None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that puts options of a run in the place of a command's parameter ``options``.

    Args:
        names: which options, keys of ``RUN_OPTIONS``.
        prepare: is called before the options are validated, which imports much of the package.
    """
    chosen = {name: option for name, option in RUN_OPTIONS.items() if name in names}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**values: Any) -> None:
            prepare()
            given = {name: values.pop(name) for name in chosen}
            typed = {name: split_names(value) if name in _LISTS else value for name, value in given.items()}
            command(**values, options=validate_options(**typed))

        hints = get_type_hints(command, include_extras=True, localns={"SegmentOptions": Any})
        parameters: list[inspect.Parameter] = []
        for name, parameter in inspect.signature(command).parameters.items():
            if name == "options":
                parameters += [option.to_parameter(name) for name, option in chosen.items()]
            else:
                kind = inspect.Parameter.KEYWORD_ONLY
                parameters.append(parameter.replace(kind=kind, annotation=hints[name]))
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate
