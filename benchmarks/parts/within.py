"""Benchmarks of a verb need that worker's own libraries."""

import os
import sys
from pathlib import Path

from scripts.environments import ENVIRONMENTS


def worker(name: str, module: str) -> None:
    """Go on as `module` in a worker's environment, unless this process is in it."""
    python = next(env.python for env in ENVIRONMENTS if env.name == name)
    if Path(sys.prefix) != python.parents[1]:
        os.execv(python, [str(python), "-m", module, *sys.argv[1:]])
