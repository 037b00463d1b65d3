"""Gemini's batch jobs through the label step: the same labels as directly, and nothing paid for twice."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shared.context import FolderScratch
from shared.contracts import TeacherRecipe
from shared.errors import UsageError
from shared.teachers import BatchPatience, Teacher, connect_batches
from shared.teachers.crew import TeacherOutageError
from tests.integration.taught import ROOT, sandbox_teacher, write_scene_rows
from tests.integration.teaching import (
    GEMINI,
    OPENAI,
    ask,
    clip_in,
    label_part,
    labels_of,
    question,
    served,
    teacher_at,
)
from tests.waiting import wait_for

CLIPS = 4
SOON = BatchPatience(timeout_s=20, tries=6, backoff_s=0.02, quiet_s=0.3, look_s=0.05, poll_s=0.02)


def batches_at(url: str, folder: Path, recipe: TeacherRecipe, **changed: Any) -> Teacher:
    patience = BatchPatience(**(vars(SOON) | changed))
    return connect_batches(recipe, FolderScratch(folder / "scratch"), api_key="k", base_url=url, patience=patience)


def make_in(url: str, folder: Path, **changed: Any) -> Callable[[TeacherRecipe], Teacher]:
    return lambda recipe: batches_at(url, folder, recipe, **changed)


def jobs_in(folder: Path) -> list[str]:
    """Jobs that scratch knows to have ended."""
    return list(FolderScratch(folder / "scratch").keys("batch/results/"))


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], int]:
    """The labels of the part, asked directly, and the requests that were paid for."""
    folder = tmp_path_factory.mktemp("direct")
    write_scene_rows(folder / "data", recordings=2, clips=2)
    with sandbox_teacher() as url:
        label_part(folder, lambda recipe: teacher_at(url, recipe))
        return labels_of(folder), served(url)["generateContent"]


@pytest.fixture
def part(tmp_path: Path) -> Path:
    write_scene_rows(tmp_path / "data", recordings=2, clips=2)
    return tmp_path


def test_the_labels_are_those_of_direct_requests(part: Path, direct: tuple[dict[str, Any], int]) -> None:
    labels, paid = direct
    with sandbox_teacher("--batch-looks", "2") as url:
        facts = label_part(part, make_in(url, part))
        count = served(url)
    assert labels_of(part) == labels
    assert facts["problems"] == {}
    assert count["generateContent"] == paid == facts["calls"]
    assert count["batch"] == len(jobs_in(part)) <= 6  # votes and verification, of three rounds at most
    assert count["upload"] == CLIPS  # each once
    assert count["files"] == count["batch"]  # the jobs' own files only


def test_answers_that_a_job_leaves_out_or_fails_are_asked_for_in_the_next(
    part: Path, direct: tuple[dict[str, Any], int]
) -> None:
    faults = "429=0.1,500=0.1"
    with sandbox_teacher("--batch-left-out", "0.1", "--faults", faults) as url:
        facts = label_part(part, make_in(url, part, tries=9))
        paid = served(url)["generateContent"]
    assert labels_of(part) == direct[0]
    assert facts["calls"] == direct[1] == paid
    assert facts["troubles"]["lost"] > 0
    assert facts["troubles"]["rate limited"] > 0
    assert facts["troubles"]["server"] > 0


def test_bad_answers_in_a_job_get_fresh_samples(part: Path) -> None:
    with sandbox_teacher("--faults", "malformed=0.05,empty=0.05,cutoff=0.05,blocked=0.02") as url:
        facts = label_part(part, make_in(url, part))
        paid = served(url)["generateContent"]
    assert facts["calls"] == paid
    assert set(facts["problems"]) <= {"blocked", "malformed", "empty", "cut off"}
    assert facts["accepted"] > 0.7 * facts["questions"]


@pytest.mark.parametrize("end", ["EXPIRED", "FAILED", "CANCELLED"])
def test_a_job_that_ends_without_answers_is_submitted_again(
    part: Path, end: str, direct: tuple[dict[str, Any], int]
) -> None:
    with sandbox_teacher("--batch-ends", f"{end},{end}") as url:
        label_part(part, make_in(url, part))
        paid = served(url)["generateContent"]
    assert (labels_of(part), paid) == direct


def test_jobs_that_all_expire_are_an_outage_and_no_finding(part: Path) -> None:
    ends = ",".join(["EXPIRED"] * 20)
    with sandbox_teacher("--batch-ends", ends) as url, pytest.raises((TeacherOutageError, Exception), match="lost"):
        label_part(part, make_in(url, part))
    with sandbox_teacher("--batch-ends", ends) as url:
        (outcome,) = ask(partial(batches_at, url, part / "one", GEMINI), clip_in(part), question())
        assert served(url)["batch"] == 3
    assert outcome.error is not None
    assert (outcome.error.kind, outcome.error.transient) == ("lost", True)
    assert "EXPIRED" in outcome.error.message


def test_a_partial_success_is_taken_as_far_as_it_goes(part: Path, direct: tuple[dict[str, Any], int]) -> None:
    with sandbox_teacher("--batch-ends", "PARTIALLY_SUCCEEDED", "--batch-left-out", "0.2") as url:
        label_part(part, make_in(url, part, tries=9))
        paid = served(url)["generateContent"]
    assert (labels_of(part), paid) == direct


def test_a_job_that_was_taken_though_its_answer_was_an_error_is_found(
    part: Path, direct: tuple[dict[str, Any], int]
) -> None:
    with sandbox_teacher("--batch-unheard", "1") as url:
        label_part(part, make_in(url, part))
        paid = served(url)["generateContent"]
    assert (labels_of(part), paid) == direct


def test_a_worker_killed_while_it_waits_pays_for_nothing_twice(part: Path, direct: tuple[dict[str, Any], int]) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.integration import test_teacher_batches as t;"
        "folder = Path(sys.argv[1]); t.label_part(folder, t.make_in(sys.argv[2], folder))"
    )
    with sandbox_teacher("--batch-looks", "10") as url:
        command = [sys.executable, "-c", code, str(part), url]
        for wanted in (1, 2):  # once while the votes are under way, once while the verifications are
            with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}) as child:
                wait_for(lambda wanted=wanted: served(url)["batch"] >= wanted, "a job", seconds=60)
                child.send_signal(signal.SIGKILL)
            assert len(jobs_in(part)) == wanted - 1
        facts = label_part(part, make_in(url, part))
        count = served(url)
    assert labels_of(part) == direct[0]
    assert count["generateContent"] == direct[1]
    assert facts["problems"] == {}


def test_a_restart_takes_a_job_that_ended_meanwhile(part: Path, direct: tuple[dict[str, Any], int]) -> None:
    """Killed after the answers were kept, before any was journalled."""
    with sandbox_teacher() as url:
        label_part(part, make_in(url, part))
        paid = served(url)["generateContent"]
        for entry in (part / "scratch" / "bytes" / "journal").iterdir():
            entry.unlink()
        label_part(part, make_in(url, part))
        count = served(url)
    assert (labels_of(part), paid) == direct
    assert count["generateContent"] == paid
    assert count["upload"] == CLIPS  # no clip was sent again either


def test_requests_that_wait_together_share_a_job_up_to_its_size(tmp_path: Path) -> None:
    requests = [question(seed=seed) for seed in range(25)]
    with sandbox_teacher() as url:
        outcomes = ask(partial(batches_at, url, tmp_path, GEMINI, lines=10), clip_in(tmp_path), *requests)
        count = served(url)
    assert all(outcome.reply for outcome in outcomes)
    assert (count["batch"], count["upload"], count["delete"]) == (3, 1, 1)


def test_a_refused_key_and_an_unknown_model_are_said_at_once(tmp_path: Path) -> None:
    with sandbox_teacher("--api-key", "right") as url, pytest.raises(UsageError, match="ROADQA_GEMINI_API_KEY"):
        ask(partial(batches_at, url, tmp_path, GEMINI), clip_in(tmp_path), question())
    other = TeacherRecipe(model="gemini-2.5-pro")
    with sandbox_teacher() as url, pytest.raises(UsageError, match="no such model"):
        ask(partial(batches_at, url, tmp_path, other), clip_in(tmp_path), question(other))
    with pytest.raises(UsageError, match="ROADQA_TEACHER_BATCH"):
        connect_batches(OPENAI, FolderScratch(tmp_path / "scratch"), api_key="k")
