"""What an engine takes of memory: measured by the kernel, so that nothing is missed between two looks.

On a GPU it is the device's memory, of all its processes; vLLM takes as much of that as its settings allow, whatever the
model. On a CPU it is this process and its children, of which `peak` is Linux's high-water mark.
"""

from contextlib import suppress
from pathlib import Path

import psutil
import torch


def resident() -> int:
    """Bytes in use now."""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return int(total - free)
    return sum(_resident(process) for process in _tree())


def start_peak() -> None:
    """Begin the high-water mark anew."""
    for process in _tree():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            Path(f"/proc/{process.pid}/clear_refs").write_text("5", encoding="ascii")


def peak() -> int:
    """Most bytes in use since `start_peak`; of several processes the sum of their own peaks."""
    if torch.cuda.is_available():
        return resident()  # vLLM gives nothing back before it closes
    return sum(_high_water(process.pid) for process in _tree())


def _tree() -> list[psutil.Process]:
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


def _resident(process: psutil.Process) -> int:
    """Bytes; 0 of one that has ended."""
    with suppress(psutil.NoSuchProcess):
        return int(process.memory_info().rss)
    return 0


def _high_water(pid: int) -> int:
    """Bytes; 0 of one that has ended, waited for or not."""
    with suppress(FileNotFoundError, ProcessLookupError):
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)
    return 0
