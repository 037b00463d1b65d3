"""What the ranks tell the verb, one JSON object a line; what the verb tells them, by a file and by its end.

Rank → verb, on the ranks' common stdout (a line is shorter than a pipe's atomic write):
`{"event": "begin", checkpoint_bytes, …}`, `{"event": "log", step, loss, …}`,
`{"event": "checkpoint", step, folder, seconds}`, `{"event": "end", outcome, …}`, `{"event": "error", type, message}`.
Verb → ranks, files in the work folder: `stop`, which says whether to keep a last checkpoint, and `busy` while one is
being uploaded. The end of stdin means that the verb is gone, and the ranks with it.
"""

import json
import os
import threading
from pathlib import Path
from typing import Any

STOP_FILE, BUSY_FILE = "stop", "busy"
GO_ON, KEEP, KEEP_AND_STOP, STOP = range(4)  #: what rank 0 decides for all, between two steps
_ATOMIC = 4096  # bytes: PIPE_BUF on Linux


class Channel:
    """A rank's end. Takes over stdout: whatever a library prints there goes to stderr."""

    def __init__(self) -> None:
        self._out = os.dup(1)
        os.dup2(2, 1)
        threading.Thread(target=_end_with_the_verb, daemon=True).start()

    def send(self, event: str, **facts: Any) -> None:
        line = json.dumps({"event": event, **facts}) + "\n"
        assert len(line) <= _ATOMIC, "a longer line could be torn by another rank's"
        os.write(self._out, line.encode())

    def error(self, error: Exception) -> None:
        self.send("error", type=type(error).__name__, message=str(error)[:1000])


def _end_with_the_verb() -> None:
    while os.read(0, 1024):  # not sys.stdin: its lock would be held at exit
        continue
    os._exit(1)


def ask_to_stop(work: Path, *, keep: bool) -> None:
    """The ranks end after their step, with a checkpoint or without."""
    draft = work / f".{STOP_FILE}"
    draft.write_text(str(KEEP_AND_STOP if keep else STOP), encoding="ascii")
    draft.replace(work / STOP_FILE)


def wanted(work: Path, keep_now: bool) -> int:
    """What the verb wants; `keep_now`: a checkpoint is due, which waits while one is uploaded."""
    if (work / STOP_FILE).exists():
        return int((work / STOP_FILE).read_text(encoding="ascii"))
    return KEEP if keep_now and not (work / BUSY_FILE).exists() else GO_ON
