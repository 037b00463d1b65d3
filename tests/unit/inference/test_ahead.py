"""What is asked, and in which order: each clip decoded once, ahead of the engine and within bounds."""

import shutil
from collections import Counter
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from shared.budget import VideoBudget
from shared.context import LocalContext
from shared.contracts import Asking
from shared.schema import Rows
from shared.video import SampledClip
from tests.unit.inference.conftest import VIDEO
from tests.unit.vlm.examples import question
from workers.inference import ahead as module
from workers.inference.ahead import Ahead, frame_bytes, puts
from workers.inference.unseen import Unseen


def ahead(rows: Path, ctx: LocalContext, asking: Asking | None = None) -> Ahead:
    data = Rows([rows])
    return Ahead(data.questions, data, VIDEO, asking or Asking(), ctx, Unseen(len(data.clips), {}))


class Noted:
    """Decodes nothing; notes what it was to."""

    def __init__(self) -> None:
        self.begun: list[Path] = []

    def submit(self, path: Path, budget: VideoBudget) -> Future[SampledClip]:
        self.begun.append(path)
        done: Future[SampledClip] = Future()
        done.set_result(SampledClip(np.zeros((2, 32, 32, 3), np.uint8), (0, 5), 10.0, 1.0))
        return done


def test_questions_on_a_clip_follow_each_other_with_the_same_frames(rows: Path, tmp_path: Path) -> None:
    asked = [item for item in ahead(rows, LocalContext(tmp_path), Asking(rotate=2)) if item]
    assert [item.place for item in asked] == list(range(24))
    assert sum(one.frames_id != two.frames_id for one, two in pairwise(asked)) == 2
    assert len({id(item.clip.frames) for item in asked}) == 3
    assert set(Counter(item.question.id for item in asked).values()) == {2}


def test_no_more_is_decoded_than_may_wait(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, noted = Rows([rows]), Noted()
    monkeypatch.setattr(module, "decoders", lambda: noted)
    monkeypatch.setattr(module, "AHEAD_BYTES", frame_bytes(next(iter(data.clips.values())), VIDEO))
    feed = ahead(rows, LocalContext(tmp_path))
    assert len(noted.begun) == 1
    for seen, _ in enumerate(feed):
        assert len(noted.begun) == min(3, seen // 4 + 2)


class Slow(Noted):
    """Decodes when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way: list[Future[SampledClip]] = []

    def submit(self, path: Path, budget: VideoBudget) -> Future[SampledClip]:
        self.under_way.append(Future())
        return self.under_way[-1]


def test_an_engine_goes_on_as_long_as_a_clip_is_not_decoded(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, ctx = Slow(), LocalContext(tmp_path)
    monkeypatch.setattr(module, "decoders", lambda: slow)
    feed = iter(ahead(rows, ctx))
    assert [next(feed) for _ in range(5)] == [None] * 5
    slow.under_way[0].set_result(SampledClip(np.zeros((2, 32, 32, 3), np.uint8), (0, 5), 10.0, 1.0))
    assert [next(feed) is not None for _ in range(4)] == [True] * 4
    assert next(feed) is None
    ctx.stop()
    assert list(feed) == [], "who waits for a clip is told to stop too"


def test_nothing_more_is_asked_once_the_work_is_to_be_put_down(rows: Path, tmp_path: Path) -> None:
    ctx = LocalContext(tmp_path)
    feed = iter(ahead(rows, ctx))
    next(feed)
    ctx.stop()
    assert list(feed) == []


def test_samples_differ_in_their_seeds_and_come_in_each_order() -> None:
    asking = Asking(rotate=3, samples=2, reasoning=True, temperature=0.7)
    asked = puts(question(), asking)
    assert len({put.order for put in asked}) == 3
    assert asked[0].order == (0, 1, 2, 3)
    assert len({put.seed for put in asked}) == 6
    assert asked == puts(question(), asking)
    assert asked != puts(question(), asking.model_copy(update={"seed": 1}))


def test_choices_that_name_each_other_are_asked_in_their_own_order_alone() -> None:
    (put,) = puts(question(("red", "green", "both A and B")), Asking(rotate=3))
    assert put.order == (0, 1, 2)


def test_of_a_clip_that_does_not_decode_nothing_is_asked(rows: Path, tmp_path: Path) -> None:
    broken = tmp_path / "rows"
    shutil.copytree(rows, broken)
    data = Rows([broken])
    digests = list(dict.fromkeys(question.clip for question in data.questions))
    (broken / "clips" / digests[1]).write_bytes(b"\0" * 1000)
    lost = Unseen(3, {})
    feed = Ahead(data.questions, data, VIDEO, Asking(rotate=2), LocalContext(tmp_path / "s"), lost)
    asked = [item for item in feed if item]
    assert [item.place for item in asked] == [*range(8), *range(16, 24)]
    assert {feed.puts[item.place].question.clip for item in asked} == {digests[0], digests[2]}
    assert list(lost.found) == [digests[1]]
    assert str(broken) not in lost.found[digests[1]]
