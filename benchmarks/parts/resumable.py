"""The train verb in a process that may be killed: `python -m benchmarks.parts.resumable ROWS SCRATCH FOLDER RECIPE`.

`FOLDER` is all the disk there is: the result goes to `FOLDER/model`, decoded clips to `FOLDER/cache`. Prints a JSON
object for each step, and at last the training's facts.
"""

import json
import sys
from pathlib import Path

from shared.context import LocalContext
from shared.contracts import TrainRecipe
from workers.trainer.train import train

BASE = Path(__file__).parents[2] / "services" / "sandbox" / "base"


class Printing(LocalContext):
    """Prints its progress."""

    def progress(self, done: float, total: float, unit: str, **facts: float | str) -> None:
        print(json.dumps({"step": done, **facts}), flush=True)


def main() -> None:
    rows, scratch, folder = map(Path, sys.argv[1:4])
    out = folder / "model"
    out.mkdir()
    recipe = TrainRecipe.model_validate_json(sys.argv[4])
    facts = train({"model": [BASE], "data": [rows]}, recipe, out, Printing(scratch))
    losses = json.loads((out / "card.json").read_text(encoding="utf-8"))["training"]["losses"]
    print(json.dumps({"facts": facts, "losses": losses}), flush=True)


if __name__ == "__main__":
    main()
