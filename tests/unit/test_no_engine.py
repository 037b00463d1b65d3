"""Where no Docker engine can be had, the core's container tests say so; the whole does not pass for having run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.containers.engine import NoEngineError, _await

ROOT = Path(__file__).resolve().parents[2]


def run(tests: str, empty: Path) -> str:
    """pytest's words on a machine without docker and apt-get."""
    env = {**os.environ, "PATH": str(empty), "XDG_CACHE_HOME": str(empty)}
    command = [sys.executable, "-m", "pytest", f"tests/containers/{tests}", "-rsE", "-p", "no:cacheprovider"]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False).stdout


def test_the_core_is_skipped_and_says_so(tmp_path: Path) -> None:
    said = run("test_core.py", tmp_path)
    assert "no Docker engine can be had here: none answers, and only root on Debian can install one" in said
    assert "7 skipped" in said


def test_the_whole_fails(tmp_path: Path) -> None:
    said = run("test_whole.py", tmp_path)
    assert "NoEngineError: none answers" in said
    assert "passed" not in said
    assert "skipped" not in said


def test_an_engine_that_ends_at_its_start_is_told_at_once_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("starting\nfailed to mount overlay: operation not permitted\n")
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
        with pytest.raises(NoEngineError, match=r"did not start .*: failed to mount overlay"):
            _await(lambda: False, ended, tmp_path / "log")
