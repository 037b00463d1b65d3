"""Does the engine see what the trainer sees, and does the model answer alike there? What each saw, and the comparison.

Pure: each environment writes what it saw with libraries of its own (`workers/trainer/parity.py`,
`workers/inference/parity.py`); here nothing is encoded.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Literal

from pydantic import Field

from shared.budget import VideoBudget
from shared.errors import RoadQAError
from shared.prompts import SystemPrompt, letter
from shared.schema import Frozen, write_jsonl

Precision = Literal["float32", "bfloat16", "float16"]
#: By which a choice's log-probability may differ, normalised over the choices. Engines add up in different orders, and
#: what they may differ by is units of the type's last place (2^-24, 2^-8, 2^-11), through all layers. Measured on 63
#: questions with the sandbox's base: 0.00002 in float32 and 0.12 in bfloat16, whose own distance from 32 bits is up to
#: 0.43 within one engine. float16: an eighth of bfloat16's, by its last place.
BOUNDS: dict[Precision, float] = {"float32": 0.001, "bfloat16": 0.25, "float16": 0.03}
BEFORE, AFTER = 8, 12  #: tokens shown round the first one that differs

What = Literal["token ids", "grid", "timestamps", "pixels", "log-probabilities"]


class Contract(Frozen):
    """How a model is asked: all that decides what it is shown of a clip and a question."""

    video: VideoBudget = VideoBudget()
    system_prompt: SystemPrompt = "expert"


class Request(Frozen):
    """What an environment is to look at, over local paths."""

    model: Path
    data: Path  #: a rows artifact with its clips
    asking: Contract
    url: str | None = None  #: of a server that has the model, instead of an engine of one's own
    served_name: str = ""  #: as the server calls it
    out: Path  #: where a `Seen` a line is written, in the rows' order


class Seen(Frozen):
    """What a model was shown of one question, and its answer."""

    question: str
    token_ids: tuple[int, ...]  #: up to the assistant's turn
    pieces: tuple[str, ...]  #: the same tokens in letters
    grid: tuple[int, int, int]  #: temporal patches, rows and columns of 16-pixel patches
    timestamps: tuple[float, ...]  #: seconds, one for each temporal patch
    pixels: str  #: SHA-256 of the patches as bytes, in the model's order
    logprobs: tuple[float, ...] | None  #: one for each choice, normalised over them; None where it was not asked
    precision: Precision | None = None  #: of the arithmetic that answered


class Difference(Frozen):
    """Where the two part, side by side."""

    question: str
    of: What
    #: The first token, axis of the grid, temporal patch or choice that differs (for choices the furthest one).
    position: int | None
    trainer: str
    engine: str


class Comparison(Frozen):
    """How many questions are equal in each respect, and where they are not."""

    questions: int
    equal_token_ids: int
    equal_grids: int
    equal_timestamps: int
    equal_pixels: int
    max_logprob_difference: float | None  #: None where nothing was to be compared
    bound: float | None  #: that the difference may reach
    differences: tuple[Difference, ...] = Field(repr=False)

    @property
    def equal(self) -> bool:
        return not self.differences


def compare(trainer: Sequence[Seen], engine: Sequence[Seen]) -> Comparison:
    """What both saw of the same questions, in the same order.

    Raises:
        ValueError: they are not the same questions, or none.
    """
    if not trainer or [seen.question for seen in trainer] != [seen.question for seen in engine]:
        raise ValueError(f"{len(trainer)} questions here, {len(engine)} there: not the same, or none at all")
    pairs = list(zip(trainer, engine, strict=True))
    apart = [distance for one, two in pairs if (distance := logprob_distance(one, two)) is not None]
    bound = max((bound for one, two in pairs if (bound := bound_of(one, two)) is not None), default=None)
    return Comparison(
        questions=len(pairs),
        equal_token_ids=sum(one.token_ids == two.token_ids for one, two in pairs),
        equal_grids=sum(one.grid == two.grid for one, two in pairs),
        equal_timestamps=sum(one.timestamps == two.timestamps for one, two in pairs),
        equal_pixels=sum(one.pixels == two.pixels for one, two in pairs),
        max_logprob_difference=max(apart, default=None),
        bound=bound,
        differences=tuple(found for one, two in pairs for found in differences(one, two)),
    )


def logprob_distance(one: Seen, two: Seen) -> float | None:
    """How far the log-probabilities of the choices are apart at most; None where one of the two has none."""
    if one.logprobs is None or two.logprobs is None:
        return None
    return max(abs(a - b) for a, b in zip(one.logprobs, two.logprobs, strict=True))


def bound_of(one: Seen, two: Seen) -> float | None:
    """How far they may be apart: by the coarser arithmetic of the two."""
    return max((BOUNDS[seen.precision] for seen in (one, two) if seen.precision is not None), default=None)


def differences(trainer: Seen, engine: Seen) -> Iterator[Difference]:
    """All in which two views of one question differ."""
    if (place := first_apart(trainer.token_ids, engine.token_ids)) is not None:
        yield _told(trainer, "token ids", place, around(trainer.pieces, place), around(engine.pieces, place))
    if (place := first_apart(trainer.grid, engine.grid)) is not None:
        yield _told(trainer, "grid", place, "×".join(map(str, trainer.grid)), "×".join(map(str, engine.grid)))
    if (place := first_apart(trainer.timestamps, engine.timestamps)) is not None:
        yield _told(trainer, "timestamps", place, _seconds(trainer, place), _seconds(engine, place))
    if trainer.pixels != engine.pixels:
        yield _told(trainer, "pixels", None, trainer.pixels[:12], engine.pixels[:12])
    yield from _answers(trainer, engine)


def _answers(trainer: Seen, engine: Seen) -> Iterator[Difference]:
    apart, bound = logprob_distance(trainer, engine), bound_of(trainer, engine)
    if apart is None or bound is None or apart <= bound:
        return
    assert trainer.logprobs is not None
    assert engine.logprobs is not None
    gaps = [abs(a - b) for a, b in zip(trainer.logprobs, engine.logprobs, strict=True)]
    place = gaps.index(max(gaps))
    shown = [f"{letter(place)} {logprobs[place]:.4f}" for logprobs in (trainer.logprobs, engine.logprobs)]
    yield _told(trainer, "log-probabilities", place, *shown)


def _told(seen: Seen, of: What, position: int | None, trainer: str, engine: str) -> Difference:
    return Difference(question=seen.question, of=of, position=position, trainer=trainer, engine=engine)


def first_apart(one: Sequence[object], two: Sequence[object]) -> int | None:
    """The first place at which two sequences differ, their end included; None where they are equal."""
    if one == two:
        return None
    pairs = enumerate(zip(one, two, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(two)))


def around(pieces: Sequence[str], place: int) -> str:
    """The words round a token, which stands in brackets; a repeated token is written once, with how often it comes."""
    before, after = pieces[max(0, place - BEFORE) : place], pieces[place + 1 : place + 1 + AFTER]
    here = pieces[place] if place < len(pieces) else "the end"
    return f"{_joined(before)}⟦{here}⟧{_joined(after)}"


def _joined(pieces: Iterable[str]) -> str:
    runs = [(piece, len(list(run))) for piece, run in groupby(pieces)]
    return "".join(piece if count < 3 else f"{piece}×{count}" for piece, count in runs)


def _seconds(seen: Seen, place: int) -> str:
    shown = f"{seen.timestamps[place]:g} s" if place < len(seen.timestamps) else "none"
    return f"{shown} of {len(seen.timestamps)}"


# --- an environment's side -----------------------------------------------------------------------------


def main(see: Callable[[Request], Iterable[Seen]]) -> None:
    """`python -m … REQUEST.json`: write what `see` saw; what is wrong is the last line on stderr."""
    request = Request.model_validate_json(Path(sys.argv[1]).read_bytes())
    try:
        write_jsonl(request.out, see(request))
    except RoadQAError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
