"""What the verb hands to its ranks, as one JSON file."""

from pathlib import Path

from shared.contracts import TrainRecipe
from shared.schema import Frozen

HISTORY = "history.json"  #: in the work folder, written by rank 0: steps, losses, parameters


class RankRequest(Frozen):
    """Paths are local to the machine that all ranks run on."""

    model: Path
    data: tuple[Path, ...]
    validation: tuple[Path, ...] = ()
    recipe: TrainRecipe
    out: Path  #: where rank 0 writes weights and config
    work: Path  #: clip cache, checkpoints, the stop file
    resume: Path | None  #: a Trainer checkpoint folder
    best: Path | None = None  #: the best weights that go with it
    steps: int
    micro_batch: int
    accumulation: int
    loaders: int  #: DataLoader processes for each rank
    cache_bytes: int
    checkpoint_seconds: float
