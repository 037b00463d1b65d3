"""The rows that travel between stages: clips, questions, votes, labels, predictions.

A *rows* artifact is a folder with `questions.jsonl`, `clips.jsonl` and the clips themselves as
`clips/<digest>`. A dataset is a list of such artifacts (its parts), cut by clip.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared.errors import InputError


class Frozen(BaseModel):
    """Immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Clip(Frozen):
    """A video file, known by the SHA-256 of its bytes."""

    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    name: str  #: path as the source names it
    recording: str  #: clips of one source recording share it; splits never cut through it
    size_bytes: int
    seconds: float
    fps: float  #: average source frame rate
    width: int  #: pixels, as displayed (rotation applied)
    height: int
    codec: str
    #: Degrees clockwise by which its pictures are turned to stand upright; None, like the two below, where the clip was
    #: imported before this was asked.
    rotation: int | None = None
    variable: bool | None = None  #: its frames do not come at even intervals
    audio: str | None = None  #: codec of its first sound track; empty where it has none
    fingerprint: str = ""  #: what it looks like (`shared.fingerprint`)


class Choice(Frozen):
    """One option. `label` is the letter in the source file (may repeat); the model sees A, B, C by position.

    `text` is empty where the source leaves an option out but counts it.
    """

    label: str
    text: str


class Origin(Frozen):
    """Where a row, and its answer, come from."""

    answer: Literal["human", "teacher", "none"]
    test_derived: bool = False  #: the clip belongs to a test set
    teacher: str | None = None  #: model id of the teacher that answered
    parent: str | None = None  #: id of the question this one was made from
    rule: str | None = None  #: augmentation rule that made it


class Question(Frozen):
    """A multiple-choice question on one clip. `answer` is an index into `choices`, None where unknown."""

    id: str
    clip: str  #: Clip.digest
    text: str
    choices: tuple[Choice, ...] = Field(min_length=2, max_length=26)
    answer: int | None = None
    category: str = "unknown"
    language: str = "en"
    origin: Origin

    @model_validator(mode="after")
    def _answer_is_a_choice(self) -> "Question":
        if self.answer is not None and not 0 <= self.answer < len(self.choices):
            raise ValueError(f"answer {self.answer} is not one of {len(self.choices)} choices")
        return self

    @property
    def offered(self) -> tuple[int, ...]:
        """Indices of the choices that have a text. An empty one keeps place and letter, and is shown to no model."""
        return tuple(index for index, choice in enumerate(self.choices) if choice.text)


class Vote(Frozen):
    """One answer of a teacher to one prompt. `choice` is mapped back to the question's own order."""

    prompt: str  #: prompt id, with version
    round: int
    choice: int | None  #: None where the teacher gave no usable answer
    order: tuple[int, ...] = ()  #: the choice that was shown at each place
    reasoning: str
    problem: str | None = None
    usd: float | None = None  #: what it cost when it was asked; None where the model has no price


class Label(Frozen):
    """What the labeler concluded on one question."""

    question: str
    status: Literal["accepted", "flagged"]
    answer: int | None
    reason: str  #: why accepted, or why flagged
    agreement: float  #: share of usable votes for `answer`
    votes: tuple[Vote, ...]
    verification: Vote | None = None


class Rejected(Frozen):
    """A variation that a gate of augmentation turned away, its choices in the parent's order."""

    parent: str  #: Question.id
    rule: str  #: what made it
    gate: str  #: why it may not stand
    text: str
    choices: tuple[str, ...]


class Ballot(Frozen):
    """One of several answers to a question, or one with reasoning. In the question's own order of choices."""

    order: tuple[int, ...]  #: the choice that was shown at each place
    choice: int
    logprobs: tuple[float, ...]
    reasoning: str | None = None  #: what the model wrote before it
    reasoning_tokens: int = 0


class Prediction(Frozen):
    """A model's answer to one question."""

    question: str
    choice: int
    logprobs: tuple[float, ...]  #: one for each choice, in order, normalised over all of them, the empty ones too
    prompt_tokens: int  #: of the first time it was asked
    seconds: float  #: wall time of its batch divided by the batch's questions
    #: What it was concluded from, where it was asked more than once or for a reasoning.
    ballots: tuple[Ballot, ...] = Field((), exclude_if=lambda ballots: not ballots)
    #: Why the model was not asked: its clip does not decode. The choice is then the first, all choices alike probable.
    unseen: str | None = Field(None, exclude_if=lambda why: why is None)


Row = TypeVar("Row", bound=BaseModel)


def read_jsonl(path: Path, model: type[Row]) -> Iterator[Row]:
    """Read rows of `model`, one JSON object a line.

    Raises:
        InputError: a line is not valid; names the file and the line.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield model.model_validate_json(line)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"])) or "row"
                raise InputError(f"{path}:{number}: {where}: {first['msg']}") from error


def write_jsonl(path: Path, rows: Iterable[BaseModel]) -> int:
    """Write one JSON object a line; returns how many."""
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as out:
        for row in rows:
            out.write(row.model_dump_json() + "\n")
            count += 1
    return count


class Rows:
    """The questions and clips of one or more local rows artifacts."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self.questions: list[Question] = []
        self.clips: dict[str, Clip] = {}
        self._folder_of: dict[str, Path] = {}
        for folder in folders:
            self.questions += read_jsonl(folder / "questions.jsonl", Question)
            for clip in read_jsonl(folder / "clips.jsonl", Clip):
                self.clips[clip.digest] = clip
                self._folder_of[clip.digest] = folder

    def clip_path(self, digest: str) -> Path:
        """Local path of a clip's bytes (only where the stage's contract asks for clips)."""
        return self._folder_of[digest] / "clips" / digest


def write_rows(folder: Path, questions: Iterable[Question], clips: Mapping[str, Clip]) -> None:
    """Write a rows artifact's tables; the clips' bytes are already in the store, under their digests."""
    questions = list(questions)
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "questions.jsonl", questions)
    write_jsonl(folder / "clips.jsonl", (clips[digest] for digest in sorted({q.clip for q in questions})))
