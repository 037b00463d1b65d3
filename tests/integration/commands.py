"""`roadqa` as people call it: a process, its exit status and what it says."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Roadqa:
    """Calls the command line on the servers of a test, in a folder of its own."""

    def __init__(self, servers: dict[str, str], folder: Path) -> None:
        cache = str(folder / "cli")
        mine = {"ROADQA_S3_BUCKET": "integration", "ROADQA_CACHE_DIR": cache, "PYTHONPATH": str(ROOT)}
        self._env, self._folder = {**os.environ, **servers, **mine}, folder

    def __call__(self, *words: object, **env: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "services.cli.main", *map(str, words)],
            env={**self._env, **env}, cwd=self._folder, capture_output=True, text=True, check=False,
        )  # fmt: skip


def one_line(done: "subprocess.CompletedProcess[str]", code: int) -> str:
    """The error of a command that must fail with `code`, in one line."""
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("roadqa: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr
