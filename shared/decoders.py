"""Clips sampled in processes of their own: on all cores without one interpreter's lock, and none takes its reader down.

A process samples one clip at a time (`shared.video.sample`) into memory that it shares with the parent, which gets the
frames without a copy. One that dies, or is ended because its clip takes too long, is replaced; its clip is a
MediaError, and the others go on. How much memory a clip may take is a limit of the process.

Parent and process speak over a socket of datagrams: `{"path", "budget"}` there; back `{"ready"}` once, then for each
clip `{"refused"}`, or `{"shape", "fps", "seconds"}` with a descriptor of memory that holds the frames and after them
their indices (int64).
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
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from shared.budget import VideoBudget
from shared.container import MediaLimits
from shared.errors import MediaError, RoadQAError
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
        """`sample(path, budget)`. Its result raises MediaError as `sample` does, and where the clip ends its process."""
        return self._threads.submit(self._sample, path, budget)

    def start(self) -> None:
        """Start all processes now, and wait until they can take a clip."""
        all_here = threading.Barrier(self._number)
        for begun in [self._threads.submit(lambda: (self._process(), all_here.wait())) for _ in range(self._number)]:
            begun.result()

    def shutdown(self, *, cancel_futures: bool = False) -> None:
        """End the processes once what was submitted is done; with `cancel_futures` at once."""
        if cancel_futures:
            self._threads.shutdown(wait=False, cancel_futures=True)
            for process in list(self._processes):
                process.kill()
        self._threads.shutdown()
        for process in self._processes:
            process.end()

    def __enter__(self) -> Decoders:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def _process(self) -> _Process:
        """That of this thread."""
        process: _Process | None = getattr(self._own, "process", None)
        if process is None or not process.alive:
            if process is not None:
                process.end()
                self._processes.remove(process)
            process = self._own.process = _Process(self._limits)
            self._processes.append(process)
        return process

    def _sample(self, path: Path, budget: VideoBudget) -> SampledClip:
        try:
            return self._process().sample(path, budget)
        except _LostError as lost:
            raise MediaError(f"{path}: {lost}") from lost


class _LostError(Exception):
    """The process is gone, through its clip; says how."""


class _Process:
    """One process, as its parent sees it."""

    def __init__(self, limits: MediaLimits) -> None:
        self._limits = limits
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "shared.decoders"]
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(os.getpid()), limits.model_dump_json()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # numpy's, which would reserve memory for each core
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        try:
            self._receive(START_SECONDS)
        except _LostError as lost:
            raise RoadQAError(f"a process that decodes clips does not start: {lost}; its stderr says more") from lost

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def sample(self, path: Path, budget: VideoBudget) -> SampledClip:
        """Raises MediaError as `shared.video.sample` does; _LostError where the clip ended the process."""
        with suppress(ConnectionError):  # it is gone: no answer says so
            self._socket.send(json.dumps({"path": str(path), "budget": budget.model_dump()}).encode())
        answer, memory = self._receive(self._limits.wall_seconds + GRACE_SECONDS)
        if "refused" in answer:
            raise MediaError(answer["refused"])
        shared = mmap.mmap(memory, 0, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        os.close(memory)
        shape = answer["shape"]
        frames = np.frombuffer(shared, np.uint8, prod(shape)).reshape(shape)
        indices = np.frombuffer(shared, np.int64, shape[0], offset=prod(shape))
        return SampledClip(frames, tuple(indices.tolist()), answer["fps"], answer["seconds"])

    def _receive(self, seconds: float) -> tuple[dict[str, Any], int]:
        """A message, and the descriptor that came with it (-1 without)."""
        self._socket.settimeout(seconds)
        try:
            message, descriptors, _, _ = socket.recv_fds(self._socket, _MESSAGE, 1)
        except TimeoutError as error:
            self.kill()
            raise _LostError(f"takes longer than {seconds:g} s to decode; re-encode it") from error
        except ConnectionError:
            message = b""
        if not message:
            raise self._gone()
        return json.loads(message), *(descriptors or [-1])

    def _gone(self) -> Exception:
        code = self._process.wait()
        if code == -signal.SIGKILL:  # no decoder's doing: the machine was short of memory, or somebody ended it
            return RoadQAError("a process that decodes clips was killed (SIGKILL); was there too little memory?")
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return _LostError(f"takes its decoder down ({how}); re-encode it")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        self.kill()
        self._socket.close()


# --- in the process --------------------------------------------------------------------------------


class _Room:
    """Memory that another process can be handed: a clip's frames, and after them their indices."""

    def __init__(self) -> None:
        self.descriptor = -1

    def frames(self, shape: tuple[int, ...]) -> np.ndarray:
        """[T, H, W, 3] uint8. A clip that is decoded a second time gets other memory."""
        self.close()
        self.descriptor = os.memfd_create("frames")
        os.ftruncate(self.descriptor, prod(shape) + shape[0] * np.dtype(np.int64).itemsize)
        self._memory = mmap.mmap(self.descriptor, 0)
        return np.frombuffer(self._memory, np.uint8, prod(shape)).reshape(shape)

    def put(self, indices: tuple[int, ...]) -> None:
        behind = len(self._memory) - len(indices) * np.dtype(np.int64).itemsize
        np.frombuffer(self._memory, np.int64, offset=behind)[:] = indices

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def main() -> None:
    """Sample clips until the parent is gone."""
    descriptor, parent, limits = int(sys.argv[1]), int(sys.argv[2]), MediaLimits.model_validate_json(sys.argv[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # also amid a clip, whatever ended the parent
    if os.getppid() != parent:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (limits.max_memory, limits.max_memory))
    with socket.socket(fileno=descriptor) as speaks:
        speaks.send(json.dumps({"ready": True}).encode())
        while request := speaks.recv(_MESSAGE):
            room = _Room()
            answer = _answer(json.loads(request), limits, room)
            descriptors = [room.descriptor] if "shape" in answer else []
            socket.send_fds(speaks, [json.dumps(answer).encode()], descriptors)
            room.close()


def _answer(request: dict[str, Any], limits: MediaLimits, room: _Room) -> dict[str, Any]:
    path, budget = Path(request["path"]), VideoBudget(**request["budget"])
    try:
        clip = sample(path, budget, limits=limits, threads=1, room=room.frames)
    except MediaError as error:
        return {"refused": str(error)}
    room.put(clip.indices)
    return {"shape": clip.frames.shape, "fps": clip.fps, "seconds": clip.seconds}


if __name__ == "__main__":
    main()
