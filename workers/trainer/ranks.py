"""Starts the ranks under torch.distributed.run, reads what they tell, ends them with the verb."""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from shared.errors import RoadQAError
from workers.trainer import troubles
from workers.trainer.nodes import ALONE, Nodes
from workers.trainer.request import RankRequest

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 10.0
Event = dict[str, Any]


class Ranks:
    """This machine's processes of one training, as a context: leaving it ends them."""

    def __init__(self, request: RankRequest, processes: int, environment: dict[str, str], nodes: Nodes = ALONE) -> None:
        path = request.work / "request.json"
        path.write_text(request.model_dump_json(), encoding="utf-8")
        launcher = [sys.executable, "-m", "torch.distributed.run", *nodes.launcher, f"--nproc-per-node={processes}"]
        self._kills = troubles.oom_kills()
        self._process = subprocess.Popen(
            [*launcher, "-m", "workers.trainer.rank", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
        )
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def events(self) -> Iterator[Event | None]:
        """What the ranks tell, until they end; None several times a second, to look round.

        Raises:
            RoadQAError: a rank failed; of the rank's own kind where it said so.
        """
        failure: RoadQAError | None = None
        while True:
            try:
                line = self._lines.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                yield None
                continue
            if line is None:
                break
            event: Event = json.loads(line)
            if event["event"] != "error":
                yield event
            elif failure is None:  # the first rank to fail says why; the others fail of its absence
                failure = troubles.of(event["type"], event["message"])
        code = self._process.wait()
        if failure is not None:
            raise failure
        if code != 0 and troubles.oom_kills() > self._kills:
            raise troubles.MemoryShortError("the host's memory is short: the kernel has killed a training process")
        if code != 0:
            raise RoadQAError(f"a training process was killed (launcher's exit code {code})")

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # the ranks end with it
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
