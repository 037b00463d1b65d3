"""The quantizer's Celery task; its verb runs in a process of its own."""

from typing import Any

from shared import child
from shared.stage import perform
from workers.quantizer.app import app

quantize = child.once("workers.quantizer.quantize")


@app.task(name="quantize")
def quantize_task(**offer: Any) -> None:
    """Bring a model's weights to four or eight bits."""
    perform(quantize, offer)
