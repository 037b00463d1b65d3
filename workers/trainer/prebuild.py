"""Compiles, ahead of the first training, the one extension DeepSpeed needs on a CPU (about a minute).

A killed compile leaves a lock on which every later load waits for ever. So only this module compiles,
holding a kernel lock that dies with its process: a lock file found while holding it is stale.
Run by set-up as `python -m workers.trainer.prebuild`; `train` calls `extensions()` for where it lies.
"""

import fcntl
import hashlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

from shared.errors import RoadQAError

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


def extensions(root: Path) -> Path:
    """The folder for `TORCH_EXTENSIONS_DIR`, its extension compiled; compiles it where it is missing.

    Raises:
        RoadQAError: the compiler failed.
    """
    build = folder(root)
    build.mkdir(parents=True, exist_ok=True)
    with (build / ".building").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        operator = build / OPERATOR
        (operator / "lock").unlink(missing_ok=True)
        if not (operator / f"{OPERATOR}.so").is_file():
            _compile(build)
    return build


def _compile(build: Path) -> None:
    # The folder holding the interpreter holds `ninja` too.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    env = {**os.environ, "TORCH_EXTENSIONS_DIR": str(build), "DS_ACCELERATOR": "cpu", "PATH": path}
    done = subprocess.run([sys.executable, "-c", _COMPILE], env=env, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise RoadQAError(f"DeepSpeed's {OPERATOR} did not compile; is a C++ compiler installed?\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    print(extensions(Path(os.environ.get("ROADQA_TRAINER_EXTENSIONS", ".state/torch_extensions"))))
