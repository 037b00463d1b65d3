"""A teacher is not asked about a choice that is empty, and nobody votes for it."""

from pathlib import Path

from shared.context import LocalContext
from shared.contracts import LabelRecipe, TeacherRecipe
from shared.schema import Choice, Clip, Label, Origin, Question, read_jsonl, write_rows
from shared.teachers import Reply, Request
from tests.unit.labeler.test_label import Refusing
from workers.labeler.label import label


class Last(Refusing):
    """Answers with the last number that it may give, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(set())
        self.asked: list[Request] = []

    async def ask(self, request: Request, clip: Path | None) -> Reply:
        self.asked.append(request)
        reply = await super().ask(request, clip)
        return reply._replace(data=reply.data | {"answer": request.order.index(3) + 1})


def test_votes_are_for_the_choices_that_have_a_text(tmp_path: Path) -> None:
    choices = tuple(Choice(label="A", text=text) for text in ("red", "", "green", "amber"))
    clip = Clip(
        digest="0" * 64, name="c", recording="r", size_bytes=1, seconds=1, fps=1, width=1, height=1, codec="h264"
    )
    asked = Question(id="q", clip=clip.digest, text="?", choices=choices, origin=Origin(answer="none"))
    write_rows(tmp_path / "data", [asked], {clip.digest: clip})
    (tmp_path / "out").mkdir()
    teacher = Last()

    def factory(recipe: TeacherRecipe) -> Last:
        return teacher

    ctx = LocalContext(tmp_path / "scratch")
    label({"data": [tmp_path / "data"]}, LabelRecipe(), tmp_path / "out", ctx, teacher_factory=factory)
    (found,) = read_jsonl(tmp_path / "out" / "labels.jsonl", Label)
    assert (found.status, found.answer) == ("accepted", 3)
    assert all(sorted(request.order) == [0, 2, 3] for request in teacher.asked)
    for request in teacher.asked:
        shown = request.prompt.split("<choices>\n")[1].split("\n</choices>")[0].split("\n")
        assert [line[:3] for line in shown] == ["1. ", "2. ", "3. "]
