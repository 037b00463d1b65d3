"""What the ranks tell the verb, one JSON object a line; what the verb tells them, by a file and by its end.

Rank → verb, on the ranks' common stdout (a line is shorter than a pipe's atomic write):
`{"event": "log", step, loss, …}`, `{"event": "checkpoint", step, folder}`, `{"event": "end", outcome, …}`,
`{"event": "error", type, message}`. Verb → ranks: the file `stop` in the work folder. The end of stdin
means that the verb is gone, and the ranks with it.
"""

import json
import os
import threading
from pathlib import Path
from typing import Any

STOP_FILE = "stop"
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


def stop_wanted(work: Path) -> bool:
    return (work / STOP_FILE).exists()
