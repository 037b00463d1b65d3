"""What can go wrong in a training, told apart and said in one line."""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from shared import errors
from shared.contracts import TrainRecipe
from shared.errors import RoadQAError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TORCH_WRITER = ("PytorchStreamWriter", "inline_container", "unexpected pos")  # how torch.save says it
_HOST_MEMORY = ("can't allocate memory", "std::bad_alloc", "Cannot allocate memory")
_KILLS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))  # of this container; of the machine


class MemoryShortError(RoadQAError):
    """The training does not fit into memory."""


class DiskFullError(RoadQAError):
    """A checkpoint or the result does not fit on the local disk."""


class DivergedError(RoadQAError):
    """The loss or the gradient is not finite. The recipe would end there again."""

    permanent = True


def told_apart(error: Exception) -> Exception:
    """The error as one of the kinds above where it is one."""
    if isinstance(error, RoadQAError):
        return error
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which the verb does not import
        return MemoryShortError(f"the GPU's memory is short: {_first_line(error)}")
    if isinstance(error, MemoryError) or any(words in str(error) for words in _HOST_MEMORY):
        return MemoryShortError(f"the host's memory is short: {_first_line(error)}")
    return error


def of(kind: str, message: str) -> RoadQAError:
    """An error that another process told by its type's name."""
    found = {**vars(errors), **globals()}.get(kind)
    if isinstance(found, type) and issubclass(found, RoadQAError):
        return found(message)
    return RoadQAError(f"a training process failed: {kind}: {message}")


def advice(recipe: TrainRecipe, micro_batch: int) -> str:
    """What to lower, by name; what costs least first."""
    ways = []
    if micro_batch > 1:
        ways.append(f"ROADQA_TRAINER_MICRO_BATCH (it is {micro_batch}; ROADQA_TRAINER_AUTO_BATCH=true halves it)")
    ways.append(f"video.tokens_per_patch ({recipe.video.tokens_per_patch})")
    ways.append(f"video.tokens_per_clip ({recipe.video.tokens_per_clip})")
    ways = [f"lower {', '.join(ways)}"]
    if recipe.lora is None:
        ways.append("train adapters (lora: {rank: 16})")
    return "; ".join(ways)


def oom_kills() -> int:
    """How many processes the kernel has killed for memory, as far as it tells."""
    for path in _KILLS:
        with contextlib.suppress(OSError):
            for line in path.read_text(encoding="ascii").splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return 0


def need_room(folder: Path, size: int, what: str) -> None:
    """Ahead of the work.

    Raises:
        DiskFullError: fewer than `size` bytes are free where `folder` lies.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise DiskFullError(
            f"{folder}: {what} needs {size:,} bytes, {free:,} are free; make room, or set ROADQA_CACHE_DIR elsewhere"
        )


@contextlib.contextmanager
def writing(folder: Path, size: int, what: str) -> Iterator[None]:
    """Round what writes about `size` bytes to `folder`.

    Raises:
        DiskFullError: they did not fit, however the writing library puts that.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        short = (isinstance(error, OSError) and error.errno in _FULL) or any(w in str(error) for w in _TORCH_WRITER)
        if not short and shutil.disk_usage(folder).free >= size:
            raise
        raise DiskFullError(
            f"{folder}: {what} of about {size:,} bytes could not be written, {shutil.disk_usage(folder).free:,} are"
            f" free ({_first_line(error)}); make room, or set ROADQA_CACHE_DIR elsewhere"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
