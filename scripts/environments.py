"""The virtual environments of the local stack: one for each worker, one for services and tools."""

import subprocess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
VENVS = ROOT / ".venvs"
TORCH = "torch==2.13.0"
#: PyTorch's own index of CPU builds, for machines whose pip sees only the CUDA ones.
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
#: What the workers' own tests need, beside the worker's lock.
TEST_LOCK = ROOT / "tests" / "requirements.txt"
#: DeepSpeed's set-up imports torch and asks which kernels to build: none here, they are compiled where they run.
DEEPSPEED = {"DS_BUILD_OPS": "0", "DS_ACCELERATOR": "cpu"}


class Environment(NamedTuple):
    """A virtual environment, the lock file that fills it, and what is done once it is filled."""

    name: str
    lock: Path
    extras: str  #: pyproject's extras that the lock is made from
    torch: bool = False
    after: tuple[tuple[str, ...], ...] = ()  #: modules to run with its Python

    @property
    def python(self) -> Path:
        return VENVS / self.name / "bin" / "python"


_SHIM = ("shared.vlm.torchvision_shim", "install")
ENVIRONMENTS = (
    Environment("services", ROOT / "services" / "requirements-dev.txt", "services,dev"),
    Environment("labeler", ROOT / "workers/labeler/requirements.txt", "labeler"),
    Environment("augmenter", ROOT / "workers/augmenter/requirements.txt", "augmenter"),
    Environment("trainer", ROOT / "workers/trainer/requirements.txt", "trainer", True,
                (_SHIM, ("workers.trainer.prebuild",))),
    Environment("quantizer", ROOT / "workers/quantizer/requirements.txt", "quantizer", True, (_SHIM,)),
    Environment("inference", ROOT / "workers/inference/requirements.txt", "inference-cpu", True, (_SHIM,)),
)  # fmt: skip


def index_options(python: Path) -> list[str]:
    """pip options that let it find CPU builds of torch: none where it sees them already.

    The question is asked first because an index that cannot be reached costs minutes.
    """
    ask = [str(python), "-m", "pip", "install", "--dry-run", "--no-deps", "-q", f"{TORCH}+cpu"]
    seen = subprocess.run(ask, capture_output=True, check=False).returncode == 0
    return [] if seen else ["--extra-index-url", CPU_INDEX]
