"""The real google-genai client against the sandbox teacher: labels, faults, uploads, stops and outages."""

import asyncio
import json
import math
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from shared.context import FolderScratch
from shared.contracts import LabelRecipe, TeacherRecipe
from shared.errors import Stopped, UsageError
from shared.schema import Label, Rows, read_jsonl, write_rows
from shared.teachers import Patience, Request, Teacher, TeacherError, connect
from shared.teachers.crew import TeacherOutageError
from shared.teachers.gemini_service import retry_delay
from shared.teachers.media import mime_type
from tests.integration.taught import ROOT, LazyContext, sandbox_teacher, write_scene_rows
from workers.labeler.label import label

SANDBOX = TeacherRecipe(model="sandbox-teacher")
SOON = Patience(timeout_s=20, tries=6, backoff_s=0.02, longest_wait_s=5, poll_s=0.02)


def teacher_at(url: str, *, key: str = "k", **options: Any) -> Callable[[TeacherRecipe], Teacher]:
    return partial(connect, api_key=key, base_url=url, **({"patience": SOON} | options))


def served(url: str) -> dict[str, int]:
    with urllib.request.urlopen(f"{url}/health") as reply:
        health = json.load(reply)
    return health["served"] | {"files": health["files"]}


def run(
    folder: Path,
    factory: Callable[[TeacherRecipe], Teacher],
    enough: int | None = None,
    teacher: TeacherRecipe = SANDBOX,
    in_flight: int | None = None,
) -> dict[str, Any]:
    out = folder / "out"
    out.mkdir(exist_ok=True)
    ctx = LazyContext(FolderScratch(folder / "scratch"), enough)
    inputs = {"data": [folder / "data"]}
    return label(inputs, LabelRecipe(teacher=teacher), out, ctx, teacher_factory=factory, in_flight=in_flight)


def wilson(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Source: Wilson (1927), the score interval."""
    share, scale = right / n, 1 + z * z / n
    middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (middle - half) / scale, (middle + half) / scale


def test_accepted_labels_are_far_better_than_single_votes(tmp_path: Path) -> None:
    truth = write_scene_rows(tmp_path / "data", recordings=12, clips=4)
    with sandbox_teacher() as url:
        facts = run(tmp_path, teacher_at(url))
    rows, labels = Rows([tmp_path / "out"]), list(read_jsonl(tmp_path / "out" / "labels.jsonl", Label))
    votes = [vote.choice == truth[verdict.question] for verdict in labels for vote in verdict.votes]
    right, n = sum(truth[q.id] == q.answer for q in rows.questions), len(rows.questions)
    low, high = wilson(right, n)
    print(  # the figures of this run, with pytest -s
        f"\naccepted {n} of {len(truth)} ({n / len(truth):.3f}), right {right / n:.3f} [{low:.3f}, {high:.3f}]; "
        f"single votes {sum(votes) / len(votes):.3f} of {len(votes)}; {facts['calls'] / n:.1f} calls an accepted one"
    )
    assert n / len(truth) > 0.85
    assert low > 0.9 > sum(votes) / len(votes)
    assert facts["accepted"] == n
    assert facts["questions"] == len(truth) == len(labels)
    assert facts["tokens_in"] > 0
    assert all(q.origin.answer == "teacher" and q.origin.teacher == SANDBOX.model for q in rows.questions)
    assert {q.origin.test_derived for q in rows.questions} == {True, False}


def test_humans_answers_are_not_asked_again(tmp_path: Path) -> None:
    write_scene_rows(tmp_path / "data", recordings=1, clips=2)
    rows = Rows([tmp_path / "data"])
    first, *rest = rows.questions
    write_rows(tmp_path / "data", [first.model_copy(update={"answer": 0}), *rest], rows.clips)
    with sandbox_teacher() as url:
        facts = run(tmp_path, teacher_at(url))
    assert facts["already_answered"] == 1
    assert facts["questions"] == len(rest)
    assert first.id not in {question.id for question in Rows([tmp_path / "out"]).questions}


def test_rate_limits_errors_and_malformed_answers_lose_no_question(tmp_path: Path) -> None:
    write_scene_rows(tmp_path / "data", recordings=3, clips=3)
    faults = "429=0.05,500=0.05,malformed=0.05,empty=0.03"
    with sandbox_teacher("--faults", faults, "--retry-delay", "0.2") as url:
        facts = run(tmp_path, teacher_at(url))
        counted = served(url)
    assert facts["problems"] == {}
    assert facts["accepted"] / facts["questions"] > 0.85
    assert {"error 429", "error 500", "malformed", "empty"} <= counted.keys()
    entries = sum(1 for _ in FolderScratch(tmp_path / "scratch").keys("journal/"))
    assert facts["calls"] == entries + counted["malformed"] + counted["empty"]


def test_a_clip_too_large_to_inline_is_uploaded_once_and_deleted(tmp_path: Path) -> None:
    write_scene_rows(tmp_path / "data", recordings=1, clips=3)
    with sandbox_teacher("--polls", "2") as url:
        facts = run(tmp_path, teacher_at(url, inline_limit=0))
        counted = served(url)
    assert facts["problems"] == {}
    assert counted["upload"] == counted["delete"] == 3
    assert counted["files"] == 0


def test_a_stop_keeps_what_was_answered_and_a_restart_asks_only_the_rest(tmp_path: Path) -> None:
    write_scene_rows(tmp_path / "data", recordings=2, clips=4)
    with sandbox_teacher() as url:
        with pytest.raises(Stopped):
            run(tmp_path, teacher_at(url), enough=40, in_flight=4)
        before = served(url)["generateContent"]
        facts = run(tmp_path, teacher_at(url))
        after = served(url)["generateContent"]
    entries = sum(1 for _ in FolderScratch(tmp_path / "scratch").keys("journal/"))
    assert 40 <= before < after == entries
    assert facts["replayed"] == before


def test_a_killed_process_loses_no_more_than_what_was_in_flight(tmp_path: Path) -> None:
    write_scene_rows(tmp_path / "data", recordings=2, clips=4)
    code = (
        "import sys; from pathlib import Path; from tests.integration import test_teacher as t;"
        "t.run(Path(sys.argv[1]), t.teacher_at(sys.argv[2]), in_flight=4)"
    )
    scratch = FolderScratch(tmp_path / "scratch")
    with sandbox_teacher("--latency", "0.02") as url:
        command = [sys.executable, "-c", code, str(tmp_path), url]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, cwd=ROOT, env=environment) as child:
            deadline = time.monotonic() + 60
            while sum(1 for _ in scratch.keys("journal/")) < 30 and time.monotonic() < deadline:
                time.sleep(0.01)  # the condition is another process's progress
            child.kill()
        kept = sum(1 for _ in scratch.keys("journal/"))
        facts = run(tmp_path, teacher_at(url))
        asked = served(url)["generateContent"]
    entries = sum(1 for _ in scratch.keys("journal/"))
    assert 30 <= kept < entries
    assert facts["replayed"] == kept
    assert entries <= asked <= entries + 4


def test_an_outage_is_no_finding(tmp_path: Path) -> None:
    write_scene_rows(tmp_path / "data", recordings=1, clips=2)
    patience = Patience(tries=2, backoff_s=0.01)
    with (
        sandbox_teacher("--faults", "500=1") as url,
        pytest.raises((TeacherOutageError, TeacherError), match="server"),
    ):
        run(tmp_path, teacher_at(url, patience=patience))
    with pytest.raises((TeacherOutageError, TeacherError), match="connection"):
        run(tmp_path, teacher_at(url, patience=patience))
    assert not list((tmp_path / "out").iterdir())


def test_a_refused_key_is_said_at_once(tmp_path: Path) -> None:
    write_scene_rows(tmp_path / "data", recordings=1, clips=1)
    with sandbox_teacher("--api-key", "right") as url:
        with pytest.raises(UsageError, match="ROADQA_GEMINI_API_KEY"):
            run(tmp_path, teacher_at(url, key="wrong"))
        assert served(url).get("generateContent", 0) == 0
    with pytest.raises(UsageError, match="no key"):
        connect(TeacherRecipe(), api_key="")


def test_a_model_that_the_sandbox_does_not_have_is_said_at_once(tmp_path: Path) -> None:
    write_scene_rows(tmp_path / "data", recordings=1, clips=1)
    with sandbox_teacher() as url:
        with pytest.raises(UsageError, match=r"models/gemini-2\.5-pro .* ROADQA_GEMINI_API_KEY") as caught:
            run(tmp_path, teacher_at(url), teacher=TeacherRecipe(model="gemini-2.5-pro"))
        assert served(url).get("generateContent", 0) == 0
    assert caught.value.permanent
    assert "\n" not in str(caught.value)


class Vote(BaseModel):
    reasoning: str
    answer: int


def ask(url: str, clip: Path, **options: Any) -> TeacherError | None:
    """What one request fails with."""

    async def once() -> TeacherError | None:
        teacher = teacher_at(url, **options)(SANDBOX)
        request = Request(teacher=SANDBOX, prompt_id="p", prompt="?", answer=Vote, clip="c")
        try:
            await teacher.ask(request, clip)
        except TeacherError as error:
            return error
        finally:
            await teacher.aclose()
        return None

    return asyncio.run(once())


def test_the_wait_that_a_429_asks_for_is_kept(tmp_path: Path) -> None:
    write_scene_rows(tmp_path / "data", recordings=1, clips=1)
    clip = next((tmp_path / "data" / "clips").iterdir())
    with sandbox_teacher("--faults", "429=1", "--retry-delay", "0.4") as url:
        start = time.monotonic()
        error = ask(url, clip, patience=Patience(tries=3, backoff_s=0.001))
        waited = time.monotonic() - start
    assert error is not None
    assert (error.kind, error.retry_after) == ("rate limited", 0.4)
    assert waited >= 0.8


def test_a_wait_beyond_patience_ends_the_tries(tmp_path: Path) -> None:
    write_scene_rows(tmp_path / "data", recordings=1, clips=1)
    clip = next((tmp_path / "data" / "clips").iterdir())
    with sandbox_teacher("--faults", "429=1", "--retry-delay", "3600") as url:
        error = ask(url, clip)
        assert served(url)["error 429"] == 1
    assert error is not None
    assert error.transient


def test_a_clip_the_service_cannot_read_is_rejected_at_once(tmp_path: Path) -> None:
    clip = tmp_path / "clip"
    clip.write_bytes(b"not a video")
    with sandbox_teacher() as url:
        error = ask(url, clip)
    assert error is not None
    assert (error.kind, error.transient) == ("rejected", False)


def test_retry_delays_are_found_where_google_puts_them() -> None:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "53.5s"}
    assert retry_delay({"error": {"details": [{"@type": "other"}, info]}}) == 53.5
    assert retry_delay({"error": {"details": []}}) is None
    assert retry_delay({"message": "no JSON"}) is None


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\x00\x00\x00\x20ftypisom", "video/mp4"), (b"\x00\x00\x00\x14ftypqt  ", "video/quicktime"),
        (b"RIFF\x00\x00\x00\x00AVI ", "video/avi"), (b"\x1a\x45\xdf\xa3", "video/webm"),
    ],
)  # fmt: skip
def test_a_clip_is_known_by_its_first_bytes(head: bytes, kind: str) -> None:
    assert mime_type(head) == kind
