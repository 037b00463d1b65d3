"""The best weights so far, in scratch: found again by whatever attempt goes on.

A checkpoint at step s goes with the best weights of the validations up to s. So of the weights in scratch those stand
that are the newest up to some kept checkpoint, or newer than all of them; the rest is dropped.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from shared.context import Scratch

WEIGHTS = "weights.safetensors"  #: the trained parameters, by their names in the model
_NAME = re.compile(r"best-(\d{8})")


def name(step: int) -> str:
    return f"best-{step:08d}"


def steps(scratch: Scratch) -> list[int]:
    """Steps of the kept weights, oldest first."""
    found = (_NAME.fullmatch(folder) for folder in scratch.folders())
    return sorted(int(match[1]) for match in found if match)


def keep(scratch: Scratch, folder: Path, step: int) -> None:
    scratch.put_folder(name(step), folder)


def drop_spare(scratch: Scratch, checkpoints: Sequence[int]) -> None:
    """Drop the weights that no kept checkpoint, by its step, would go on with."""
    kept = steps(scratch)
    newest = max(checkpoints, default=0)
    wanted = {max((step for step in kept if step <= own), default=0) for own in checkpoints}
    for step in kept:
        if step <= newest and step not in wanted:
            scratch.drop_folder(name(step))


def resume(scratch: Scratch, at: int, into: Path) -> Path | None:
    """What goes with the checkpoint of step `at`, brought back; what later steps found is dropped, to be found anew."""
    kept = steps(scratch)
    for step in kept:
        if step > at:
            scratch.drop_folder(name(step))
    before = [step for step in kept if step <= at]
    if not before:
        return None
    folder = into / name(before[-1])
    return folder / WEIGHTS if scratch.get_folder(name(before[-1]), folder) else None
