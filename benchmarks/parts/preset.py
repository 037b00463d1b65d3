"""The sandbox preset drawn by another lot: its pipeline, a run of it, and what each row answered to each question."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from scripts.demo import STATE, roadqa
from services.cli.collect import read_rows
from services.local import stack
from shared import metrics
from shared.run import Runs
from shared.schema import Prediction
from shared.settings import settings
from shared.store import store

SEEDS = (0, 1, 2)
_SCENES = 100  #: between the scenes of one lot and the next; lot 0 has the preset's own

Pipeline = dict[str, Any]


class Answered(NamedTuple):
    """What one model answered to the test's questions, in the test's order."""

    right: list[int]  #: 1 or 0
    recordings: list[str]
    groups: list[str]  #: categories
    chances: list[float]  #: that a guess is right
    seconds: float  #: of a question, on average

    def score(self) -> dict[str, Any]:
        """Accuracy, its interval with the recording as unit, n, and the accuracy of each category."""
        categories = {name: group["accuracy"] for name, group in self.categories().items()}
        return _share(self.right, self.recordings) | {"by_category": categories}

    def categories(self) -> dict[str, dict[str, Any]]:
        """The same of each category, with what a guess would get."""
        found = {}
        for name in sorted(set(self.groups)):
            own = [place for place, group in enumerate(self.groups) if group == name]
            right, recordings = [self.right[i] for i in own], [self.recordings[i] for i in own]
            found[name] = _share(right, recordings) | {"chance": sum(self.chances[i] for i in own) / len(own)}
        return found


def _share(right: list[int], recordings: list[str]) -> dict[str, Any]:
    accuracy, interval = metrics.accuracy_interval(right, recordings)
    return {"accuracy": accuracy, "ci95": [interval.low, interval.high], "n": len(right),
            "recordings": len(set(recordings))}  # fmt: skip


def pooled(parts: dict[int, Answered]) -> Answered:
    """The lots' answers as one: every lot has recordings of its own, whatever their names."""
    found = parts.values()
    return Answered(
        [right for part in found for right in part.right],
        [f"{lot}/{recording}" for lot, part in parts.items() for recording in part.recordings],
        [group for part in found for group in part.groups],
        [chance for part in found for chance in part.chances],
        sum(part.seconds for part in found) / len(parts),
    )


def preset(lot: int, longer: float = 1) -> Pipeline:
    """The preset, no quantised models and no submission; another lot draws all scenes anew and seeds both trainings.

    Args:
        lot: whose scenes.
        longer: how many times the preset's epochs are trained.
    """
    text = (resources.files("services.cli.presets") / "sandbox.yaml").read_text(encoding="utf-8")
    found: Pipeline = yaml.safe_load(text)
    for data in found["data"].values():
        data["seed"] += _SCENES * lot
    found["steps"] = {name: step for name, step in found["steps"].items() if step["stage"] != "quantize"}
    for step in found["steps"].values():
        if step["stage"] == "train":
            step["seed"] = lot
            step["epochs"] *= longer
    rows = found["report"]["rows"]
    asked = {*found["steps"], *found["models"]}
    found["report"]["rows"] = {name: row for name, row in rows.items() if row.get("model", name) in asked}
    del found["submission"]
    return found


@contextlib.contextmanager
def lent() -> Iterator[dict[str, str]]:
    """The local stack's environment, which this process reads too; a stack that was not up is stopped afterwards."""
    with stack.borrowed(STATE) as env:
        os.environ |= env
        settings.cache_clear()
        store.cache_clear()
        yield env


def run(env: dict[str, str], pipeline: Pipeline) -> dict[str, Answered]:
    """Run a pipeline to its end, its progress on the terminal; what is in the store is not done again.

    Raises:
        RoadQAError: a step died; `roadqa watch` said which and why.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        path.write_text(yaml.safe_dump(pipeline, sort_keys=False, allow_unicode=True), encoding="utf-8")
        name = roadqa(env, "run", str(path), capture=True).strip().splitlines()[-1]
    roadqa(env, "watch", name)
    return _answers(name)


def _answers(run: str) -> dict[str, Answered]:
    held = store()
    runs = Runs(held)
    plan = runs.plan(run)
    state = runs.state(run, plan)
    assert plan.test is not None
    questions, clips = read_rows(held, plan.datasets[plan.test])
    found = {}
    for row in plan.rows:
        predictions = {}
        for artifact in state.node(row.predict).artifacts:
            for line in held.read_file(artifact, "predictions.jsonl").splitlines():
                prediction = Prediction.model_validate_json(line)
                predictions[prediction.question] = prediction
        found[row.name] = Answered(
            [int(predictions[question.id].choice == question.answer) for question in questions],
            [clips[question.clip].recording for question in questions],
            [question.category for question in questions],
            [1 / len(question.offered) for question in questions],
            sum(predictions[question.id].seconds for question in questions) / len(questions),
        )
    return found
