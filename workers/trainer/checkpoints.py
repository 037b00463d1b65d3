"""Checkpoints in scratch: the newest two stand, the newest is found again by the next attempt.

A ZeRO checkpoint is cut for its number of processes, so that number is part of the name, and an attempt with another
number starts afresh. Each rank writes its own shard; the ranks of one node are kept as one folder, and a checkpoint is
whole once every node's is there.
"""

import re
from pathlib import Path
from typing import NamedTuple

from shared.context import Scratch
from shared.footprint import CHECKPOINTS

_NAME = re.compile(r"step-(\d{8})-of-(\d+)-node-(\d+)-of-(\d+)")


class Cut(NamedTuple):
    """How a training is spread: over so many processes, on so many nodes."""

    processes: int
    nodes: int = 1


def name(step: int, cut: Cut, node: int = 0) -> str:
    return f"step-{step:08d}-of-{cut.processes}-node-{node}-of-{cut.nodes}"


def kept_steps(scratch: Scratch, cut: Cut) -> list[int]:
    """Steps of the complete checkpoints that fit, oldest first."""
    found = (_NAME.fullmatch(folder) for folder in scratch.folders())
    parts = [int(match[1]) for match in found if match and (int(match[2]), int(match[4])) == cut]
    return sorted(step for step in set(parts) if parts.count(step) == cut.nodes)


def keep(scratch: Scratch, folder: Path, step: int, cut: Cut, node: int = 0) -> None:
    """Keep a node's part of a checkpoint; where that makes it whole, drop the parts of those that it replaces."""
    scratch.put_folder(name(step, cut, node), folder)
    for older in kept_steps(scratch, cut)[:-CHECKPOINTS]:
        for part in range(cut.nodes):
            scratch.drop_folder(name(older, cut, part))


def newest(scratch: Scratch, cut: Cut, into: Path) -> Path | None:
    """Bring back the newest checkpoint as `into/checkpoint-<step>`; None where there is none."""
    steps = kept_steps(scratch, cut)
    return fetch(scratch, cut, steps[-1], into) if steps else None


def fetch(scratch: Scratch, cut: Cut, step: int, into: Path) -> Path | None:
    """All nodes' parts of one checkpoint, as one folder; None where one is gone."""
    folder = into / f"checkpoint-{step}"
    parts = [scratch.get_folder(name(step, cut, node), folder) for node in range(cut.nodes)]
    return folder if all(parts) else None


def step_of(checkpoint: Path | None) -> int:
    """The step that a Trainer checkpoint folder stands at; 0 for none."""
    return 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
