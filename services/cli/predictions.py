"""Answers out of the store, as a submission."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from services.cli.collect import read_rows
from services.cli.data import Progress, resolve_data, resolve_model
from shared.contracts import Asking
from shared.errors import NotInStoreError, UsageError
from shared.formats.submission import write_submission
from shared.pipeline import Pipeline, Plan, make_plan
from shared.run import Runs, made
from shared.schema import Prediction
from shared.settings import settings
from shared.store import Store


def plan(
    store: Store,
    dataset: str,
    model: str,
    engine: str,
    system_prompt: str | None,
    how: Mapping[str, Any],
    progress: Progress,
) -> Plan:
    """A run that only predicts. The model is asked as it was trained, where its card tells how."""
    artifact = resolve_model(store, "base", model, progress)
    asked = asked_as(store, artifact)
    pipeline = Pipeline.model_validate(
        {
            "name": "predict",
            "data": {dataset: dataset},
            "models": {model: model},
            "video": asked.get("video", {}),
            "system_prompt": system_prompt or asked.get("system_prompt", "expert"),
            "submission": {"data": dataset, "model": model, "engine": engine, "asking": asking(how)},
        }
    )
    parts = resolve_data(store, dataset, dataset, progress)
    return make_plan(
        pipeline, {dataset: parts}, {model: artifact}, {artifact: made(store, artifact)}, settings().lacking
    )


def asking(values: Mapping[str, Any]) -> Asking:
    """How questions are put, by a command's options.

    Raises:
        UsageError: an option would do nothing; says what to add.
    """
    try:
        return Asking.model_validate(values)
    except ValidationError as error:
        raise UsageError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error


def asked_as(store: Store, artifact: str) -> dict[str, Any]:
    """The recipe that a model was trained with, by its card; empty where it has none."""
    try:
        card = json.loads(store.read_file(artifact, "card.json"))
    except NotInStoreError:
        return {}
    recipe: dict[str, Any] = card.get("recipe", {})
    return recipe


def submitting(store: Store, run: str) -> tuple[str, str] | None:
    """The model that makes a run's submission, and the step or name it goes by; None where it is not there yet."""
    runs = Runs(store)
    planned = runs.plan(run)
    predict = next((node for node in planned.nodes if node.name == planned.submission), None)
    if predict is None:
        return None
    (source,) = predict.inputs["model"]
    if source.node is None:
        artifact = str(source.artifact)
        return artifact, next((name for name, model in planned.models.items() if model == artifact), artifact[:12])
    made = runs.state(run, planned).node(source.node)
    return (made.artifacts[0], source.node) if made.complete else None


def write_run_submission(store: Store, run: str, path: Path) -> int:
    """Write the run's answers; returns how many.

    Raises:
        UsageError: the run makes no submission, or its answers are not there yet.
    """
    runs = Runs(store)
    planned = runs.plan(run)
    if planned.submission is None or planned.submission_data is None:
        raise UsageError(f"run {run} has no `submission:` in its pipeline file")
    node = runs.state(run, planned).node(planned.submission)
    if not node.complete:
        raise UsageError(f"run {run} has not finished its answers; `roadqa watch {run}`")
    questions, _ = read_rows(store, planned.datasets[planned.submission_data])
    lines = [line for a in node.artifacts for line in store.read_file(a, "predictions.jsonl").splitlines()]
    write_submission(path, questions, [Prediction.model_validate_json(line) for line in lines])
    return len(questions)
