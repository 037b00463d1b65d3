"""What the verb hands to its ranks, as one JSON file."""

from pathlib import Path

from shared.contracts import TrainRecipe
from shared.schema import Frozen

HISTORY = "history.json"  #: in the work folder, written by rank 0: steps, losses, parameters
SKIPPED = "skipped"  #: in the work folder: a file for each clip that could not be decoded


class RankRequest(Frozen):
    """Paths are local to the machine of the ranks that read it."""

    model: Path
    data: tuple[Path, ...]
    validation: tuple[Path, ...] = ()
    recipe: TrainRecipe
    out: Path  #: where rank 0 writes weights and config
    work: Path  #: checkpoints, skipped clips, what the verb wants
    cache: Path  #: decoded clips
    resume: Path | None  #: a Trainer checkpoint folder
    steps: int
    micro_batch: int
    accumulation: int
    loaders: int  #: DataLoader processes for each rank
    cache_bytes: int
    checkpoint_seconds: float
    nodes: int = 1
