"""Compiles, ahead of the first training, the one extension DeepSpeed needs on a CPU (about a minute).

A killed compile, or load, leaves a lock file on which every later one waits for ever. So lock files that no process
holds open are taken away before anything is loaded, on a GPU too, where DeepSpeed compiles what it is asked for. Run by
set-up as `python -m workers.trainer.prebuild`; `train` calls `build()` or `clear()` before it starts its processes.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import logging
import os
import subprocess
import sys
from pathlib import Path

from shared.errors import RoadQAError
from shared.settings import settings

log = logging.getLogger(__name__)

OPERATOR = "deepspeed_shm_comm"
_LOCK = "lock"  # as torch.utils.cpp_extension names it
_CPU = {"DS_ACCELERATOR": "cpu"}

_COMPILE = """
from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder
ShareMemCommBuilder().load(verbose=True)
"""


def folder(root: Path) -> Path:
    """Where the extension lies: its own folder for each torch, DeepSpeed and processor it was compiled for."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    flags = next((line for line in cpuinfo.splitlines() if line.startswith(("flags", "Features"))), "")
    processor = hashlib.sha256(flags.encode()).hexdigest()[:8]
    versions = "-".join(f"{name}{importlib.metadata.version(name)}" for name in ("torch", "deepspeed"))
    return (root / f"{versions}-{processor}").absolute()


def build(root: Path) -> dict[str, str]:
    """Compile the extension where it is missing; returns the `environment` to load it in.

    Raises:
        RoadQAError: the compiler failed.
    """
    env = {**environment(root), **_CPU}
    folder(root).mkdir(parents=True, exist_ok=True)
    with (folder(root) / ".building").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        clear(root)
        if not (folder(root) / OPERATOR / f"{OPERATOR}.so").is_file():
            _compile(env)
    return env


def clear(root: Path) -> dict[str, str]:
    """Take away lock files whose owners are dead; returns the `environment` to load or compile extensions in.

    torch's FileBaton holds its file open for as long as it is owned.
    """
    for lock in folder(root).glob(f"*/{_LOCK}"):
        if not _held(lock):
            log.warning("%s was left by a killed process; taken away", lock)
            lock.unlink(missing_ok=True)
    return environment(root)


def _held(lock: Path) -> bool:
    wanted = str(lock.resolve())
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # gone meanwhile
            if os.readlink(descriptor) == wanted:
                return True
    return False


def environment(root: Path) -> dict[str, str]:
    """What a process must have in its environment to load the extension without compiling it again."""
    # The interpreter's folder holds `ninja` too; another version of it would not believe this one's log, and rebuild.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {"TORCH_EXTENSIONS_DIR": str(folder(root)), "PATH": path}


def _compile(env: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE], env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RoadQAError(
            f"DeepSpeed's {OPERATOR} did not compile; are a C++ compiler and Python's headers installed?\n"
            f"{done.stderr[-2000:]}"
        )


if __name__ == "__main__":
    print(build(settings().trainer_extensions)["TORCH_EXTENSIONS_DIR"])
