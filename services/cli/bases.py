"""A run that would train what cannot be trained is refused before a clip is read."""

import json

from shared import families
from shared.errors import InputError, UsageError
from shared.pipeline import Plan
from shared.store import Store


def check(store: Store, plan: Plan) -> None:
    """Look at the base of each train step, by its config.json.

    Raises:
        UsageError: names the step, the kind of model, and the kinds that can be trained.
    """
    for node in plan.nodes:
        if node.stage != "train":
            continue
        for source in node.inputs["model"]:
            if source.artifact is None:
                continue  # an earlier train step's, so of the same kind as its base
            config = json.loads(store.read_file(source.artifact, "config.json"))
            try:
                families.check(config, f"steps.{node.name}: its model {plan_name(plan, source.artifact)!r}")
            except InputError as error:
                raise UsageError(str(error)) from error


def plan_name(plan: Plan, artifact: str) -> str:
    """What the pipeline calls a model."""
    return next((name for name, found in plan.models.items() if found == artifact), artifact[:12])
