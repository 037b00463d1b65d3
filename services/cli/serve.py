"""`roadqa serve`: the inference environment's server, from its start to the end of everything it started."""

import json
import os
import shlex
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

from shared.direct import fetch
from shared.errors import RoadQAError, UsageError
from shared.settings import settings

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venvs" / "inference" / "bin" / "python"
_POLL_SECONDS = 0.5
_GRACE_SECONDS = 30  #: for answers under way, when asked to end


class EndedError(RoadQAError):
    """The server ended by itself; it has told why."""


def serve(artifact: str, name: str, port: int, more: Sequence[str], ready: Callable[[str], None]) -> None:
    """Answer on loopback until Ctrl-C or SIGTERM; `ready(url)` is called once it listens.

    Raises:
        UsageError: there is no environment of the inference worker here, or the port is taken.
        EndedError: the server ended by itself; it has told why.
    """
    with _server(artifact, name, port, more) as process:
        ready(_until_it_answers(process, port))
        raise _ended(process)


@contextmanager
def served(artifact: str, name: str, port: int, more: Sequence[str], log: IO[bytes]) -> Iterator[str]:
    """The address of a server for the time of the block; what it says goes to `log`.

    Raises:
        UsageError: there is no environment of the inference worker here, or the port is taken.
        EndedError: the server ended before it listened.
    """
    with _server(artifact, name, port, more, log) as process:
        yield _until_it_answers(process, port)


def _until_it_answers(process: subprocess.Popen[bytes], port: int) -> str:
    url = f"http://127.0.0.1:{port}"
    while process.poll() is None:
        if _answers(url):
            return url
        time.sleep(_POLL_SECONDS)
    raise _ended(process)


def _ended(process: subprocess.Popen[bytes]) -> EndedError:
    return EndedError(f"the server ended ({process.wait()}); its last lines say why")


def free_port() -> int:
    """A port on loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _check(port: int) -> None:
    if not PYTHON.is_file():
        raise UsageError(
            f"{PYTHON} is not there: `make setup`; in containers: Compose's profile `serve`, or k8s/components/serve"
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UsageError(f"port {port} is taken: choose another with --port") from error


@contextmanager
def _server(
    artifact: str, name: str, port: int, more: Sequence[str], log: IO[bytes] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """The process, in a session of its own: a terminal's Ctrl-C reaches it through here alone."""
    _check(port)
    options = ["--served-model-name", name, "--port", str(port), *more]
    cache = settings().cache_dir.absolute().with_name("serve")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "ROADQA_CACHE_DIR": str(cache)}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    process = subprocess.Popen(
        [PYTHON, "-m", "workers.inference.serve", artifact, *options],
        env=env, start_new_session=True, stdout=log, stderr=log,
    )  # fmt: skip
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to end, which ends its engine; kill what remains."""
    tree = _tree(process.pid)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_SECONDS)
    for left in psutil.wait_procs(tree, timeout=5)[1]:
        with suppress(psutil.NoSuchProcess):
            left.kill()
    process.wait()


def _tree(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    return []


def _answers(url: str) -> bool:
    with suppress(OSError):
        fetch(urllib.request.Request(f"{url}/health"), 5)
        return True
    return False


def example(url: str, name: str) -> str:
    """A command that asks the server about CLIP.mp4, for a shell."""
    asked = [
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,\0"}},
        {"type": "text", "text": "Is the light red?\nA. yes\nB. no\nAnswer with the letter."},
    ]
    body = {"model": name, "messages": [{"role": "user", "content": asked}], "max_tokens": 1, "temperature": 0,
            "structured_outputs": {"choice": ["A", "B"]}}  # fmt: skip
    head, _, tail = json.dumps(body).partition(json.dumps("\0").strip('"'))
    key = '-H "Authorization: Bearer $ROADQA_SERVE_API_KEY" ' if settings().serve_api_key.get_secret_value() else ""
    return (
        f"{{ printf %s {shlex.quote(head)}; base64 -w0 CLIP.mp4; printf %s {shlex.quote(tail)}; }} |\n"
        f'curl -s {url}/v1/chat/completions -H "Content-Type: application/json" {key}-d @-'
    )
