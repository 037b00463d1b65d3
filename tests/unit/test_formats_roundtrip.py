"""What a format writes it reads back as it was, but for what it cannot hold."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.formats import registry
from shared.formats.common import read_clip, tidy
from shared.prompts import LETTERS, letter
from shared.schema import Choice, Clip, Origin, Question
from tests.hostile.generate import encode
from tests.unit.formats import Case, named, read_id, write

NAMES = ("train/videos/a_0001.mp4", "đường/b.mp4", "c.mp4")
#: Texts as importers keep them: NFC, single spaces, whole characters; some look like parts of a format.
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30),
    st.lists(st.sampled_from([*"ABC", "A.", "B)", "(C)", "a.m.", "Options:", "Đèn đỏ?", "Answer: B", '"', ",", "0"]),
             min_size=1, max_size=4).map(" ".join),
).map(tidy).filter(bool)  # fmt: skip


class Shelf:
    """A few clips on disk, and where an export would put them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clips: dict[str, Clip] = {}
        for number, name in enumerate(NAMES):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(frames=10 + number))
            clip = read_clip(path, name, thorough=False)
            self.clips[clip.digest] = clip


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("shelf"))


@st.composite
def choices(draw: st.DrawFn, empty: bool = True) -> tuple[Choice, ...]:
    texts = draw(st.lists(TEXTS, min_size=2, max_size=8))
    if empty:
        gaps = draw(st.sets(st.integers(0, len(texts) - 1), max_size=len(texts) - 2))
        texts = ["" if place in gaps else text for place, text in enumerate(texts)]
    labels = draw(st.lists(st.sampled_from(LETTERS), min_size=len(texts), max_size=len(texts)))
    return tuple(Choice(label=label, text=text) for label, text in zip(labels, texts, strict=True))


@st.composite
def rows(draw: st.DrawFn) -> list[tuple[Question, int]]:
    """Questions, each with the number of its clip. No two are the same, so none contradict each other."""
    found = []
    for text in draw(st.lists(TEXTS, min_size=1, max_size=5, unique=True)):
        options = draw(choices())
        offered = [place for place, choice in enumerate(options) if choice.text]
        origin = Origin(
            answer=draw(st.sampled_from(["human", "teacher", "none"])),
            test_derived=draw(st.booleans()),
            teacher=draw(st.none() | TEXTS),
            parent=draw(st.none() | TEXTS),
            rule=draw(st.none() | TEXTS),
        )
        question = Question(
            id=f"{draw(TEXTS)} {len(found)}", clip="0" * 64, text=text, choices=options,
            answer=draw(st.none() | st.sampled_from(offered)), category=draw(TEXTS),
            language=draw(st.sampled_from(["en", "vi"])), origin=origin,
        )  # fmt: skip
        found.append((question, draw(st.integers(0, len(NAMES) - 1))))
    return found


def as_roadbuddy_holds(question: Question) -> Question:
    """The letter of an empty choice is that of its place; of choices alike to the letter the first is the answer."""
    options = tuple(
        choice if choice.text else Choice(label=letter(place), text="") for place, choice in enumerate(question.choices)
    )
    answer = None if question.answer is None else options.index(question.choices[question.answer])
    return question.model_copy(update={"choices": options, "answer": answer})


HOLDS: dict[str, Callable[[Question], Question]] = {
    "roadbuddy": as_roadbuddy_holds,
    "sharegpt": lambda question: question,
    "huggingface": lambda question: question,
}


@pytest.mark.parametrize("format_", registry.EXPORTS)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=rows(), recordings=st.lists(TEXTS, min_size=3, max_size=3))
def test_what_was_exported_is_imported_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, shelf: Shelf, format_: str, drawn: list[tuple[Question, int]],
    recordings: list[str],
) -> None:  # fmt: skip
    digests = list(shelf.clips)
    questions = [question.model_copy(update={"clip": digests[number]}) for question, number in drawn]
    clips = {
        digest: clip.model_copy(update={"recording": recording})
        for (digest, clip), recording in zip(shelf.clips.items(), recordings, strict=True)
    }
    folder = tmp_path_factory.mktemp("out")
    assert registry.write(format_, folder, questions, clips) == []
    files = sorted(folder.glob("data/*.parquet")) or [folder / registry.FORMATS[format_].writes]
    read = [registry.read(format_, file, shelf.folder, thorough=False) for file in files]
    assert [problem for found in read for problem in found.problems] == []
    back = {question.id: question for found in read for question in found.questions}
    assert back == {question.id: HOLDS[format_](question) for question in questions}
    for found in read:
        assert found.clips == {digest: clips[digest] for digest in found.clips}


@pytest.mark.parametrize("text", ["Is the <video> dark?", "<image>?"])
def test_a_text_that_trainers_would_take_for_a_clip_is_left_out_and_told(
    tmp_path: Path, shelf: Shelf, text: str
) -> None:
    digest = next(iter(shelf.clips))
    options = (Choice(label="A", text="x"), Choice(label="B", text="y"))
    asked = [
        Question(id=name, clip=digest, text=said, choices=options, origin=Origin(answer="none"))
        for name, said in (("good", "?"), ("bad", text))
    ]
    (problem,) = registry.write("sharegpt", tmp_path, asked, shelf.clips)
    assert problem.startswith("question bad: has <video>")
    back = registry.read("sharegpt", tmp_path / "sharegpt.json", shelf.folder, thorough=False)
    assert [question.id for question in back.questions] == ["good"]


@pytest.mark.parametrize("format_", ["sutd", "videomme", "nextqa", "csv"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=4, unique=True), options=choices(), category=TEXTS, data=st.data()
)  # fmt: skip
def test_what_a_file_says_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, shelf: Shelf, format_: str, texts: list[str],
    options: tuple[Choice, ...], category: str, data: st.DataObject,
) -> None:  # fmt: skip
    said = [choice.text for choice in options]
    while format_ == "csv" and not said[-1]:
        said.pop()
    offered = [place for place, text in enumerate(said) if text]
    letters = {letter(place) for place in range(len(said))}
    if format_ == "csv" and any("".join(filter(str.isalnum, text)).upper() in letters for text in said):
        return  # a letter that is a choice too, be it in quotes: the importer refuses to guess
    cases = [
        Case(f"q{number}", data.draw(st.sampled_from(NAMES)), text, said, data.draw(st.sampled_from(offered)), category)
        for number, text in enumerate(texts)
    ]
    path = write(format_, tmp_path_factory.mktemp("in"), *cases)
    found = registry.read(format_, path, shelf.folder, thorough=False)
    assert found.problems == []
    read = [(q.id, q.text, [c.text for c in q.choices], q.answer, q.category) for q in found.questions]
    assert read == [(read_id(format_, case), case.question, said, case.answer, category) for case in cases]
    assert [found.clips[q.clip].name for q in found.questions] == [case.video for case in cases]
    assert named(format_, cases[0]).video in cases[0].video
