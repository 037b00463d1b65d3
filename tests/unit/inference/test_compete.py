"""A competition's run: every question gets an answer in time, whatever happens to clips, engine and rows."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from shared.context import Context
from shared.contracts import PredictRecipe
from shared.errors import InputError, MediaError, RoadQAError, Stopped
from shared.schema import Choice, Origin, Prediction, Question
from workers.inference import compete as command
from workers.inference.compete import Answered, compete, letter_of, recipe, report
from workers.inference.contest import Entry, Results, check_letter, read
from workers.inference.deadline import TIME_WAS_UP, Asker, TimedRecipe

DEADLINE = 0.4
ROWS: list[Any] = [
    {"id": 1, "question": "Which?", "choices": ["A. one", "B. two", "C. three"], "answer": "B. two",
     "video_path": "videos/r1_clip_001.mp4"},
    {"id": "q2", "question": "And?", "choices": ["B. x", "B. y"], "answer": "nonsense",
     "video_path": "videos/r1_clip_002.mp4"},
    {"id": "q3", "question": "Now?", "choices": ["A. one", "B. two"], "video_path": "videos/r1_clip_001.mp4"},
    {"id": "q4", "question": "Gone?", "choices": ["A. one", "B. two"], "video_path": "videos/gone.mp4"},
    {"id": "q5", "question": "No choices?", "choices": [], "video_path": "videos/r1_clip_001.mp4"},
    {"id": "q1b", "question": "No first?", "choices": ["C. one", "D."], "video_path": "videos/r1_clip_001.mp4"},
    {"question": "No id?", "choices": ["A. one", "B. two"], "video_path": "videos/r1_clip_001.mp4"},
    {"id": "q2", "question": "Again?", "choices": ["A. one", "B. two"], "video_path": "videos/r1_clip_001.mp4"},
    "no row",
]  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    for name in ("r1_clip_001", "r1_clip_002"):
        (tmp_path / "videos" / f"{name}.mp4").write_bytes(b"not looked at")
    (tmp_path / "private_test.json").write_text(json.dumps({"__count__": 8, "data": ROWS}))
    return tmp_path


def table(path: Path) -> list[list[str]]:
    with path.open(newline="") as lines:
        return list(csv.reader(lines))


# --- the file ----------------------------------------------------------------------------------------


def test_every_row_with_an_id_is_an_entry_and_the_rest_is_told(data: Path) -> None:
    entries, problems = read(data / "private_test.json", data, "B")
    assert [entry.id for entry in entries] == ["1", "q2", "q3", "q4", "q5", "q1b"]
    assert [entry.majority for entry in entries] == ["B", "B", "B", "B", "B", "C"]
    assert [entry.truth for entry in entries] == ["B", None, None, None, None, None]
    assert [entry.question is not None for entry in entries] == [True, True, True, False, False, False]
    assert [entry.recording for entry in entries[:3]] == ["r1", "r1", "r1"]
    assert "gone.mp4" in str(entries[3].why)
    assert [problem.split(": ", 1)[1] for problem in problems] == [
        "row 7: has no id; it gets no answer",
        "row 8: the id 'q2' a second time; it gets no answer",
        "row 9: has no id; it gets no answer",
    ]


def test_a_file_without_ids_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps([{"question": "?"}]))
    with pytest.raises(InputError, match="no question with an id"):
        read(tmp_path / "t.json", tmp_path, "A")


@pytest.mark.parametrize("letter", ["", "AB", "1", "é"])
def test_a_majority_letter_is_a_letter(letter: str) -> None:
    with pytest.raises(InputError, match="no letter"):
        check_letter(letter)
    assert check_letter("b") == "B"


def test_what_is_handed_in_is_whole_at_every_moment(data: Path, tmp_path: Path) -> None:
    entries, _ = read(data / "private_test.json", data, "A")
    out = tmp_path / "result"
    results = Results(out, entries)
    majority = [["1", "A"], ["q2", "B"], ["q3", "A"], ["q4", "A"], ["q5", "A"], ["q1b", "C"]]
    assert table(out / "submission.csv") == [["id", "answer"], *majority]
    assert table(out / "time_submission.csv") == [["id", "answer", "time"]]
    results.give("q3", "B", 1.2345)
    assert table(out / "submission.csv")[3] == ["q3", "B"]
    assert table(out / "time_submission.csv") == [["id", "answer", "time"], ["q3", "B", "1234"]]
    assert sorted(path.name for path in out.iterdir()) == ["submission.csv", "time_submission.csv"]


def test_a_result_that_cannot_be_written_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written to"):
        Results(tmp_path / "file" / "result", [])


# --- against the clock -------------------------------------------------------------------------------


def answer(question: Question, choice: int) -> Prediction:
    return Prediction(question=question.id, choice=choice, logprobs=(-1.0,) * len(question.choices),
                      prompt_tokens=9, seconds=0.1)  # fmt: skip


def entry(name: str, clip: str = "a.mp4", truth: str | None = "B") -> Entry:
    choices = tuple(Choice(label=label, text=label.lower()) for label in "ABC")
    question = Question(id=name, clip="0" * 64, text="?", choices=choices, origin=Origin(answer="none"))
    return Entry(name, question, Path(clip), name, "A", truth, None)


class Engine:
    """A verb with a plan for each question; counts what it loaded."""

    def __init__(self, **plans: Callable[[Question, Context], int]) -> None:
        self.plans, self.loads, self.asked = plans, 0, list[str]()
        self.loaded = False
        self.broken = 0  #: loads that fail from now on

    def __call__(self, inputs: dict[str, list[Path]], recipe: TimedRecipe, out: Path, ctx: Context) -> dict[str, Any]:
        question = recipe.question
        if question is None:
            if self.broken:
                self.broken -= 1
                raise RoadQAError("it does not load")
            self.loads += not self.loaded
            self.loaded = True
            return {}
        assert self.loaded, "no question's time goes into loading"
        assert 0 < recipe.seconds < DEADLINE
        self.asked.append(question.id)
        try:
            choice = self.plans.get(question.id, lambda *_: 1)(question, ctx)
        except RoadQAError as error:
            self.loaded = error.permanent  # as `child.resident`
            raise
        return {"prediction": answer(question, choice).model_dump(mode="json")}


def glancing(after: Callable[[Context], None], choice: int = 1) -> Callable[[Question, Context], int]:
    """Chooses 2 at a glance, and `choice` after `after`."""

    def plan(question: Question, ctx: Context) -> int:
        ctx.progress(1, 2, "answers", prediction=answer(question, 2).model_dump_json())
        after(ctx)
        return choice

    return plan


def until_stopped(ctx: Context) -> None:
    while not ctx.stopping:
        Event().wait(0.01)
    raise Stopped("as asked")


def held(event: Event) -> Callable[[Context], None]:
    return lambda _: bool(event.wait(10)) and None  # type: ignore[func-returns-value]


def failing(error: RoadQAError) -> Callable[[Question, Context], int]:
    def plan(question: Question, ctx: Context) -> int:
        raise error

    return plan


def answered(engine: Engine, entries: list[Entry], folder: Path, patience: float = 0.0) -> list[Answered]:
    results = Results(folder / "result", entries)
    with Asker(engine, folder, PredictRecipe(), DEADLINE, folder / "scratch") as asker:
        return list(compete(entries, asker, results, patience))


def test_in_time_the_whole_answer_counts_and_late_the_glance(tmp_path: Path) -> None:
    engine = Engine(q2=glancing(until_stopped), q3=lambda _, ctx: until_stopped(ctx) or 0)
    one, two, three, four = answered(engine, [entry(f"q{n}") for n in (1, 2, 3, 4)], tmp_path)
    assert (one.letter, one.seen, one.why, one.full) == ("B", "all", None, "B")
    assert (two.letter, two.seen, two.why, two.full) == ("C", "a glance", TIME_WAS_UP, None)
    assert (three.letter, three.seen, three.why) == ("A", "nothing", TIME_WAS_UP)
    assert (four.letter, four.seen) == ("B", "all")
    assert max(found.seconds for found in (one, two, three, four)) < DEADLINE
    submitted = dict(table(tmp_path / "result" / "submission.csv")[1:])
    assert submitted == {"q1": "B", "q2": "C", "q3": "A", "q4": "B"}
    times = {row[0]: int(row[2]) for row in table(tmp_path / "result" / "time_submission.csv")[1:]}
    assert 350 < times["q2"] < 1000 * DEADLINE
    assert times["q1"] < 350


def test_a_late_answer_tells_what_the_deadline_costs(tmp_path: Path) -> None:
    event = Event()

    class Opening(Results):
        """Lets the late answer come once the one in time is written."""

        def give(self, id_: str, letter: str, seconds: float) -> None:
            super().give(id_, letter, seconds)
            event.set()

    entries = [entry("q1")]
    engine = Engine(q1=glancing(held(event)))
    with Asker(engine, tmp_path, PredictRecipe(), DEADLINE, tmp_path / "scratch") as asker:
        found = list(compete(entries, asker, Opening(tmp_path / "result", entries), patience=10))
    assert (found[0].letter, found[0].full) == ("C", "B")
    said = report(found, DEADLINE, {"q1": "B"})
    assert said["accuracy"]["under_deadline"]["is"] == 0
    assert said["accuracy"]["plain"]["is"] == 1
    assert said["accuracy"]["plain"]["n"] == said["accuracy"]["under_deadline"]["n"] == 1
    assert said["in_time"] == 1
    assert said["seen"] == {"all": 0, "a glance": 1, "nothing": 0}


def test_a_clip_that_does_not_decode_costs_its_own_questions_only(tmp_path: Path) -> None:
    engine = Engine(q1=failing(MediaError("a.mp4: is no video")))
    one, two = answered(engine, [entry("q1"), entry("q2")], tmp_path)
    assert (one.letter, one.seen, one.why) == ("A", "nothing", "a.mp4: is no video")
    assert two.letter == "B"
    assert engine.loads == 1
    assert report([one, two], DEADLINE, {})["marks"] == [{"id": "q1", "seen": "nothing", "why": "a.mp4: is no video"}]


def test_an_engine_that_dies_is_loaded_again_and_the_rest_goes_on(tmp_path: Path) -> None:
    engine = Engine(q2=failing(RoadQAError("the process died")))
    found = answered(engine, [entry(f"q{n}") for n in (1, 2, 3)], tmp_path)
    assert [one.letter for one in found] == ["B", "A", "B"]
    assert engine.loads == 2
    assert engine.asked == ["q1", "q2", "q3"], "no question is asked twice"


def test_an_engine_that_does_not_load_at_once_is_tried_again(tmp_path: Path) -> None:
    engine = Engine()
    engine.broken = 2
    assert [one.letter for one in answered(engine, [entry("q1")], tmp_path)] == ["B"]
    engine.broken = 3
    with pytest.raises(RoadQAError, match="does not load"):
        answered(engine, [entry("q1")], tmp_path)


def test_an_engine_that_will_not_live_leaves_majority_letters(tmp_path: Path) -> None:
    dies = failing(RoadQAError("the process died"))
    engine = Engine(q2=dies, q3=dies, q4=dies)
    with pytest.raises(RoadQAError, match=r"3 questions in a row.*died"):
        answered(engine, [entry(f"q{n}") for n in range(1, 7)], tmp_path)
    assert [row[1] for row in table(tmp_path / "result" / "submission.csv")[1:]] == ["B", "A", "A", "A", "A", "A"]
    assert len(table(tmp_path / "result" / "time_submission.csv")) == 1 + 4


def test_questions_on_one_clip_follow_each_other(tmp_path: Path) -> None:
    engine = Engine()
    entries = [entry("q1", "a.mp4"), entry("q2", "b.mp4"), entry("q3", "a.mp4")]
    answered(engine, entries, tmp_path)
    assert engine.asked == ["q1", "q3", "q2"]
    assert [row[0] for row in table(tmp_path / "result" / "submission.csv")[1:]] == ["q1", "q2", "q3"]


def test_the_letter_is_the_source_files() -> None:
    choices = (Choice(label="B", text="x"), Choice(label="b", text="y"))
    question = Question(id="q", clip="0" * 64, text="?", choices=choices, origin=Origin(answer="none"))
    assert letter_of(entry("q")._replace(question=question), answer(question, 1)) == "B"


# --- the command -------------------------------------------------------------------------------------


def test_the_model_is_asked_as_its_card_tells(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model here"):
        recipe(tmp_path, "vllm")
    (tmp_path / "config.json").write_text("{}")
    assert recipe(tmp_path, "vllm") == PredictRecipe(system_prompt="expert")
    (tmp_path / "card.json").write_text(json.dumps({"recipe": {"video": {"fps": 4}, "system_prompt": "short"}}))
    assert recipe(tmp_path, "transformers").video.fps == 4
    assert recipe(tmp_path, "transformers").system_prompt == "short"
    (tmp_path / "card.json").write_text("[]")
    with pytest.raises(InputError, match=r"card\.json: is not understood"):
        recipe(tmp_path, "vllm")


def test_what_cannot_be_asked_at_all_is_told_and_still_answered(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SystemExit) as ended:
        command.main([str(tmp_path), "--data", str(data), "--videos", str(tmp_path / "x"), "--result", str(tmp_path)])
    assert ended.value.code == 1
    assert "none of 6 questions can be asked" in capsys.readouterr().err
    assert len(table(tmp_path / "submission.csv")) == 7
