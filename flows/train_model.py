"""The Prefect flow ``train-model``: a recipe in, a model folder out."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact

from seamline.flows.training.recipe_documents import read_recipe
from seamline.flows.training.train_from_recipe import train_from_recipe
from seamline.model.training.loop import EpochReport


@task(task_run_name="train by {recipe}", persist_result=False)
def train_task(recipe: Path, data: Path, out: Path, changes: list[str], overwrite: bool) -> dict[str, Any]:
    """The whole training as one task: it goes on from its last checkpoint, so a retry loses one epoch at most."""
    log = get_run_logger()
    read = read_recipe(recipe, changes)
    artifact = create_progress_artifact(progress=0.0, description=f"training of {read.name}")
    history: list[EpochReport] = []

    def report(progress: EpochReport) -> None:
        scores = " ".join(f"{score:.3f}" for score in progress.iou) or "no hold-out"
        log.info(
            "epoch %d of %d: loss %.4f, IoU %s, %.0f s",
            progress.epoch, progress.epochs, progress.loss, scores, progress.seconds,
        )  # fmt: skip
        history.append(progress)
        if isinstance(artifact, UUID):
            update_progress_artifact(artifact, progress=100.0 * progress.epoch / progress.epochs)

    spec = train_from_recipe(read, data, out, report, overwrite)
    rows = zip((entry.name for entry in spec.classes), history[-1].iou if history else (), strict=False)
    table = "\n".join(f"| {name} | {score:.3f} |" for name, score in rows)
    create_markdown_artifact(
        markdown=f"# {spec.name}\n\n`{out}`\n\n| class | IoU on the hold-out |\n|---|---|\n{table}",
        key="train-model",
        description=spec.name,
    )
    return {"folder": str(out), "name": spec.name, "iou": [list(done.iou) for done in history]}


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
    """
    held = [f"holdout=[{', '.join(holdout)}]"] if holdout else []
    return train_task(recipe, data, out, [*(changes or []), *held], overwrite)
