"""The Prefect flow ``publish-catalog``: the catalogue of all scenes written anew, and what is published looked over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.artifacts import findings_report
from pipeline.catalog import update_catalog
from pipeline.errors import InputError, RunError
from pipeline.items import ITEM
from pipeline.verification import Finding, verify


@flow(name="publish-catalog", flow_run_name="publish {out}", persist_result=False, validate_parameters=True)
def publish_catalog_flow(out: Path = Path("results"), check: bool = True) -> dict[str, Any]:
    """Write catalog.json and items.parquet of all scenes in a folder, and look whether its files are as published.

    The run fails where one is not.

    Args:
        out: Folder of the catalogue.
        check: Read every file and compare it with its checksum, as ``seamline verify`` does.
    """
    scenes = catalog_task(out)
    findings = check_task(out) if check else []
    text = findings_report(scenes, findings, out)
    create_markdown_artifact(markdown=text, key="publish-catalog", description=str(out))
    if findings:
        told = "; ".join(f"{finding.scene}/{finding.subject}: {finding.problem}" for finding in findings[:5])
        raise RunError(f"{len(findings)} findings in {out}: {told}")
    return {"scenes": scenes}


@task(name="catalogue", persist_result=False, cache_policy=NO_CACHE)
def catalog_task(out: Path) -> int:
    """Write catalogue and table; returns the number of scenes."""
    if not out.is_dir():
        raise InputError(f"out {out}", got="no such folder", expected="a folder of results", fix="check the path")
    update_catalog(out)
    scenes = len(list(out.glob(f"*/{ITEM}")))
    get_run_logger().info("%s: %d scenes", out, scenes)
    return scenes


@task(name="check", persist_result=False, cache_policy=NO_CACHE)
def check_task(out: Path) -> list[Finding]:
    """What is not as it was published."""
    findings = list(verify(out))
    for finding in findings:
        get_run_logger().error("%s/%s: %s", finding.scene or out.name, finding.subject, finding.problem)
    return findings
