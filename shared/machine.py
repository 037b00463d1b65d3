"""What of the machine decides which arithmetic is fast, which kernels there are, and what fits."""

from pathlib import Path
from typing import NamedTuple

CPUINFO = Path("/proc/cpuinfo")
#: Schemes (`shared/schemes.py`) that vLLM 0.32 runs on no CPU, and those that need AVX-512; a test asks vLLM itself.
_NO_CPU, _AVX512 = "nvfp4a16,mxfp4a16", "awq,gptq"


def has_avx512() -> bool:
    """Whether this CPU has AVX-512. Without it bfloat16 takes two to five times as long as float32.

    Where Linux does not say (macOS, whose containers run in a machine of their own) it counts as missing.
    """
    return CPUINFO.is_file() and "avx512f" in CPUINFO.read_text(encoding="utf-8")


def vllm_lacks() -> str:
    """Quantisations that vLLM 0.32's CPU build has no kernel for on this processor."""
    return _NO_CPU if has_avx512() else f"{_NO_CPU},{_AVX512}"


class Memory(NamedTuple):
    """Bytes of main memory: of the container where it has a limit, else of the machine."""

    free: int  #: what can be had without swapping; caches of files give way
    total: int


def memory(root: Path = Path("/")) -> Memory | None:
    """Main memory as Linux tells it below `root`, None where it does not."""
    try:
        lines = (root / "proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    told = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    found = Memory(told["MemAvailable"], told["MemTotal"])
    groups = root / "sys/fs/cgroup"
    for limit, used, stat, cache in (
        ("memory.max", "memory.current", "memory.stat", "file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_cache"),
    ):
        try:
            total = int((groups / limit).read_text(encoding="utf-8"))
            busy = int((groups / used).read_text(encoding="utf-8"))
            files = dict(line.split(maxsplit=1) for line in (groups / stat).read_text(encoding="utf-8").splitlines())
        except (OSError, ValueError):  # "max": no limit
            continue
        if total < found.total:
            found = Memory(min(found.free, max(0, total - busy + int(files.get(cache, 0)))), total)
    return found
