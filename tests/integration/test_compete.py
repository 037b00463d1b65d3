"""A competition's run, for real: the engine in its own process, killed in the middle, clips that are none."""

import csv
import json
import os
import subprocess
from pathlib import Path

import psutil
import pytest

from services.cli.data import SANDBOX_FOLDER
from services.cli.serve import PYTHON
from services.local.stack import ROOT
from services.sandbox import clips
from tests.waiting import wait_for

SECONDS = 300  #: two loads, on a machine that may be busy


def column(path: Path, name: str) -> dict[str, str]:
    with path.open(newline="") as lines:
        return {row["id"]: row[name] for row in csv.DictReader(lines)}


def alive(pid: int) -> set[int]:
    return {one.pid for one in psutil.Process(pid).children() if one.status() != psutil.STATUS_ZOMBIE}


@pytest.mark.skipif(not PYTHON.is_file(), reason="no environment of the inference worker")
def test_every_question_is_answered_in_time_though_clips_are_damaged_and_the_engine_is_killed(tmp_path: Path) -> None:
    drawn = clips.draw(tmp_path / "data", seed=11, recordings=4, clips_per_recording=3, questions_per_clip=4,
                       split="train", workers=1)  # fmt: skip
    rows = json.loads(drawn.read_text())["data"]
    (drawn.parent / rows[-1]["video_path"]).write_bytes(b"\0" * 5000)
    rows.append({"id": "gone", "question": "?", "choices": ["B. yes", "C. no"], "video_path": "videos/gone.mp4"})
    (drawn.parent / "private_test.json").write_text(json.dumps({"data": rows}))
    result, log = tmp_path / "result", tmp_path / "log"
    command = [PYTHON, "-m", "workers.inference.compete", SANDBOX_FOLDER, "--data", drawn.parent, "--result", result,
               "--deadline-seconds", "20"]  # fmt: skip
    with log.open("w") as out:
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=out, stderr=out)
    try:
        times = result / "time_submission.csv"
        wait_for(lambda: times.is_file() and column(times, "time"), "the first answer", SECONDS, 0.05)
        assert column(result / "submission.csv", "answer").keys() == {row["id"] for row in rows}, "whole all along"
        (engine,) = psutil.Process(process.pid).children()
        engine.kill()
        wait_for(lambda: alive(process.pid) - {engine.pid}, "another engine", SECONDS, 0.05)
        assert process.wait(SECONDS) == 0, log.read_text()[-3000:]
    finally:
        process.kill()
        process.wait()
    answers, spent = column(result / "submission.csv", "answer"), column(times, "time")
    assert list(answers) == [row["id"] for row in rows]
    assert answers.keys() == spent.keys()
    assert max(map(int, spent.values())) < 20_000
    said = json.loads((result / "compete.json").read_text())
    marks = {mark["id"]: mark["why"] for mark in said["marks"]}
    broken = [row["id"] for row in rows if row.get("video_path") == rows[-2]["video_path"]]
    assert {answers[id_] for id_ in broken} == {"A"}
    assert answers["gone"] == "B"
    assert "is not in" in marks.pop("gone")
    assert [marks.pop(id_).split(": ")[0] for id_ in broken] == [str(drawn.parent / rows[-2]["video_path"])] * len(
        broken
    )
    assert len(marks) <= 1, "at most the one question that was under way"
    assert all("SIGKILL" in why for why in marks.values())
    assert said["n"] == said["in_time"] == len(rows)
    assert said["seen"]["all"] >= len(rows) - len(broken) - 2
    accuracy = said["accuracy"]
    assert accuracy["plain"]["n"] == accuracy["under_deadline"]["n"] == len(rows) - 1
    assert "0:00 left" in log.read_text()
