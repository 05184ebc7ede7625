"""The Prefect flow ``train-model``: train a model by a recipe into a model folder."""

# Without `from __future__ import annotations`: Prefect pickles a flow that is served by value, and finds the types of
# its parameters only as objects, not by their names.

from pathlib import Path
from typing import Any
from uuid import UUID

from seamline.pipeline.common.extras import explain_missing_extra

with explain_missing_extra("the flow train-model", "flows"):
    from prefect import flow, get_run_logger, task
    from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact

from seamline.flows.tracking.best_effort import show
from seamline.flows.training.recipe_documents import read_recipe
from seamline.flows.training.train_from_recipe import train_from_recipe
from seamline.model.training.loop import EpochReport


@task(task_run_name="train by {recipe}", persist_result=False)
def train_task(recipe: Path, data: Path, out: Path, changes: list[str], overwrite: bool) -> dict[str, Any]:
    """Train a model; a retry goes on from the last checkpoint.

    Args:
        recipe: The recipe's file.
        data: Folder that the recipe's paths start from.
        out: The model folder to write.
        changes: Fields of the recipe to set, FIELD=VALUE.
        overwrite: Replace the model that is in the folder.

    Returns:
        ``folder``, ``name`` and ``iou`` (of each class in each epoch).
    """
    log = get_run_logger()
    loaded_recipe = read_recipe(recipe, changes)
    description = f"training of {loaded_recipe.name}"
    artifact = show(log, "progress", lambda: create_progress_artifact(progress=0.0, description=description))
    epochs: list[EpochReport] = []

    def report_epoch(epoch: EpochReport) -> None:
        scores = " ".join(f"{score:.3f}" for score in epoch.iou) or "no hold-out"
        text = "epoch %d of %d: loss %.4f, IoU %s, %.0f s"
        log.info(text, epoch.epoch, epoch.epochs, epoch.loss, scores, epoch.seconds)
        epochs.append(epoch)
        if isinstance(artifact, UUID):  # Prefect's type also allows other results
            percent = 100.0 * epoch.epoch / epoch.epochs
            show(log, "progress", lambda: update_progress_artifact(artifact, progress=percent))

    spec = train_from_recipe(loaded_recipe, data, out, report_epoch, overwrite)
    last_scores = epochs[-1].iou if epochs else ()
    rows = zip((entry.name for entry in spec.classes), last_scores, strict=False)
    table = "\n".join(f"| {name} | {score:.3f} |" for name, score in rows)
    text = f"# {spec.name}\n\n`{out}`\n\n| class | IoU on the hold-out |\n|---|---|\n{table}"
    show(
        log,
        "the report",
        lambda: create_markdown_artifact(markdown=text, key="train-model", description=spec.name),
    )
    return {"folder": str(out), "name": spec.name, "iou": [list(epoch.iou) for epoch in epochs]}


@flow(name="train-model", retries=0, persist_result=False, validate_parameters=True)
def train_model_flow(
    recipe: Path,
    data: Path,
    out: Path,
    holdout: list[str] | None = None,
    changes: list[str] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train a model by a recipe.

    Args:
        recipe: YAML file with network, bands, classes, sources and schedule.
        data: Folder that the recipe's paths start from.
        out: The model folder to write.
        holdout: Sources to validate on and not to train on; default: those that the recipe names.
        changes: Fields of the recipe to set, such as ``schedule.epochs=5``.
        overwrite: Replace the model that is in the folder.

    Returns:
        ``folder``, ``name`` and ``iou`` (of each class in each epoch).
    """
    holdout_change = [f"holdout=[{', '.join(holdout)}]"] if holdout else []
    return train_task(recipe, data, out, [*(changes or []), *holdout_change], overwrite)
