"""Decoded clips on local disk, shared by all processes of a machine, kept from one attempt to the next."""

import contextlib
import errno
import fcntl
import hashlib
import os
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shared.budget import VideoBudget
from shared.video import SampledClip, sample

_SUFFIX = ".npz"
_ABANDONED_SECONDS = 3600  # a file still not whole after that belongs to a process that was killed
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def contract(budget: VideoBudget) -> str:
    """The folder name of clips decoded under this budget."""
    return hashlib.sha256(budget.model_dump_json().encode()).hexdigest()[:16]


class ClipCache:
    """Sampled frames (uint8) in `root/<contract>/<digest>.npz`. Files appear whole.

    All contracts together hold at most `limit_bytes`: what was used longest ago goes first. A clip that finds no room
    is decoded each time it is met.
    """

    def __init__(self, root: Path, budget: VideoBudget, limit_bytes: int) -> None:
        self._root, self._folder = root, root / contract(budget)
        self._budget, self._limit = budget, limit_bytes
        self._folder.mkdir(parents=True, exist_ok=True)

    def get(self, digest: str, path: Path) -> SampledClip:
        """The clip's frames. Raises MediaError where it cannot be decoded."""
        kept = self._folder / f"{digest}{_SUFFIX}"
        # a file that lost its end in a power cut is decoded again, and replaced
        with contextlib.suppress(FileNotFoundError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return _read(kept)
        clip = sample(path, self._budget)
        if clip.frames.nbytes <= self._limit:
            self._put(kept, clip)
        return clip

    def _put(self, kept: Path, clip: SampledClip) -> None:
        incoming = kept.with_suffix(f".{os.getpid()}-{threading.get_native_id()}")
        with self._alone():
            self._make_room(clip.frames.nbytes)
        try:
            with incoming.open("wb") as out:
                np.savez(out, frames=clip.frames, indices=clip.indices, fps=clip.fps, seconds=clip.seconds)
            incoming.replace(kept)
        except OSError as error:
            incoming.unlink(missing_ok=True)
            if error.errno not in _NO_ROOM:  # a disk that others have filled costs speed, not the training
                raise

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with (self._root / ".lock").open("w") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            yield

    def _make_room(self, size: int) -> None:
        """Drop what was used longest ago until `size` more bytes fit."""
        files = []
        for path in self._root.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                if path.suffix != _SUFFIX and time.time() - stat.st_mtime > _ABANDONED_SECONDS:
                    path.unlink(missing_ok=True)
                else:
                    files.append((stat.st_mtime_ns, stat.st_size, path))
        used = sum(bytes_ for _, bytes_, _ in files)
        for _, bytes_, path in sorted(files):
            if used + size <= self._limit:
                return
            if path.suffix == _SUFFIX:
                path.unlink(missing_ok=True)  # whoever is reading it has it open
                used -= bytes_


def _read(path: Path) -> SampledClip:
    with np.load(path) as found:
        clip = SampledClip(
            found["frames"], tuple(found["indices"].tolist()), float(found["fps"]), float(found["seconds"])
        )
    with contextlib.suppress(FileNotFoundError):  # dropped meanwhile
        os.utime(path)
    return clip
