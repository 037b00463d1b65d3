"""Heavy verbs in a process of their own: killed as a tree, and their last words kept.

Parent and child speak JSON lines. To the child, on stdin: `{"request": …}`, `{"stop": true}`; the
end of stdin means that the parent is gone. From the child, on stdout: `{"progress": …}`, then
`{"done": facts}` or `{"error": …}`.
"""

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import psutil

from shared import errors
from shared.context import Context, FolderScratch, LocalPurse, Scratch, Verb
from shared.schema import Frozen
from shared.settings import settings
from shared.store import StoreScratch, store

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_LAST_WORDS = 30  # lines of stderr kept as the cause of a failure


# --- parent ----------------------------------------------------------------------------------------


class Child:
    """A child process that performs one verb's requests, one at a time."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",  # a compiler's stray byte must not end the reader
            start_new_session=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._last_words: deque[str] = deque(maxlen=_LAST_WORDS)
        self._readers = [
            threading.Thread(target=self._read_stdout, daemon=True),
            threading.Thread(target=self._read_stderr, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read_stdout(self) -> None:
        for line in _pipe(self._process.stdout):
            self._lines.put(line)
        self._lines.put(None)

    def _read_stderr(self) -> None:
        for line in _pipe(self._process.stderr):
            self._last_words.append(line.rstrip())
            sys.stderr.write(line)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def call(self, request: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """Perform one request.

        Raises:
            Stopped: `ctx.stopping` was set and the child put its work down (or was killed after the grace period).
            RoadQAError: the verb failed, or the child died; with the end of its stderr.
        """
        if ctx.stopping:
            raise errors.Stopped("asked to stop before it began")
        self._send({"request": request})
        deadline: float | None = None
        while True:
            if ctx.stopping and deadline is None:
                self._send({"stop": True})
                deadline = time.monotonic() + settings().grace_seconds
            if deadline is not None and time.monotonic() > deadline:
                self.kill()
                raise errors.Stopped(f"{self._module} was killed: it did not stop in time")
            try:
                line = self._lines.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if line is None:
                raise self._died()
            message = json.loads(line)
            if "progress" in message:
                ctx.progress(*message["progress"], **message["facts"])
            elif "done" in message:
                done: dict[str, Any] = message["done"]
                return done
            else:
                raise _raised(message["error"])

    def _send(self, message: dict[str, Any]) -> None:
        try:
            stdin = _pipe(self._process.stdin)
            stdin.write(json.dumps(message) + "\n")
            stdin.flush()
        except BrokenPipeError as error:
            raise self._died() from error

    def _died(self) -> errors.RoadQAError:
        code = self._process.wait()
        for reader in self._readers:
            reader.join(timeout=5)
        self.kill()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return errors.RoadQAError(f"{self._module} died ({how}): " + " | ".join(self._last_words))

    def kill(self) -> None:
        """End the child and everything it started."""
        try:
            tree = [*psutil.Process(self._process.pid).children(recursive=True), psutil.Process(self._process.pid)]
        except psutil.NoSuchProcess:
            tree = []
        for process in tree:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        try:
            os.killpg(self._process.pid, signal.SIGKILL)  # grandchildren whose parent is gone already
        except ProcessLookupError:
            return
        finally:
            self._process.wait()


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def _raised(error: dict[str, Any]) -> errors.RoadQAError:
    kind = getattr(errors, error["type"], errors.RoadQAError)
    raised = kind(error["message"])
    assert isinstance(raised, errors.RoadQAError)
    raised.permanent = error["permanent"]  # a verb's own kind of error is not known here by name
    return raised


def _request(inputs: dict[str, list[Path]], recipe: Frozen, out: Path, ctx: Context) -> dict[str, Any]:
    scratch = ctx.scratch
    where = {"task": scratch.task} if isinstance(scratch, StoreScratch) else {"folder": str(_folder(scratch))}
    return {
        "inputs": {name: [str(path.absolute()) for path in paths] for name, paths in inputs.items()},
        "recipe": recipe.model_dump(mode="json"),
        "out": str(out.absolute()),
        "scratch": where,
    }


def _folder(scratch: Scratch) -> Path:
    assert isinstance(scratch, FolderScratch)
    return scratch.root.absolute()


def once(module: str) -> Verb:
    """The verb of `module` in a fresh process for each request."""

    def verb(inputs: dict[str, list[Path]], recipe: Any, out: Path, ctx: Context) -> dict[str, Any]:
        child = Child(module)
        try:
            return child.call(_request(inputs, recipe, out, ctx), ctx)
        finally:
            child.kill()

    return verb


def resident(module: str) -> Verb:
    """The verb of `module` in a process that stays, with what it has loaded, and is replaced when it dies or fails."""
    kept: list[Child] = []

    def verb(inputs: dict[str, list[Path]], recipe: Any, out: Path, ctx: Context) -> dict[str, Any]:
        if not kept or not kept[0].alive:
            kept[:] = [Child(module)]
        try:
            return kept[0].call(_request(inputs, recipe, out, ctx), ctx)
        except errors.RoadQAError as error:
            if not (error.permanent or isinstance(error, errors.Stopped)):
                kept.pop().kill()  # what it has loaded may be broken: vLLM hangs at the request after a failed one
            raise

    return verb


# --- child -----------------------------------------------------------------------------------------


class _ChildContext:
    def __init__(self, tell: Callable[[dict[str, Any]], None], scratch: Scratch) -> None:
        self.scratch = scratch
        self.purse = LocalPurse()  # what runs in a child asks no teacher
        self.stopping = False
        self._tell = tell

    def progress(self, done: float, total: float, unit: str, **facts: float | str) -> None:
        self._tell({"progress": [done, total, unit], "facts": facts})


def main(verb: Verb, recipe: type[Frozen]) -> None:
    """Serve requests for `verb` until stdin ends. Libraries that print to stdout print to stderr."""
    out = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    requests: queue.Queue[tuple[dict[str, Any], _ChildContext]] = queue.Queue()
    current: list[_ChildContext] = []

    def tell(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")

    def listen() -> None:
        for line in sys.stdin:
            message = json.loads(line)
            if "request" in message:
                ctx = _ChildContext(tell, _scratch(message["request"]["scratch"]))
                current[:] = [ctx]  # at once: a stop may follow on its heels
                requests.put((message["request"], ctx))
            else:
                for asked in current:
                    asked.stopping = True
        os.killpg(0, signal.SIGKILL)  # the parent is gone: nobody would read the result

    threading.Thread(target=listen, daemon=True).start()
    while True:
        request, ctx = requests.get()
        tell(_answer(verb, recipe, request, ctx))


def _answer(verb: Verb, recipe: type[Frozen], request: dict[str, Any], ctx: Context) -> dict[str, Any]:
    inputs = {name: [Path(path) for path in paths] for name, paths in request["inputs"].items()}
    try:
        return {"done": verb(inputs, recipe.model_validate(request["recipe"]), Path(request["out"]), ctx)}
    except errors.RoadQAError as error:
        return {"error": {"type": type(error).__name__, "message": str(error), "permanent": error.permanent}}
    except Exception as error:  # noqa: BLE001 - told to the parent, which records it as the cause
        traceback.print_exc()
        return {"error": {"type": "RoadQAError", "message": f"{type(error).__name__}: {error}", "permanent": False}}


def _scratch(where: dict[str, str]) -> Scratch:
    return StoreScratch(store(), where["task"]) if "task" in where else FolderScratch(Path(where["folder"]))
