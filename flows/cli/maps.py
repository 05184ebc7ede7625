"""The commands of maps: ``mosaic`` makes one from many scenes, ``change`` and ``zones`` say what it shows."""

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
from seamline.pipeline.common.errors import InputError

app = typer.Typer()
# Each command imports what it runs when it is called, so that `--help` and refused usage answer at once.

_SCENES, _OUTPUTS, _CLUSTER = "Which scenes", "Outputs", "Cluster"
"""Groups of options in the help."""


def _check_maps(maps: list[str]) -> list[str]:
    """Refuse more than two maps."""
    if len(maps) > 2:
        raise InputError("change", got=f"{len(maps)} maps", expected="one or two", fix="leave out the others")
    return maps


@app.command()
def mosaic(
    results: Annotated[str, typer.Argument(help="Folder that scenes were segmented to, or s3://BUCKET/PREFIX")],
    out: Annotated[str, typer.Option(help="The map's folder, or s3://BUCKET/PREFIX, named as it")],
    crs: Annotated[str, typer.Option(help="CRS of the map: EPSG:32632")],
    resolution: Annotated[float, typer.Option(help="Edge of a pixel in units of the CRS")],
    bounds: Annotated[
        str, typer.Option(metavar="LEFT,BOTTOM,RIGHT,TOP", help="Where, in the CRS of the map; default: the scenes'")
    ] = "",
    aoi: Annotated[Path | None, typer.Option(help="Polygons that limit the map: GeoJSON, GeoPackage, …")] = None,
    period: Annotated[str, typer.Option(help="all, year, season, month, or FROM/TO: a map of each period")] = "all",
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be computed and why; compute nothing")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Restore files of the map whose content has changed, not only their size")
    ] = False,
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
    polygon_formats: Annotated[str, typer.Option(rich_help_panel=_OUTPUTS, help="Of fgb, gpkg, parquet, pmtiles")] = (
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
    work: Annotated[
        Path | None, typer.Option(rich_help_panel=_CLUSTER, help="Folder to work in where --out is s3://…")
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
        work=work,
        credentials=credentials,
        check=check,
        overwrite=overwrite,
    )
    use_credentials(options.credentials)
    if verbose:
        progress.show_logs()
    if plan:
        found = preview_map(results, out, options)
        if as_json:
            print(map_tables.describe_map_plan(found))
        elif not quiet:
            map_tables.show_map_plan(found)
        return
    with progress.show_map_progress(quiet=quiet) as observer:
        result = make_map(results, out, options, observer)
    if as_json:
        print(map_tables.describe_map(result))
    elif not quiet:
        map_tables.show_map(result)
        catalogue = Path(results).absolute()
        is_inside = Path(out).absolute().parent == catalogue  # there the map stands beside its scenes
        progress.print_next_step(results if is_inside else out)


@app.command()
def change(
    maps: Annotated[
        list[str],
        typer.Argument(
            metavar="MAP [MAP2]",
            help="Folder or s3:// address of a map, or of results; of two for both",
            callback=_check_maps,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for transitions.tif, .csv and .json")],
    from_period: Annotated[str, typer.Option("--from", metavar="PERIOD", help="Period of the map, or a scene")] = "",
    to_period: Annotated[str, typer.Option("--to", metavar="PERIOD", help="Period to compare it with, of MAP2")] = "",
    min_agreement: Annotated[
        float, typer.Option(help="Leave out pixels of which fewer observations, as a share, agreed with the map")
    ] = 0.0,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Compare two periods of a map, or of two maps: a raster of transitions, and hectares from class to class.

    Pixels count that both have seen.

    Examples:
    seamline change map --from 2024 --to 2025 --out change

    seamline change old-map new-map --out change --min-agreement 0.7
    """
    from seamline.flows.api.maps import change as compare
    from seamline.flows.settings.credentials import use_credentials
    from seamline.flows.terminal import map_tables

    use_credentials(None)
    after = maps[1] if len(maps) > 1 else None
    result = compare(maps[0], after, out=out, from_period=from_period, to_period=to_period, min_agreement=min_agreement)
    if as_json:
        print(map_tables.describe_change(result))
    elif not quiet:
        map_tables.show_change(result)


@app.command()
def zones(
    results: Annotated[str, typer.Argument(help="Folder of a map, or of segmented scenes, or s3://BUCKET/PREFIX")],
    polygons: Annotated[Path, typer.Argument(metavar="ZONES", help="Polygons: GeoPackage, GeoParquet, …, in any CRS")],
    out: Annotated[Path, typer.Option(help="The table: FILE.parquet (GeoParquet) or FILE.csv")],
    by: Annotated[
        str, typer.Option(metavar="NAME", help="Attribute that names the zones; features of one name are one zone")
    ] = "",
    layer: Annotated[str, typer.Option(help="Layer of ZONES, if it has several")] = "",
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Measure the area of each class in each zone: of each period of a map, or of each scene.

    Pixels that lie in a zone in part count in part.

    Examples:
    seamline zones map districts.gpkg --by name --out districts.parquet

    seamline zones results lakes.geojson --out lakes.csv
    """
    from seamline.flows.api.maps import zones as measure
    from seamline.flows.settings.credentials import use_credentials
    from seamline.flows.terminal import map_tables

    use_credentials(None)
    table = measure(results, polygons, out, by=by, layer=layer)
    if as_json:
        print(map_tables.describe_zones(table, out))
    elif not quiet:
        map_tables.show_zones(table, out)
