"""Compiles, ahead of the first training, the one extension DeepSpeed needs on a CPU (about a minute).

A killed compile leaves a lock on which every later load waits for ever. So only this module compiles,
holding a kernel lock that dies with its process: a lock file found while holding it is stale.
Run by set-up as `python -m workers.trainer.prebuild`; `train` calls `build()` before it starts its processes.
"""

import fcntl
import hashlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

from shared.errors import RoadQAError
from shared.settings import settings

OPERATOR = "deepspeed_shm_comm"

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
    env = environment(root)
    folder(root).mkdir(parents=True, exist_ok=True)
    with (folder(root) / ".building").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        operator = folder(root) / OPERATOR
        (operator / "lock").unlink(missing_ok=True)
        if not (operator / f"{OPERATOR}.so").is_file():
            _compile(env)
    return env


def environment(root: Path) -> dict[str, str]:
    """What a process must have in its environment to load the extension without compiling it again."""
    # The interpreter's folder holds `ninja` too; another version of it would not believe this one's log, and rebuild.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {"DS_ACCELERATOR": "cpu", "TORCH_EXTENSIONS_DIR": str(folder(root)), "PATH": path}


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
