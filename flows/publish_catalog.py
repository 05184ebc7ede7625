"""The Prefect flow ``publish-catalog``: write the catalogue of all scenes anew, and check published files."""

# Without `from __future__ import annotations`: Prefect pickles a flow that is served by value, and finds the types of
# its parameters only as objects, not by their names.

from pathlib import Path
from typing import Any

from seamline.pipeline.common.extras import explain_missing_extra

with explain_missing_extra("the flow publish-catalog", "flows"):
    from prefect import flow, get_run_logger, task
    from prefect.cache_policies import NO_CACHE

from seamline.flows.runs.result_location import CatalogLocation
from seamline.flows.settings.credentials import use_credentials
from seamline.flows.tracking import artifacts
from seamline.flows.tracking.best_effort import show
from seamline.pipeline.common.classes import format_count
from seamline.pipeline.common.errors import InputError, RunError
from seamline.pipeline.common.layout import ITEM
from seamline.pipeline.maps.verify_map import verify_folder
from seamline.pipeline.publishing.upload import renew_catalog
from seamline.pipeline.results.verify import Finding
from seamline.pipeline.results.verify_objects import verify_objects
from seamline.pipeline.stac.catalog import update_catalog


@flow(name="publish-catalog", flow_run_name="publish {out}", persist_result=False, validate_parameters=True)
def publish_catalog_flow(
    out: str | Path = Path("results"), check: bool = True, credentials: str | None = None
) -> dict[str, Any]:
    """Write catalog.json and items.parquet of all scenes of a catalogue, and look whether its files are as published.

    The run fails where one is not.

    Args:
        out: Folder of the catalogue, or s3://BUCKET/PREFIX.
        check: Read every file and compare it with its checksum, as ``seamline verify`` does; of object storage, compare
            which files there are, and their sizes.
        credentials: Name of the Prefect Secret block with the keys of object storage; default: the environment's.

    Returns:
        How many scenes the catalogue lists.

    Raises:
        RunError: A file is not as it was published.
    """
    use_credentials(credentials)
    destination = CatalogLocation.from_out(out, None)
    scenes = catalog_task(destination)
    findings = check_task(destination) if check else []
    show(get_run_logger(), "the report", lambda: artifacts.show_findings(scenes, findings, str(out)))
    if findings:
        first = "; ".join(f"{finding.scene}/{finding.subject}: {finding.problem}" for finding in findings[:5])
        raise RunError(f"{format_count(len(findings), 'finding')} in {out}: {first}")
    return {"scenes": scenes}


@task(name="catalogue", persist_result=False, cache_policy=NO_CACHE)
def catalog_task(out: CatalogLocation) -> int:
    """Write catalogue and table of items; return the number of scenes.

    Raises:
        InputError: The folder does not exist.
    """
    if out.objects is not None:
        scenes = renew_catalog(out.objects)
    elif out.folder.is_dir():
        update_catalog(out.folder)
        scenes = len(list(out.folder.glob(f"*/{ITEM}")))
    else:
        raise InputError(
            f"out {out.folder}", got="no such folder", expected="a folder of results", fix="check the path"
        )
    get_run_logger().info("%s: %d scenes", out, scenes)
    return scenes


@task(name="check", persist_result=False, cache_policy=NO_CACHE)
def check_task(out: CatalogLocation) -> list[Finding]:
    """Return what is not as it was published, and log each finding as an error."""
    findings = list(verify_folder(out.folder) if out.objects is None else verify_objects(out.objects))
    for finding in findings:
        get_run_logger().error("%s/%s: %s", finding.scene or out, finding.subject, finding.problem)
    return findings
