"""The augmenter's Celery task."""

from typing import Any

from shared.stage import perform
from workers.augmenter.app import app
from workers.augmenter.augment import augment


@app.task(name="augment")
def augment_task(**offer: Any) -> None:
    """Vary the text of one shard of questions."""
    perform(augment, offer)
