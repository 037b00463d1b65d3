"""TensorBoard's event files, written from a training's whole log: it travels in the checkpoints, so nothing is missing
after a resume, however many attempts there were."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FOLDER = "runs"  #: in the model's folder: `tensorboard --logdir runs`
#: Name in the log → tag. Others are left out.
TAGS = {
    "loss": "train/loss",
    "learning_rate": "train/learning_rate",
    "grad_norm": "train/gradient_norm",
    "samples_per_second": "speed/samples_per_second",
    "tokens_per_second": "speed/tokens_per_second",
    "data_wait": "speed/share_of_step_waiting_for_data",
    "memory_bytes": "memory/bytes",
    "validation_accuracy": "validation/accuracy",
    "validation_loss": "validation/loss",
}


def write(folder: Path, log: Iterable[Mapping[str, Any]]) -> int:
    """Write entries (step, time in seconds since 1970, and values by the names of `TAGS`); returns how many values."""
    from tensorboardX import SummaryWriter

    written = 0
    with SummaryWriter(str(folder), flush_secs=3600) as writer:
        for entry in log:
            for name in TAGS.keys() & entry.keys():
                writer.add_scalar(TAGS[name], entry[name], entry["step"], walltime=entry.get("time"))
                written += 1
    return written
