"""The whole local stack: every worker in its own environment, on free ports."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.local import stack

ROOT = Path(__file__).resolve().parents[2]


class Stack:
    """A running stack and its command line."""

    def __init__(self, state: Path, env: dict[str, str]) -> None:
        self.state, self.env = state, env

    def roadqa(self, *words: object, code: int = 0, timeout: float = 540) -> str:
        """Run a command as a user would; its exit status must be `code`."""
        done = subprocess.run(
            [sys.executable, "-m", "services.cli.main", *map(str, words)],
            env={**os.environ, **self.env, "PYTHONPATH": str(ROOT)},
            cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-6000:]}"
        return done.stdout if code == 0 else done.stderr

    def json(self, *words: object) -> Any:
        return json.loads(self.roadqa(*words, "--json"))

    def steps(self, run: str) -> dict[str, dict[str, Any]]:
        return {step["name"]: step for step in self.json("status", run)["steps"]}


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    state = tmp_path_factory.mktemp("whole")
    env = stack.up(state)
    yield Stack(state, env)
    stack.down(state)
