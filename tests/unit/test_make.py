"""What `make` refuses before it builds anything."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def make(*words: str) -> tuple[int, str]:
    """What make would do, done by nobody."""
    done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("words", [("push",), ("images", "push"), ("images", "push", "REGISTRY=")])
def test_push_asks_where_to_before_anything_is_built(words: tuple[str, ...]) -> None:
    code, said = make(*words)
    assert code == 2
    assert "say where to" in said
    assert "docker compose" not in said


@pytest.mark.parametrize("device", ["gpu", "CUDA"])
@pytest.mark.parametrize("goal", ["images", "push"])
def test_a_device_that_is_none_is_refused_by_its_name(goal: str, device: str) -> None:
    code, said = make(goal, "REGISTRY=r", f"DEVICE={device}")
    assert code == 2
    assert f"DEVICE={device} is no build" in said
    assert "docker compose" not in said


@pytest.mark.parametrize(("device", "suffix"), [("", False), ("DEVICE=cpu", False), ("DEVICE=cuda", True)])
def test_what_is_pushed_is_what_was_built(device: str, suffix: bool) -> None:
    code, said = make("images", "push", "REGISTRY=r.example.com/team", *device.split())
    assert code == 0, said
    commands = [line for line in said.splitlines() if "docker compose" in line]
    assert [" build " in line for line in commands] == [True, False]
    assert all("ROADQA_REGISTRY=r.example.com/team/" in line for line in commands)
    assert ["-cuda" in line for line in commands] == [suffix, suffix]


def test_another_goal_does_not_mind_a_device_in_the_environment() -> None:
    assert make("help", "DEVICE=whatever")[0] == 0
