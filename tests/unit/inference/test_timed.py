"""One question against the clock: a glance first, unless all of the clip will surely be done in time."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shared.budget import VideoBudget, clip_tokens
from shared.context import LocalContext
from shared.contracts import PredictRecipe
from shared.errors import MediaError, Stopped
from shared.schema import Prediction
from tests.unit.inference.conftest import draw_clip
from tests.unit.vlm.examples import question
from workers.inference import timed as module
from workers.inference.deadline import TimedRecipe
from workers.inference.engines import Answer, Asked
from workers.inference.timed import Pace, glance, timed

VIDEO = VideoBudget(fps=8, tokens_per_patch=768)
ALL, GLANCE = 24, 8  #: frames of a clip of 3 s


class Engine:
    """Says how many frames it saw, and takes its time by a clock that stands still otherwise."""

    def __init__(self) -> None:
        self.saw: list[tuple[int, str]] = []
        self.now = 0.0
        self.a_frame = 0.0  #: seconds

    def answer(self, asked: list[Asked], recipe: PredictRecipe) -> list[Answer]:
        (item,) = asked
        self.now += self.a_frame * len(item.clip.frames)
        self.saw.append((len(item.clip.frames), item.frames_id))
        return [Answer((-1.0,) * len(item.question.choices), 7)]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine()
    monkeypatch.setattr(module.POOL, "engine", lambda *_: made)
    monkeypatch.setattr(module, "checkpoint", lambda *_: None)
    monkeypatch.setattr(module, "encoder", lambda *_: None)
    monkeypatch.setattr(module, "PACE", Pace())
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: made.now))
    module.frames.cache_clear()
    return made


@pytest.fixture(scope="module", autouse=True)
def _no_decoder_stays() -> Iterator[None]:
    yield
    for seconds in (10.0, 4.0):
        module.decoders(seconds).shutdown()
    module.decoders.cache_clear()


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    draw_clip(tmp_path / "clip.mp4", 1)
    return tmp_path / "clip.mp4"


def ask(clip: Path, ctx: LocalContext, seconds: float = 10.0, video: VideoBudget = VIDEO) -> Prediction:
    recipe = TimedRecipe(predict=PredictRecipe(video=video), question=question(), seconds=seconds)
    facts = timed({"model": [clip.parent], "clip": [clip]}, recipe, clip.parent, ctx)
    return Prediction.model_validate(facts["prediction"])


def test_a_glance_comes_first_until_the_pace_is_known(engine: Engine, clip: Path, tmp_path: Path) -> None:
    engine.a_frame = 0.1
    ctx = LocalContext(tmp_path / "scratch")
    ask(clip, ctx)
    assert [frames for frames, _ in engine.saw] == [GLANCE, ALL]
    ((done, total, unit, facts),) = ctx.reports
    assert (done, total, unit) == (1, 2, "answers")
    assert Prediction.model_validate_json(str(facts["prediction"])).choice == 0
    assert len({name for _, name in engine.saw}) == 2, "caches must not take one for the other"
    engine.saw.clear()
    ask(clip, ctx)  # 2.4 s are expected, less than half of ten
    assert [frames for frames, _ in engine.saw] == [ALL]
    engine.saw.clear()
    ask(clip, ctx, seconds=4.0)
    assert [frames for frames, _ in engine.saw] == [GLANCE, ALL]


def test_asked_to_stop_after_a_glance_it_does(engine: Engine, clip: Path, tmp_path: Path) -> None:
    ctx = LocalContext(tmp_path / "scratch")
    ctx.stop()
    with pytest.raises(Stopped):
        ask(clip, ctx)
    assert [frames for frames, _ in engine.saw] == [GLANCE]


def test_where_a_glance_sees_as_much_there_is_none(engine: Engine, clip: Path, tmp_path: Path) -> None:
    ask(clip, LocalContext(tmp_path / "scratch"), video=VideoBudget(max_frames=8, tokens_per_patch=6))
    assert len(engine.saw) == 1


def test_frames_are_shared_by_questions_on_one_clip(
    engine: Engine, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Any] = []
    submit = module.decoders(10.0).submit
    monkeypatch.setattr(module.decoders(10.0), "submit", lambda *args: decoded.append(args) or submit(*args))
    for _ in range(3):
        ask(clip, LocalContext(tmp_path / "scratch"))
    assert len(decoded) == 2, "a glance and the whole"


def test_a_clip_that_is_none_is_refused(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"\0" * 500)
    with pytest.raises(MediaError):
        ask(tmp_path / "clip.mp4", LocalContext(tmp_path / "scratch"))
    assert engine.saw == []


def test_without_a_question_it_warms_up_once(engine: Engine, tmp_path: Path) -> None:
    recipe = TimedRecipe(predict=PredictRecipe(video=VIDEO), seconds=10.0)
    for _ in range(2):
        timed({"model": [tmp_path], "clip": []}, recipe, tmp_path, LocalContext(tmp_path / "scratch"))
    assert [frames for frames, _ in engine.saw] == [80]  # ten seconds
    assert module.PACE.slowest is None


def test_a_glance_never_costs_more() -> None:
    for video in (VideoBudget(), VIDEO, VideoBudget(fps=1, tokens_per_patch=16), VideoBudget(max_frames=4)):
        less = glance(video)
        for seconds in (1.0, 8.0, 600.0):
            assert clip_tokens(seconds, 1280, 720, less).total <= clip_tokens(seconds, 1280, 720, video).total
    assert clip_tokens(10, 1280, 720, glance(VideoBudget())).total <= 4 * 128


def test_what_every_question_costs_is_no_pace() -> None:
    pace = Pace()
    pace.saw(0.5, 4)
    assert pace.sure(8192, 10.0), "four tokens in half a second are not eight thousand in a thousand"
    assert not pace.sure(8192, 7.0)
