"""The main job, end to end: every stage on its real library, through faults, from real servers to a report."""

import csv
import json
import re
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from services.local import stack
from tests.e2e.conftest import Stack
from tests.waiting import wait_for

MINI = Path(__file__).with_name("mini.yaml")
ROWS = ["baseline", "prompt", "fine-tuned A", "fine-tuned B", "B fp4", "B awq"]


def test_the_pipeline_survives_a_lost_redis_and_a_killed_trainer(whole: Stack, tmp_path: Path) -> None:
    run = whole.roadqa("run", MINI).strip().splitlines()[-1]

    # Redis forgets everything while stages are under way
    wait_for(lambda: running(whole, run), "a stage under way", 300, every=0.3)
    redis.Redis.from_url(whole.env["ROADQA_REDIS_URL"]).flushall()

    # the trainer's whole process tree dies in the middle of training; supervisord starts another
    wait_for(lambda: trained(whole, run), "training under way", 300, every=0.3)
    killed = kill_tree(whole, "trainer")
    assert killed >= 4, "worker, verb, launcher and ranks"

    whole.roadqa("watch", run)
    report = whole.json("report", run)
    check_report(report, lacking=whole.env["ROADQA_VLLM_LACKS"].split(","))
    assert attempts(whole, report) > 1, "the training that was killed took another attempt"

    html, submission = tmp_path / "report.html", tmp_path / "submission.csv"
    whole.roadqa("report", run, "--html", html, "--submission", submission)
    page = html.read_text()
    assert "fine-tuned B" in page
    assert not re.search(r"(src|href)=.https?://", page)
    assert all(row["calibration"]["bins"] and row["positions"]["confusion"] for row in report["rows"])
    changed = [found for row in report["rows"] for some in (row["changed"] or {}).values() for found in some]
    assert ('src="data:image/jpeg' in page) == bool(changed)
    with submission.open(newline="") as lines:
        answers = {row["id"]: row["answer"] for row in csv.DictReader(lines)}
    asked = {data["name"]: data["questions"] for data in report["data"]}["public test"]
    assert len(answers) == asked > 40
    assert set(answers.values()) <= set("ABCD")

    again = whole.roadqa("run", MINI).strip().splitlines()[-1]
    started = time.monotonic()
    whole.roadqa("watch", again)
    assert all(step["state"] == "done" for step in whole.steps(again).values())
    print(f"the same again: {time.monotonic() - started:.1f} s")
    assert [row["accuracy"] for row in whole.json("report", again)["rows"]] == [r["accuracy"] for r in report["rows"]]

    public = "sandbox-public-test-4x3x4-2"
    said = whole.roadqa("predict", public, "--model", "sandbox-tiny", "-o", tmp_path / "base.csv")
    assert f"{asked} answers" in said
    assert len((tmp_path / "base.csv").read_text().splitlines()) == 1 + asked

    compared(whole, report)
    prompted(whole, tmp_path)

    traced = whole.roadqa("trace", run, "--question", next(iter(answers)))
    for word in ("predict", "quantize", "train", "label"):
        assert word in traced
    calibrated(whole, run)


def compared(whole: Stack, report: dict[str, Any]) -> None:
    """The base and the fine-tuned model beside each other: the answers that the run has, and what each model took."""
    tuned = next(row for row in report["rows"] if row["name"] == "fine-tuned B")
    artifact = tuned["artifacts"]["model"]
    base, other = whole.json("models", "compare", "sandbox-tiny", artifact, "sandbox-held-out-12x2x4-3")["models"]
    assert (other["artifact"], other["accuracy"], other["n"]) == (artifact, tuned["accuracy"], tuned["n"])
    assert other["difference"] == pytest.approx(tuned["accuracy"] - base["accuracy"])
    assert sum(group["n"] for group in base["by_category"].values()) == base["n"]
    for model in (base, other):
        assert 10**8 < model["memory_bytes"] < 10**11
        assert model["seconds_per_question"] > 0
        assert model["size_bytes"] > 0


def prompted(whole: Stack, folder: Path) -> None:
    """The search for a prompt: two rungs, and a score on recordings of its own."""
    pipeline = folder / "mini.yaml"
    pipeline.write_text(MINI.read_text())
    candidates = [word for name in ("none", "short", "concise") for word in ("--candidate", name)]
    found = whole.json(
        "prompts", "search", "sandbox-held-out-12x2x4-3", "--model", "sandbox-tiny", "--pipeline", pipeline, *candidates
    )
    first, last = found["rungs"]
    assert len(first["standings"]) == 3
    assert first["n"] < last["n"]
    assert {row["name"] for row in found["unseen"]["rows"]} == {"short", found["winner"]}
    assert found["unseen"]["rows"][0]["recordings"] + last["recordings"] <= 12
    assert f"\nsystem_prompt: {found['winner']}\n" in pipeline.read_text()


def calibrated(whole: Stack, run: str) -> None:
    """Each row that calibrated is found from the run by its question."""
    from shared.run import Runs
    from shared.store import Store
    from tests.conftest import settings_of

    store = Store(settings_of(whole.env))
    (model,) = Runs(store).state(run).node("B awq").artifacts
    lines = store.read_file(model, "calibration.jsonl").decode().splitlines()
    assert len(lines) == 16
    traced = whole.json("trace", model, "--question", json.loads(lines[0])["question"])
    assert {row["table"] for row in traced["question"]} >= {"calibration.jsonl", "questions.jsonl"}


def check_report(report: dict[str, Any], lacking: list[str]) -> None:
    """`lacking`: quantisations that vLLM has no kernel for on this machine."""
    rows = {row["name"]: row for row in report["rows"]}
    scored = {data["name"]: data["answered"] for data in report["data"]}["held out"]
    assert list(rows) == ROWS
    assert scored > 80
    for row in rows.values():
        low, high = row["ci95"]
        assert 0 <= low <= row["accuracy"] <= high <= 1
        assert row["n"] == scored
        assert row["size_bytes"] > 0
        assert row["seconds_per_question"] > 0
        assert not row["leaked"]["questions"]
        assert (row["p"] is None) == (row["name"] == "baseline")
    (beside,) = report["comparisons"]
    assert (beside["row"], beside["against"], beside["n"]) == ("fine-tuned A", "fine-tuned B", scored)
    gained = rows["fine-tuned A"]["accuracy"] - rows["fine-tuned B"]["accuracy"]
    assert beside["difference"] == pytest.approx(gained)
    assert beside["difference_ci95"][0] <= gained <= beside["difference_ci95"][1]
    assert 0 < beside["p"] <= 1
    assert rows["fine-tuned B"]["engine"] == "vllm"
    for row, scheme in (("B fp4", "nvfp4a16"), ("B awq", "awq")):
        assert rows[row]["engine"] == ("transformers" if scheme in lacking else "vllm")
        kept = rows[row]["kept"]
        assert kept["state"] == ("promoted" if scored >= 100 else "undecided")
        assert kept["flips"]["n"] == scored
        assert kept["size"]["ratio"] > 1.2
    assert rows["B awq"]["size_bytes"] < rows["fine-tuned B"]["size_bytes"]
    assert rows["B fp4"]["size_bytes"] < rows["fine-tuned B"]["size_bytes"]


def attempts(whole: Stack, report: dict[str, Any]) -> int:
    from shared.run import Runs
    from shared.store import Store
    from tests.conftest import settings_of

    runs = Runs(Store(settings_of(whole.env)))
    state = runs.state(report["run"])
    return max(result.attempt for name in ROWS[2:4] for result in state.node(name).results.values())


def running(whole: Stack, run: str) -> bool:
    return any(step["state"] == "running" for step in whole.steps(run).values())


def trained(whole: Stack, run: str) -> bool:
    """Whether a training has reported steps."""
    steps = whole.steps(run)
    return any(p["done"] > 0 for name in ROWS[2:4] for p in steps[name]["progress"] if p["unit"] == "steps")


def kill_tree(whole: Stack, name: str) -> int:
    """kill -9 of a process of the stack and everything below it; returns how many."""
    root = psutil.Process(int(stack.control(whole.state, "pid", name)))
    tree = [root, *root.children(recursive=True)]
    for process in tree:
        process.kill()
    psutil.wait_procs(tree, timeout=10)
    return len(tree)


def test_real_clips_train_predict_and_claim_no_more_than_they_show(
    whole: Stack, real_data: Path, tmp_path: Path
) -> None:
    for part, name in (("train", "real-train"), ("public_test", "real-test")):
        done = whole.json(
            "import", "roadbuddy", real_data / part / f"{part}.json", "--videos", real_data, "--name", name
        )
        assert done["problems"] == []
    pipeline = tmp_path / "real.yaml"
    pipeline.write_text(json.dumps(REAL))
    run = whole.roadqa("run", pipeline).strip().splitlines()[-1]
    whole.roadqa("watch", run)
    submission = tmp_path / "submission.csv"
    whole.roadqa("report", run, "--submission", submission, "--html", tmp_path / "report.html")
    lines = submission.read_text().splitlines()
    assert lines[0] == "id,answer"
    assert [line.split(",")[0] for line in lines[1:]] == [f"testa_{n:04d}" for n in range(1, 11)]
    choices = {
        row["id"]: len(row["choices"])
        for row in json.loads((real_data / "public_test" / "public_test.json").read_text())["data"]
    }
    assert all(line.split(",")[1] in "ABCD"[: choices[line.split(",")[0]]] for line in lines[1:])
    report = whole.json("report", run)
    assert {row["n"] for row in report["rows"]} == {10}
    assert all(row["accuracy"] is None and row["p"] is None for row in report["rows"])
    assert "n = 10" in report["headline"]["text"]


REAL = {
    "name": "real",
    "video": {"fps": 2, "tokens_per_patch": 24, "max_frames": 16},
    "system_prompt": "short",
    "data": {"train": "real-train", "test": "real-test"},
    "models": {"base": "sandbox-tiny"},
    "steps": {
        "tuned": {"stage": "train", "model": "base", "data": ["train"], "epochs": 2, "learning_rate": 2e-4,
                  "global_batch": 4, "precision": "float32"},
    },
    "report": {"test": "test", "rows": {"baseline": {"model": "base"}, "tuned": {"parent": "baseline"}}},
    "submission": {"data": "test", "model": "tuned"},
}  # fmt: skip
