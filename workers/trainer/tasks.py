"""The trainer's Celery task; its verb runs in a process of its own."""

from typing import Any

from shared import child
from shared.stage import perform
from workers.trainer.app import app

train = child.once("workers.trainer.train")


@app.task(name="train")
def train_task(**offer: Any) -> None:
    """Fine-tune a model on a mix of rows."""
    perform(train, offer)
