"""Variations by the real client from the sandbox's teacher: gates, journal, stops and outages."""

import json
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from services.sandbox.clips import scene_of
from services.sandbox.paraphrases import right
from services.sandbox.taught import sandbox_teacher, write_scene_rows
from shared.context import FolderScratch, LocalContext, LocalPurse
from shared.contracts import AugmentRecipe, TeacherRecipe
from shared.errors import LimitReachedError, Stopped
from shared.schema import Rejected, Rows, read_jsonl, write_rows
from shared.teachers import Patience, Teacher, TeacherError, connect
from shared.teachers.crew import TeacherOutageError
from tests.integration.taught import LazyContext
from workers.augmenter.augment import augment

SOON = Patience(timeout_s=20, tries=2, backoff_s=0.01, longest_wait_s=5, poll_s=0.02)
RECIPE = AugmentRecipe(method="teacher", teacher=TeacherRecipe(model="sandbox-teacher"))


def at(url: str) -> Callable[[TeacherRecipe], Teacher]:
    return partial(connect, api_key="k", base_url=url, patience=SOON)


def answered(folder: Path, recordings: int = 2) -> Rows:
    truth = write_scene_rows(folder, recordings=recordings, clips=4)
    rows = Rows([folder])
    write_rows(folder, [q.model_copy(update={"answer": truth[q.id]}) for q in rows.questions], rows.clips)
    return Rows([folder])


def run(folder: Path, url: str, recipe: AugmentRecipe = RECIPE, ctx: Any = None) -> dict[str, Any]:
    out = folder / "out"
    out.mkdir(exist_ok=True)
    ctx = ctx or LocalContext(folder / "scratch")
    return augment({"data": [folder / "data"]}, recipe, out, ctx, teacher_factory=at(url))


def wrong(rows: Rows, out: Path) -> int:
    return sum(
        right(scene_of(rows.clip_path(q.clip)), q.text, [c.text for c in q.choices]) != q.answer
        for q in Rows([out]).questions
    )


def served(url: str) -> int:
    with urllib.request.urlopen(f"{url}/health") as reply:
        return int(json.load(reply)["served"]["generateContent"])


def test_gates_let_far_fewer_wrong_variations_through_and_keep_what_they_turned_away(tmp_path: Path) -> None:
    rows = answered(tmp_path / "data", recordings=6)
    with sandbox_teacher("--slips", "0.3", "--verify-error", "0.05") as url:
        free = run(tmp_path, url, RECIPE.model_copy(update={"gates": False}))
        wrong_free = wrong(rows, tmp_path / "out")
        gated = run(tmp_path, url)
    assert free["written"] == len(rows.questions)
    assert wrong_free / free["written"] > 0.15
    assert wrong(rows, tmp_path / "out") / gated["written"] < 0.03
    turned_away = list(read_jsonl(tmp_path / "out" / "rejected.jsonl", Rejected))
    assert sum(gated["rejected"].values()) == len(turned_away) > 0
    assert {row.parent for row in turned_away} <= {question.id for question in rows.questions}
    assert {"check finds another meaning", "question lost or gained a protected word"} <= gated["rejected"].keys()
    made = Rows([tmp_path / "out"]).questions
    assert {q.origin.rule for q in made} == {f"teacher-{way}+order" for way in ("question", "choices", "scenario")}
    assert all(q.origin.answer == "none" and q.origin.parent for q in made)
    places = [gated["answers_at"].get(str(place), 0) for place in (0, 1)]
    assert min(places) > 0.8 * max(places)


def test_what_was_said_is_asked_and_paid_once(tmp_path: Path) -> None:
    answered(tmp_path / "data")
    with sandbox_teacher() as url:
        with pytest.raises(Stopped):
            run(tmp_path, url, ctx=LazyContext(FolderScratch(tmp_path / "scratch"), enough=20))
        begun = served(url)
        first = run(tmp_path, url)
        asked = served(url)
        again = run(tmp_path, url)
        assert served(url) == asked
    entries = sum(1 for _ in FolderScratch(tmp_path / "scratch").keys("journal/"))
    assert 20 <= begun < asked == entries
    assert (first["replayed"], again["replayed"]) == (begun, entries)
    assert again["usd"] == pytest.approx(first["usd"])


def test_at_the_limit_it_ends_and_with_more_it_goes_on(tmp_path: Path) -> None:
    answered(tmp_path / "data")
    ctx = LocalContext(tmp_path / "scratch")
    ctx.purse = LocalPurse(limit=0.03)
    with sandbox_teacher() as url:
        with pytest.raises(LimitReachedError):
            run(tmp_path, url, ctx=ctx)
        ctx.purse = LocalPurse(limit=10.0)
        assert run(tmp_path, url, ctx=ctx)["written"] > 0


def test_an_outage_commits_nothing(tmp_path: Path) -> None:
    answered(tmp_path / "data")
    with sandbox_teacher("--faults", "500=1") as url, pytest.raises((TeacherOutageError, TeacherError), match="server"):
        run(tmp_path, url)
    assert not list((tmp_path / "out").iterdir())
