"""What the label verb commits, with a teacher in this process."""

from collections import Counter
from pathlib import Path

import pytest

from shared.context import LocalContext
from shared.contracts import LABEL_CALLS, LabelRecipe, TeacherRecipe
from shared.schema import Choice, Clip, Label, Origin, Question, Rows, read_jsonl, write_rows
from shared.teachers import Reply, Request, TeacherError, Usage
from shared.teachers.crew import TeacherRefusalError
from workers.labeler import prompts
from workers.labeler.label import label


class Refusing:
    """Answers A, but refuses every request about the clips in `refused`."""

    def __init__(self, refused: set[str]) -> None:
        self._refused = refused

    async def ask(self, request: Request, clip: Path | None) -> Reply:
        if request.clip in self._refused:
            raise TeacherError("rejected", "INVALID_ARGUMENT: no sandbox scene in this clip")
        answer = {"answer": request.order.index(0) + 1, "reasoning": "", "verdict": "consistent", "inconsistencies": []}
        return Reply({name: answer[name] for name in request.answer.model_fields}, Usage(1, 1, 1), "m")

    troubles: Counter[str] = Counter()
    batched = False

    async def prepare(self, request: Request, clip: Path | None) -> None: ...

    async def release(self, clip: str) -> None: ...

    async def aclose(self) -> None: ...


def rows(folder: Path, clips: int) -> list[str]:
    """Four unanswered questions a clip; the clips' digests."""
    digests = [f"{n:064x}" for n in range(clips)]
    choices = (Choice(label="A", text="red"), Choice(label="B", text="green"))
    about = {"size_bytes": 1, "seconds": 1, "fps": 1, "width": 1, "height": 1, "codec": "h264"}
    asked = [(f"{digest[-4:]}-{number}", digest) for digest in digests for number in range(4)]
    write_rows(
        folder,
        [Question(id=id_, clip=d, text="?", choices=choices, origin=Origin(answer="none")) for id_, d in asked],
        {d: Clip(digest=d, name=d, recording=d, **about) for d in digests},
    )
    return digests


def labelled(tmp_path: Path, refused: set[str], recipe: LabelRecipe = LabelRecipe()) -> dict[str, object]:  # noqa: B008
    def factory(recipe: TeacherRecipe) -> Refusing:
        return Refusing(refused)

    out = tmp_path / "out"
    out.mkdir()
    ctx = LocalContext(tmp_path / "scratch")
    return label({"data": [tmp_path / "data"]}, recipe, out, ctx, teacher_factory=factory)


def test_a_service_that_refuses_everything_is_no_finding(tmp_path: Path) -> None:
    digests = rows(tmp_path / "data", 5)
    with pytest.raises(TeacherRefusalError, match="refuses all 20 questions on 5 clips: INVALID_ARGUMENT") as raised:
        labelled(tmp_path, set(digests))
    assert raised.value.permanent
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("clips", [1, 3])
def test_one_clip_that_is_refused_is_flagged_and_the_others_go_through(tmp_path: Path, clips: int) -> None:
    digests = rows(tmp_path / "data", clips)
    facts = labelled(tmp_path, {digests[0]})
    assert (facts["accepted"], facts["flagged"]) == (4 * clips - 4, {"too few usable votes": 4})


def test_a_round_takes_as_many_requests_as_the_estimate_says() -> None:
    assert len(prompts.voters("vi")) + 1 == LABEL_CALLS


def test_answered_questions_are_labelled_where_asked_for_and_their_answers_stay(tmp_path: Path) -> None:
    rows(tmp_path / "data", 1)
    found = Rows([tmp_path / "data"])
    first, *rest = found.questions
    write_rows(tmp_path / "data", [first.model_copy(update={"answer": 1}), *rest], found.clips)
    facts = labelled(tmp_path, set(), LabelRecipe(answered="ask"))
    assert (facts["questions"], facts["already_answered"]) == (4, 1)
    labels = {label.question: label for label in read_jsonl(tmp_path / "out" / "labels.jsonl", Label)}
    assert labels[first.id].answer == 0, "the teacher's own, though a human said otherwise"
    written = {question.id: question.answer for question in Rows([tmp_path / "out"]).questions}
    assert written == {question.id: 0 for question in rest}
