"""The command ``mosaic``: one map from many scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seamline.flows.cli.arguments import (
    JsonFlag,
    QuietFlag,
    VerboseFlag,
    parse_numbers,
    split_names,
    split_unseen,
    validate_as,
)
from seamline.flows.cli.config_file import ConfigOption
from seamline.flows.terminal import progress

app = typer.Typer()
# Each command imports what it runs when it is called, so that `--help` and refused usage answer at once.

_SCENES, _OUTPUTS, _CLUSTER = "Which scenes", "Outputs", "Cluster"
"""Groups of options in the help."""


@app.command()
def mosaic(
    results: Annotated[str, typer.Argument(help="Folder that scenes were segmented to, or s3://BUCKET/PREFIX")],
    out: Annotated[str, typer.Option(envvar="SEAMLINE_OUT", show_envvar=False, help="The map's folder, named as it")],
    crs: Annotated[str, typer.Option(help="CRS of the map: EPSG:32632")],
    resolution: Annotated[float, typer.Option(help="Edge of a pixel in units of the CRS")],
    bounds: Annotated[
        str, typer.Option(metavar="LEFT,BOTTOM,RIGHT,TOP", help="Where, in the CRS of the map; default: the scenes'")
    ] = "",
    aoi: Annotated[Path | None, typer.Option(help="Polygons that limit the map: GeoJSON, GeoPackage, …")] = None,
    period: Annotated[str, typer.Option(help="all, year, season, month, or FROM/TO: a map of each period")] = "all",
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be computed and why; compute nothing")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Make the map anew where one of another definition is")
    ] = False,
    where: Annotated[
        str, typer.Option(rich_help_panel=_SCENES, help="SQL expression over items.parquet: cloud_share < 0.5")
    ] = "",
    model: Annotated[
        str, typer.Option(rich_help_panel=_SCENES, help="Scenes segmented by the model of this name")
    ] = "",
    unseen: Annotated[
        str,
        typer.Option(
            rich_help_panel=_SCENES,
            help="Classes that hide the ground, such as cloud, or none; default: as the model's document says",
        ),
    ] = "",
    labels: Annotated[
        bool, typer.Option("--labels", rich_help_panel=_SCENES, help="Scenes without probabilities vote by labels")
    ] = False,
    on_bad_scene: Annotated[
        str, typer.Option(rich_help_panel=_SCENES, help="fail, or skip scenes whose files are gone or damaged")
    ] = "fail",
    outputs: Annotated[
        str, typer.Option(rich_help_panel=_OUTPUTS, help="What to write: zarr, cog, polygons, probabilities")
    ] = "cog,zarr",
    polygon_formats: Annotated[str, typer.Option(rich_help_panel=_OUTPUTS, help="Of fgb, gpkg, parquet")] = (
        "fgb,gpkg,parquet"
    ),
    polygon_min_area: Annotated[
        float, typer.Option(rich_help_panel=_OUTPUTS, help="Smaller polygons, in m², become part of a neighbour")
    ] = 0,
    polygon_simplify: Annotated[
        float, typer.Option(rich_help_panel=_OUTPUTS, help="Corners go whose triangle is smaller, in pixels")
    ] = 0,
    zarr_format: Annotated[
        int, typer.Option(rich_help_panel=_OUTPUTS, help="3, or 2 for QGIS and GDAL before 3.11")
    ] = 3,
    cluster: Annotated[
        str, typer.Option(rich_help_panel=_CLUSTER, help="local, or the address of a Dask scheduler")
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(rich_help_panel=_CLUSTER, help="Worker processes of a local cluster")
    ] = None,
    credentials: Annotated[
        str | None, typer.Option(rich_help_panel=_CLUSTER, help="Prefect Secret block with keys of object storage")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Fuse segmented scenes to one map, or bring it up to date: COG and Zarr, of each period, on one grid.

    Only what new, replaced and withdrawn scenes touch is computed. A killed run goes on when the same command is given
    again.

    Examples:
    seamline mosaic results --out map --crs EPSG:32632 --resolution 10

    seamline mosaic results --out water --crs EPSG:3035 --resolution 20 --period month --unseen cloud --aoi land.gpkg
    """
    from seamline.flows.maps.make_map import make_map, preview_map
    from seamline.flows.maps.options import MosaicOptions
    from seamline.flows.settings.credentials import use_credentials
    from seamline.flows.terminal import map_tables

    options = validate_as(
        MosaicOptions,
        "mosaic",
        crs=crs,
        resolution=resolution,
        bounds=parse_numbers("--bounds", bounds) if bounds else None,
        aoi=aoi,
        period=period,
        where=where,
        model=model,
        unseen=split_unseen(unseen),
        labels=labels,
        on_bad_scene=on_bad_scene,
        outputs=split_names(outputs),
        polygon_formats=split_names(polygon_formats),
        polygon_min_area=polygon_min_area,
        polygon_simplify=polygon_simplify,
        zarr_format=zarr_format,
        cluster=cluster,
        workers=workers,
        credentials=credentials,
        overwrite=overwrite,
    )
    use_credentials(options.credentials)
    if verbose:
        progress.show_logs()
    if plan:
        found = preview_map(results, out, options)
        print(map_tables.describe_map_plan(found)) if as_json else map_tables.show_map_plan(found)
        return
    with progress.show_map_progress(quiet=quiet) as observer:
        result = make_map(results, out, options, observer)
    if as_json:
        print(map_tables.describe_map(result))
    elif not quiet:
        map_tables.show_map(result)
        progress.print_next_step(out)
