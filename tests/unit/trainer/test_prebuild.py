"""Lock files of DeepSpeed's build: those of the dead are taken away, those of the living are left alone."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.settings import settings
from workers.trainer import prebuild

_OWNER = """
import sys
from torch.utils.file_baton import FileBaton
assert FileBaton(sys.argv[1]).try_acquire()
print("held", flush=True)
sys.stdin.read()
"""
_LOAD = "from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder; ShareMemCommBuilder().load(verbose=False)"


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    folder = prebuild.folder(tmp_path) / prebuild.OPERATOR
    folder.mkdir(parents=True)
    return folder / "lock"


@pytest.fixture
def owner(lock: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_lock_goes_with_its_owner(lock: Path, owner: subprocess.Popen[str], tmp_path: Path) -> None:
    prebuild.clear(tmp_path)
    assert lock.exists()
    owner.kill()
    owner.wait()
    assert lock.exists()
    prebuild.clear(tmp_path)
    assert not lock.exists()


def test_a_load_does_not_wait_for_a_dead_ones_lock(tmp_path: Path) -> None:
    """Without `clear` this waits for ever."""
    shutil.copytree(prebuild.folder(settings().trainer_extensions), prebuild.folder(tmp_path))
    stale = prebuild.folder(tmp_path) / prebuild.OPERATOR / "lock"
    stale.touch()
    environment = {**os.environ, **prebuild.build(tmp_path)}
    subprocess.run([sys.executable, "-c", _LOAD], env=environment, check=True, capture_output=True, timeout=120)
    assert not stale.exists()
