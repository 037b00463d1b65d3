"""Clips sampled in processes of their own: on all cores without one interpreter's lock, and none takes its reader down.

A process samples one clip at a time (`shared.video.sample`), into memory that it shares with the parent. One that dies,
or is ended because its clip takes too long, is replaced; its clip is a MediaError, and the others go on. How much
memory a clip may take is a limit of the process. One that somebody else kills (the kernel, where memory is short) says
nothing of its clip: that is an error of another kind, as is one in this code.

Parent and process speak over a socket of datagrams: `{"path", "budget"}` there; back `{"ready"}` once, then for each
clip `{"refused"}`, `{"failed"}`, or `{"shape", "fps", "seconds"}`: then the shared memory holds the frames, and after
them their indices. It is used again for each clip and copied from, for fresh memory costs more than a copy.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from shared.budget import VideoBudget
from shared.container import MediaLimits
from shared.errors import MediaError, RoadQAError
from shared.settings import settings
from shared.video import SampledClip, sample

START_SECONDS = 120  #: that a process may take to import what it needs
GRACE_SECONDS = 5  #: beyond a clip's own limit, which the process keeps to between two packets
_MESSAGE = 1 << 16  #: bytes of the longest
_PR_SET_PDEATHSIG = 1  #: <linux/prctl.h>


class Decoders:
    """Processes that sample clips, started when the first clips come, and ended with this one whatever ends it."""

    def __init__(self, processes: int | None = None, *, limits: MediaLimits | None = None) -> None:
        """`processes`: as many as this process has cores, unless told."""
        self._limits, self._number = limits or MediaLimits(), processes or len(os.sched_getaffinity(0))
        self._threads = ThreadPoolExecutor(self._number, thread_name_prefix="decode")
        self._own = threading.local()  # each thread has a process, which ends with its thread
        self._processes: list[_Process] = []

    def submit(self, path: Path, budget: VideoBudget) -> Future[SampledClip]:
        """`sample(path, budget)`. The future raises MediaError as it does, and where the clip ends its process."""
        return self._threads.submit(self._sample, path, budget)

    def start(self) -> None:
        """Start all processes now, and wait until they can take a clip."""
        all_here = threading.Barrier(self._number)

        def begin() -> None:
            all_here.wait()  # each thread takes one of these, and has a process of its own
            self._process()

        for begun in [self._threads.submit(begin) for _ in range(self._number)]:
            begun.result()

    def shutdown(self, *, cancel_futures: bool = False) -> None:
        """End the processes once what was submitted is done; with `cancel_futures` at once."""
        if cancel_futures:
            self._threads.shutdown(wait=False, cancel_futures=True)
            for process in list(self._processes):
                process.kill()
        self._threads.shutdown()
        while self._processes:
            self._processes.pop().end()

    def __enter__(self) -> Decoders:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def _process(self) -> _Process:
        """That of this thread."""
        process: _Process | None = getattr(self._own, "process", None)
        if process is None or not process.alive:
            if process is not None:
                self._own.process = None
                self._processes.remove(process)
                process.end()
            process = self._own.process = _Process(self._limits)
            self._processes.append(process)
        return process

    def _sample(self, path: Path, budget: VideoBudget) -> SampledClip:
        try:
            return self._process().sample(path, budget)
        except _LostError as lost:
            raise MediaError(f"{path}: takes its decoder down ({lost}); re-encode it") from lost


_one_pool = threading.Lock()


def decoders() -> Decoders:
    """This process's own, started with the first clips; they stay for those that come later."""
    with _one_pool:  # a cache alone would let two threads make one each
        return _own_pool()


@cache
def _own_pool() -> Decoders:
    return Decoders(settings().decode_threads)


class _Memory:
    """What parent and process share: the frames of a clip, and after them their indices. It grows, and is kept."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._mapped: mmap.mmap | bytes = b""

    def frames(self, shape: tuple[int, ...]) -> np.ndarray:
        """[T, H, W, 3] uint8."""
        return self._whole(shape)[: prod(shape)].reshape(shape)

    def indices(self, shape: tuple[int, ...]) -> np.ndarray:
        """[T] int64, of frames of this shape."""
        return self._whole(shape)[prod(shape) :].view(np.int64)

    def _whole(self, shape: tuple[int, ...]) -> np.ndarray:
        size = prod(shape) + shape[0] * np.dtype(np.int64).itemsize
        if len(self._mapped) < size:
            if os.fstat(self.descriptor).st_size < size:
                os.ftruncate(self.descriptor, size)
            self._mapped = mmap.mmap(self.descriptor, 0)
        return np.frombuffer(self._mapped, np.uint8, size)


class _LostError(Exception):
    """The process is gone, through its clip; says how."""


class _Process:
    """One process, as its parent sees it."""

    def __init__(self, limits: MediaLimits) -> None:
        self._limits = limits
        self._memory = _Memory(os.memfd_create("frames"))
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self._closed_unless_begun():
            given = [theirs.fileno(), self._memory.descriptor]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "shared.decoders", *map(str, given), str(os.getpid()), limits.model_dump_json()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # numpy's, which would reserve memory for each core
                pass_fds=given,
            )
        try:
            self._receive(START_SECONDS)
        except _LostError as lost:
            self.end()
            raise RoadQAError(f"a process that decodes clips does not start ({lost}); its stderr says more") from lost
        except RoadQAError:
            self.end()
            raise

    @contextmanager
    def _closed_unless_begun(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._close()
            raise

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def sample(self, path: Path, budget: VideoBudget) -> SampledClip:
        """Raises MediaError as `shared.video.sample` does; _LostError where the clip ended the process."""
        with suppress(ConnectionError):  # it is gone: no answer says so
            self._socket.send(json.dumps({"path": str(path), "budget": budget.model_dump()}).encode())
        answer = self._receive(self._limits.wall_seconds + GRACE_SECONDS)
        if "refused" in answer:
            raise MediaError(answer["refused"])
        if "failed" in answer:
            raise RoadQAError(answer["failed"])
        shape = tuple(answer["shape"])
        indices = tuple(self._memory.indices(shape).tolist())
        return SampledClip(self._memory.frames(shape).copy(), indices, answer["fps"], answer["seconds"])

    def _receive(self, seconds: float) -> dict[str, Any]:
        self._socket.settimeout(seconds)
        try:
            message = self._socket.recv(_MESSAGE)
        except TimeoutError as error:
            self.kill()
            raise _LostError(f"no answer in {seconds:g} s") from error
        except ConnectionError:
            message = b""
        if not message:
            raise self._gone()
        answer: dict[str, Any] = json.loads(message)
        return answer

    def _gone(self) -> Exception:
        code = self._process.wait()
        if code == -signal.SIGKILL:  # no decoder's doing: the machine was short of memory, or somebody ended it
            return RoadQAError("a process that decodes clips was killed (SIGKILL); was there too little memory?")
        return _LostError(signal.Signals(-code).name if code < 0 else f"exit code {code}")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        self.kill()
        self._close()

    def _close(self) -> None:
        self._socket.close()
        os.close(self._memory.descriptor)


# --- in the process --------------------------------------------------------------------------------


def main() -> None:
    """Sample clips until the parent is gone."""
    messages, memory, parent = map(int, sys.argv[1:4])
    limits = MediaLimits.model_validate_json(sys.argv[4])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # also amid a clip, whatever ended the parent
    if os.getppid() != parent:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (limits.max_memory, limits.max_memory))
    room = _Memory(memory)
    with socket.socket(fileno=messages) as speaks:
        speaks.send(json.dumps({"ready": True}).encode())
        while request := speaks.recv(_MESSAGE):
            speaks.send(json.dumps(_answer(json.loads(request), limits, room)).encode())


def _answer(request: dict[str, Any], limits: MediaLimits, room: _Memory) -> dict[str, Any]:
    path = Path(request["path"])
    try:
        clip = sample(path, VideoBudget(**request["budget"]), limits=limits, threads=1, room=room.frames)
    except MediaError as error:
        return {"refused": str(error)}
    except Exception as error:  # noqa: BLE001 - this code's fault, not the clip's: told as such
        traceback.print_exc()
        return {"failed": f"{path}: sampling failed ({type(error).__name__}: {error}); the traceback is in the log"}
    shape = clip.frames.shape
    room.indices(shape)[:] = clip.indices
    return {"shape": shape, "fps": clip.fps, "seconds": clip.seconds}


if __name__ == "__main__":
    main()
