"""The local stack: nothing it started is left behind, and the teacher is the one the user set."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from services.local import stack
from shared import settings
from tests.waiting import wait_for

SERVERS = ("redis", "store")
#: A program and what it started; each writes down that it was asked to end.
FAMILY = """
import os, signal, subprocess, sys, time
asked, name = sys.argv[1:]
def end(*_):
    open(f"{asked}/{name}", "w").close()
    if name == "program":
        child.kill()
    os._exit(0)
if name == "program":
    child = subprocess.Popen([sys.executable, "-c", os.environ["CODE"], asked, "child"])
signal.signal(signal.SIGTERM, end)
open(f"{asked}/{name} runs", "w").close()
time.sleep(600)
"""


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state folder of which nothing runs afterwards."""
    folder = tmp_path / "state"
    folder.mkdir()
    yield folder
    for process in kill_supervisord(folder):  # quicker than to ask it, and of use where the test failed
        if alive(process):
            process.kill()


def programs(state: Path) -> list[psutil.Process]:
    """What supervisord has started."""
    return psutil.Process(int((state / "supervisord.pid").read_text())).children(recursive=True)


def kill_supervisord(state: Path) -> list[psutil.Process]:
    """`kill -9`, where it runs; returns the programs that it leaves behind."""
    if not stack.running(state):
        return []
    left = programs(state)
    psutil.Process(int((state / "supervisord.pid").read_text())).kill()
    wait_for(lambda: not stack.running(state))
    return left


def alive(process: psutil.Process) -> bool:
    """Whether it still does something: init may take its time to bury what has ended."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.fixture
def orphans(state: Path) -> Iterator[list[psutil.Process]]:
    """The programs of a stack whose supervisord was killed."""
    stack.up(state, only=SERVERS)
    left = kill_supervisord(state)
    assert [alive(process) for process in left] == [True, True]
    yield left
    for process in left:  # also where `down` and `up` do not keep their promise
        if alive(process):
            process.kill()


def test_down_stops_what_a_killed_supervisord_left(state: Path, orphans: list[psutil.Process]) -> None:
    stack.down(state)
    assert not [process for process in orphans if alive(process)]


def test_up_stops_what_a_killed_supervisord_left_before_it_starts(state: Path, orphans: list[psutil.Process]) -> None:
    before = (state / "env").read_text()
    stack.up(state, only=SERVERS)
    assert not [process for process in orphans if alive(process)]
    assert len(programs(state)) == len(SERVERS)
    assert (state / "env").read_text() == before, "the ports were free again"


@pytest.fixture
def astray(state: Path) -> Iterator[psutil.Process]:
    """A supervisord that runs, and whose pid file is gone."""
    stack.up(state, only=SERVERS)
    file = state / "supervisord.pid"
    process = psutil.Process(int(file.read_text()))
    file.unlink()
    yield process
    if alive(process):  # where a test fails: `state` finds it by this file
        file.write_text(str(process.pid))


def test_down_ends_a_supervisord_that_lost_its_pid_file(state: Path, astray: psutil.Process) -> None:
    left = astray.children(recursive=True)
    assert len(left) == len(SERVERS)
    stack.down(state)
    assert not [process for process in (astray, *left) if alive(process)]
    assert not stack._left(state), "none was started again"


@pytest.fixture
def start(state: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a process that is no supervisord's child any more, with further variables."""
    started: list[subprocess.Popen[bytes]] = []

    def call(*command: str, **env: str) -> subprocess.Popen[bytes]:
        (state / "redis").mkdir(exist_ok=True)
        started.append(subprocess.Popen(command, env=os.environ | env, cwd=state / "redis"))
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.wait()


def test_down_spares_what_the_stack_did_not_start(state: Path, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    sourced = {"ROADQA_STATE": str(state), "SUPERVISOR_PROCESS_NAME": "jupyter"}
    others = [
        start("sleep", "600", **sourced, SUPERVISOR_SERVER_URL="unix:///run/another.sock"),
        start(
            "sleep", "600", SUPERVISOR_SERVER_URL=f"unix://{state}-2/supervisor.sock", SUPERVISOR_PROCESS_NAME="redis"
        ),
    ]
    stack.down(state)
    assert [process.poll() for process in others] == [None, None]


def test_down_spares_its_caller(state: Path) -> None:
    code = "import sys; from pathlib import Path; from services.local import stack; stack.down(Path(sys.argv[1]))"
    ours = {"SUPERVISOR_SERVER_URL": f"unix://{state}/supervisor.sock", "SUPERVISOR_PROCESS_NAME": "conductor"}
    shell = ["sh", "-c", f'"{sys.executable}" -c "{code}" "{state}" && echo spared']
    done = subprocess.run(shell, env=os.environ | ours, cwd=stack.ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "spared\n", done.stderr


def test_a_program_ends_what_it_started_itself(
    state: Path, tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    ours = {"SUPERVISOR_SERVER_URL": f"unix://{state}/supervisor.sock", "SUPERVISOR_PROCESS_NAME": "trainer"}
    program = start(sys.executable, "-c", FAMILY, str(tmp_path), "program", **ours, CODE=FAMILY)
    wait_for(lambda: (tmp_path / "program runs").exists() and (tmp_path / "child runs").exists())
    (child,) = psutil.Process(program.pid).children()
    stack.down(state)
    assert program.wait(10) == 0
    assert (tmp_path / "program").exists()
    assert not (tmp_path / "child").exists(), "a child's SIGTERM would read as its failure"
    assert not alive(child)


# --- the teacher -----------------------------------------------------------------------------------


def mount(folder: Path, monkeypatch: pytest.MonkeyPatch, **secrets: str) -> None:
    """Secrets as Docker mounts them."""
    folder.mkdir()
    for name, value in secrets.items():
        (folder / name).write_text(value)
    monkeypatch.setattr(settings, "SECRETS", folder)


def test_without_a_key_the_sandboxs_teacher_answers(state: Path) -> None:
    env = stack.configure(state, ())
    assert env["ROADQA_GEMINI_BASE_URL"] == f"http://127.0.0.1:{env['ROADQA_PORT_TEACHER']}"


def test_a_key_in_the_environment_or_mounted_makes_the_teacher_the_users_own(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROADQA_GEMINI_API_KEY", "theirs")
    assert "GEMINI" not in " ".join(stack.configure(state, ()))
    monkeypatch.delenv("ROADQA_GEMINI_API_KEY")
    mount(tmp_path / "secrets", monkeypatch, roadqa_gemini_api_key="theirs\n")
    assert "GEMINI" not in " ".join(stack.configure(state, ()))
    assert "GEMINI" not in (state / "env").read_text()


def test_the_stacks_own_settings_in_a_shell_are_no_key_of_the_users(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = stack.configure(state, ())
    monkeypatch.setenv("ROADQA_GEMINI_API_KEY", env["ROADQA_GEMINI_API_KEY"])  # what sourcing .state/env does
    assert stack.configure(state, ()) == env


def test_up_says_that_a_running_stack_asks_another_teacher(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def said() -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            stack.up(state)
        return [record.getMessage() for record in caplog.records]

    stack.up(state, only=SERVERS)
    assert said() == []
    monkeypatch.setenv("ROADQA_GEMINI_API_KEY", "theirs")
    (line,) = said()
    assert "make down up" in line
    assert "theirs" not in line
    monkeypatch.delenv("ROADQA_GEMINI_API_KEY")
    mount(tmp_path / "secrets", monkeypatch, roadqa_gemini_api_key="theirs")
    assert len(said()) == 1


def doctor(servers: dict[str, str], cache: Path, key: str, server: str) -> str:
    """What `roadqa doctor` says where this teacher is set, its lines joined."""
    teacher = {"ROADQA_GEMINI_API_KEY": key, "ROADQA_GEMINI_BASE_URL": server}
    env = os.environ | servers | teacher | {"ROADQA_CACHE_DIR": str(cache), "PYTHONPATH": str(stack.ROOT)}
    command = [sys.executable, "-m", "services.cli.main", "doctor"]
    done = subprocess.run(command, env=env, cwd=stack.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join(done.stdout.split())


def test_doctor_says_that_the_sandboxs_teacher_knows_only_drawn_scenes(servers: dict[str, str], tmp_path: Path) -> None:
    said = doctor(servers, tmp_path, stack.SANDBOX_KEY, "http://127.0.0.1:8899")
    assert "the sandbox's teacher: knows only drawn scenes" in said
    assert "key set" not in said


@pytest.mark.parametrize("server", ["http://127.0.0.1:8899", "http://[::1"])
def test_doctor_takes_no_server_of_the_users_for_the_sandboxs(
    servers: dict[str, str], tmp_path: Path, server: str
) -> None:
    said = doctor(servers, tmp_path, "theirs", server)
    assert f"teacher: key set; server: {server}" in said
    assert "drawn scenes" not in said
