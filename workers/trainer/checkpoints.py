"""Checkpoints in scratch: kept whole, older ones dropped, the newest found again by the next attempt.

A ZeRO checkpoint is cut for its number of processes, so that number is part of the name, and an attempt
with another number starts afresh.
"""

import re
import shutil
from pathlib import Path

from shared.context import Scratch

_NAME = re.compile(r"step-(\d{8})-of-(\d+)")


def name(step: int, processes: int) -> str:
    return f"step-{step:08d}-of-{processes}"


def kept_steps(scratch: Scratch, processes: int) -> list[int]:
    """Steps of the complete checkpoints for this number of processes, oldest first."""
    found = (_NAME.fullmatch(folder) for folder in scratch.folders())
    return sorted(int(match[1]) for match in found if match and int(match[2]) == processes)


def keep(scratch: Scratch, folder: Path, step: int, processes: int) -> None:
    """Keep a finished checkpoint folder, then drop what it replaces, in scratch and on disk."""
    scratch.put_folder(name(step, processes), folder)
    for older in kept_steps(scratch, processes):
        if older < step:
            scratch.drop_folder(name(older, processes))
    shutil.rmtree(folder)


def newest(scratch: Scratch, processes: int, into: Path) -> Path | None:
    """Bring back the newest checkpoint as `into/checkpoint-<step>`; None where there is none."""
    steps = kept_steps(scratch, processes)
    if not steps:
        return None
    folder = into / f"checkpoint-{steps[-1]}"
    return folder if scratch.get_folder(name(steps[-1], processes), folder) else None


def step_of(checkpoint: Path | None) -> int:
    """The step that a Trainer checkpoint folder stands at; 0 for none."""
    return 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
