"""The labeler's Celery task."""

from typing import Any

from shared.stage import perform
from workers.labeler.app import app
from workers.labeler.label import label


@app.task(name="label")
def label_task(**offer: Any) -> None:
    """Ask the teacher about one shard of questions."""
    perform(label, offer)
