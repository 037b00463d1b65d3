"""The command line on real servers: exit statuses, one-line errors, imports that lose nothing."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from services.local.stack import free_port
from services.sandbox import clips
from shared.store import Store

ROOT = Path(__file__).resolve().parents[2]
Roadqa = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def roadqa(servers: dict[str, str], store: Store, tmp_path: Path) -> Roadqa:
    def call(*words: object, **env: str) -> subprocess.CompletedProcess[str]:
        mine = {"ROADQA_S3_BUCKET": "integration", "ROADQA_CACHE_DIR": str(tmp_path / "cli"), "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-m", "services.cli.main", *map(str, words)],
            env={**os.environ, **servers, **mine, **env}, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return call


def one_line(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The error of a command that must fail with `code`, in one line."""
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("roadqa: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_errors_are_one_line_with_an_exit_status_for_each_kind(roadqa: Roadqa, tmp_path: Path) -> None:
    nobody = f"127.0.0.1:{free_port(0)}"
    (tmp_path / "p.yaml").write_text("name: p\ndata: {train: nothing}\nmodels: {}\n")
    assert "no dataset is called 'nothing'" in one_line(roadqa("run", "p.yaml"), 2)
    assert "no run is called" in one_line(roadqa("watch", "nobody"), 2)
    assert "ROADQA_REDIS_URL" in one_line(roadqa("run", "p.yaml", ROADQA_REDIS_URL=f"redis://{nobody}/0"), 3)
    assert "ROADQA_S3_ENDPOINT" in one_line(roadqa("status", ROADQA_S3_ENDPOINT=nobody), 4)
    assert "neither a local folder" in one_line(roadqa("models", "pull", "no/such-model", HF_HUB_OFFLINE="1"), 1)
    assert roadqa("run", "--no-such-option").returncode == 2


def test_doctor_finds_a_healthy_stack(roadqa: Roadqa) -> None:
    done = roadqa("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "conditional put holds" in done.stdout


def test_bad_rows_are_named_and_the_good_ones_go_through(roadqa: Roadqa, tmp_path: Path) -> None:
    drawn = clips.draw(tmp_path / "d", seed=1, recordings=1, clips_per_recording=1, questions_per_clip=3, split="train",
                       workers=1)  # fmt: skip
    data = json.loads(drawn.read_text())
    good = len(data["data"])
    data["data"] += [
        {**data["data"][0], "id": "gone", "video_path": "videos/gone.mp4"},
        {**data["data"][0], "id": "bare", "choices": []},
        {**data["data"][0], "id": "wrong", "answer": "E. none of these"},
        data["data"][0],
    ]
    data["__count__"] = len(data["data"])
    drawn.write_text(json.dumps(data), encoding="utf-8-sig")
    done = roadqa("import", "roadbuddy", drawn, "--videos", drawn.parent, "--name", "mixed")
    assert done.returncode == 0, done.stderr
    problems = [line for line in done.stderr.splitlines() if line.startswith("left out: ")]
    assert len(problems) == 4
    assert all("questions.json" in line for line in problems)
    assert f"{good} questions" in done.stdout
    strict = roadqa("import", "roadbuddy", drawn, "--videos", drawn.parent, "--name", "strict", "--strict")
    assert strict.returncode == 1
    assert "4 problems" in strict.stderr


def test_a_model_with_a_pickle_in_it_is_refused(roadqa: Roadqa, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "pytorch_model.bin"):
        (folder / name).write_text("{}")
    assert "pytorch_model.bin" in one_line(roadqa("models", "pull", folder), 1)


def test_every_command_has_an_example_in_its_help() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    commands = [block for block in text.split("\n## ") if "Commands:" not in block][1:]
    assert len(commands) >= 12
    assert all("Example:" in block for block in commands)
