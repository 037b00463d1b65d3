"""The best weights so far, in scratch: found again by whatever attempt goes on.

A checkpoint at step s goes with the best weights of the validations up to s. So of the weights in scratch those stand
that are the newest up to some kept checkpoint, or newer than all of them; the rest is dropped. Attempts of another cut
have other checkpoints, and so other weights.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from shared.context import Scratch
from workers.trainer.checkpoints import Cut

WEIGHTS = "weights.safetensors"  #: the trained parameters, by their names in the model
_NAME = re.compile(r"best-(\d{8})-of-(\d+)-nodes-(\d+)")


def local(work: Path, step: int) -> Path:
    """The folder of a step's weights on disk."""
    return work / f"best-{step}"


def _name(step: int, cut: Cut) -> str:
    return f"best-{step:08d}-of-{cut.processes}-nodes-{cut.nodes}"


def steps(scratch: Scratch, cut: Cut) -> list[int]:
    """Steps of the kept weights, oldest first."""
    found = (_NAME.fullmatch(folder) for folder in scratch.folders())
    return sorted(int(match[1]) for match in found if match and (int(match[2]), int(match[3])) == cut)


def keep(scratch: Scratch, folder: Path, step: int, cut: Cut) -> None:
    scratch.put_folder(_name(step, cut), folder)


def drop_spare(scratch: Scratch, cut: Cut, checkpoints: Sequence[int]) -> None:
    """Drop the weights that no kept checkpoint, by its step, would go on with."""
    kept = steps(scratch, cut)
    newest = max(checkpoints, default=0)
    wanted = {max((step for step in kept if step <= own), default=0) for own in checkpoints}
    for step in kept:
        if step <= newest and step not in wanted:
            scratch.drop_folder(_name(step, cut))


def resume(scratch: Scratch, cut: Cut, at: int, work: Path) -> None:
    """Bring back what goes with the checkpoint of step `at`; what later steps found is dropped, to be found anew."""
    kept = steps(scratch, cut)
    for step in kept:
        if step > at:
            scratch.drop_folder(_name(step, cut))
    before = [step for step in kept if step <= at]
    if before:
        scratch.get_folder(_name(before[-1], cut), local(work, before[-1]))
