"""A verb for the tests of child processes: it does what its one input file says."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from shared import child
from shared.context import Context
from shared.contracts import EvaluateRecipe
from shared.errors import InputError, Stopped


def verb(inputs: dict[str, list[Path]], recipe: EvaluateRecipe, out: Path, ctx: Context) -> dict[str, Any]:
    """Obey `inputs["order"]`."""
    order = (inputs["order"][0] / "order").read_text()
    print("libraries print to stdout")
    if order == "work":
        ctx.progress(1, 2, "halves", loss=0.5)
        (out / "done").write_text("yes")
        return {"pid": os.getpid(), "seed": recipe.seed}
    if order == "refuse":
        raise InputError("row 3: no choices")
    if order == "break":
        raise OSError("failed to map segment from shared object")
    if order == "crash":
        sys.stderr.write("the last words\n")
        sys.stderr.flush()
        os._exit(7)
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    (out / "pids").write_text(json.dumps([os.getpid(), grandchild.pid]))
    ctx.progress(0, 1, "waits")
    while order == "deaf" or not ctx.stopping:
        time.sleep(0.05)
    raise Stopped("put down")


if __name__ == "__main__":
    child.main(verb, EvaluateRecipe)
