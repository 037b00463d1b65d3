"""Make every virtual environment from its lock file. A second time installs nothing.

Runs with the machine's own Python and nothing else; says first what the machine lacks.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scripts.environments import DEEPSPEED, ENVIRONMENTS, ROOT, TEST_LOCK, VENVS, Environment, index_options

_AT_ONCE = 2  # downloads of one overlap with unpacking of the other
_BYTES_EXPECTED = 9.5e9  # of all environments together, for the message alone


def main() -> None:
    """Check the machine, then bring every environment up to its lock."""
    stale = [env for env in ENVIRONMENTS if not _current(env)]
    if not stale:
        return
    _check_machine()
    names = ", ".join(env.name for env in stale)
    print(f"setting up {names} in {VENVS.relative_to(ROOT)}/ (all six together: about {_BYTES_EXPECTED / 1e9:.0f} GB)")
    board = _Board(stale)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        failures = [message for message in pool.map(lambda env: _fill(env, board), stale) if message]
    board.close()
    if failures:
        sys.exit("\n".join(failures))


def _check_machine() -> None:
    missing = []
    if sys.version_info[:2] != (3, 11):
        missing.append(
            f"Python 3.11 (this is {sys.version.split()[0]}): install it, or `make PYTHON=/path/to/python3.11`"
        )
    if subprocess.run([sys.executable, "-c", "import venv, ensurepip"], capture_output=True, check=False).returncode:
        missing.append("Python's venv: on Debian or Ubuntu `apt-get install python3.11-venv`")
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        missing.append("a C++ compiler (DeepSpeed builds its kernels): `apt-get install g++`")
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        missing.append("Python's headers (the same kernels): `apt-get install python3.11-dev`")
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        missing.append("libnuma (vLLM's CPU build loads it): `apt-get install libnuma1`")
    if missing:
        sys.exit("this machine lacks:\n- " + "\n- ".join(missing))


def _fingerprint(env: Environment) -> str:
    """Of all that decides what is in an environment."""
    parts = [env.lock.read_bytes(), TEST_LOCK.read_bytes(), repr(env.after).encode(), sys.version.encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _mark(env: Environment) -> Path:
    return VENVS / env.name / ".installed"


def _current(env: Environment) -> bool:
    return _mark(env).is_file() and _mark(env).read_text() == _fingerprint(env)


class _Board:
    """One line a running environment: packages, bytes, seconds, and an estimate of what is left."""

    def __init__(self, environments: list[Environment]) -> None:
        self._lines: dict[str, str] = {}
        self._lock = threading.Lock()
        self._live = sys.stdout.isatty()
        self._drawn = 0
        self._told: dict[str, float] = {}

    def tell(self, name: str, line: str, *, final: bool = False) -> None:
        with self._lock:
            self._lines[name] = line
            if self._live:
                self._draw()
            elif final or time.monotonic() - self._told.get(name, 0) > 15:
                self._told[name] = time.monotonic()
                print(f"{name:10} {line}", flush=True)

    def _draw(self) -> None:
        if self._drawn:
            sys.stdout.write(f"\x1b[{self._drawn}F")
        for name, line in self._lines.items():
            sys.stdout.write(f"\x1b[2K{name:10} {line[:100]}\n")
        self._drawn = len(self._lines)
        sys.stdout.flush()

    def close(self) -> None:
        self._lines.clear()


def _fill(env: Environment, board: _Board) -> str | None:
    """Make one environment; returns what went wrong, if anything did."""
    started = time.monotonic()
    folder = VENVS / env.name
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _run(env, board, [sys.executable, "-m", "venv", str(folder)], started)
        options = index_options(env.python) if env.torch else []
        pip = [str(env.python), "-m", "pip", "install", "--disable-pip-version-check", "--no-deps", *options]
        for arguments, environ in _installs(env):
            _run(env, board, [*pip, *arguments], started, environ)
        for module, *arguments in env.after:
            board.tell(env.name, f"{module} …")
            _run(env, board, [str(env.python), "-m", module, *arguments], started)
    except subprocess.CalledProcessError as error:
        board.tell(env.name, "failed", final=True)
        return f"{env.name}: {' '.join(map(str, error.cmd[:6]))} … failed:\n{error.output}"
    _mark(env).write_text(_fingerprint(env))
    board.tell(env.name, f"ready in {time.monotonic() - started:.0f} s, {_size(folder) / 1e9:.1f} GB", final=True)
    return None


def _installs(env: Environment) -> list[tuple[list[str], dict[str, str]]]:
    """pip's arguments, call by call. Locks are complete, so nothing is resolved (`--no-deps`)."""
    pins = _pins(TEST_LOCK) | _pins(env.lock)
    last = [f"{name}=={version}" for name, version in pins.items() if name == "deepspeed"]
    first = [f"{name}=={version}" for name, version in pins.items() if name != "deepspeed"]
    calls: list[tuple[list[str], dict[str, str]]] = [(first, {})]
    if last:
        calls.append((["--no-build-isolation", *last], DEEPSPEED))
    return calls


def _pins(lock: Path) -> dict[str, str]:
    """Version by package name."""
    lines = [line for line in lock.read_text().splitlines() if "==" in line and not line.startswith("#")]
    return {name.lower(): version for name, _, version in (line.partition("==") for line in lines)}


def _run(
    env: Environment, board: _Board, command: list[str], started: float, environ: dict[str, str] | None = None
) -> None:
    """Run a command and turn pip's lines into progress.

    Raises:
        subprocess.CalledProcessError: with the end of what it printed.
    """
    wanted = sum("==" in word for word in command)
    seen, tail = 0, deque[str](maxlen=15)
    merged = {**os.environ, **(environ or {}), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=merged, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            tail.append(line.rstrip())
            seen += line.startswith("Collecting ")
            seconds = time.monotonic() - started
            if line.startswith("Installing collected"):
                board.tell(env.name, f"{wanted} packages are here, unpacking … {seconds:.0f} s")
            elif wanted and seen:
                sure = wanted / 10 < seen < wanted  # before, the start of the environment would spoil the estimate
                left = f", about {seconds / seen * (wanted - seen):.0f} s left" if sure else ""
                board.tell(env.name, f"{seen} of {wanted} packages, {seconds:.0f} s{left}")
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, output="\n".join(tail))


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*"))


if __name__ == "__main__":
    main()
