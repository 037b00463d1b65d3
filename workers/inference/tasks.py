"""The inference worker's Celery tasks; the engine stays loaded in a process of its own."""

from typing import Any

from shared import child
from shared.stage import perform
from workers.inference.app import app
from workers.inference.evaluate import evaluate

predict = child.resident("workers.inference.predict")


@app.task(name="predict")
def predict_task(**offer: Any) -> None:
    """Answer one shard of questions."""
    perform(predict, offer)


@app.task(name="evaluate")
def evaluate_task(**offer: Any) -> None:
    """Score predictions, and compare them with the parent's."""
    perform(evaluate, offer)
