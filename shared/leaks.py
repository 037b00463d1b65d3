"""Whether a test tells anything: which of its questions are on what the model was trained on."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from shared.duplicates import SAME, groups
from shared.schema import Clip, Origin, Question


class Leaks(NamedTuple):
    """For each test question, in order."""

    leaked: list[bool]  #: the model was trained on its clip, a near-duplicate or its recording, with somebody's answers
    transductive: list[bool]  #: not that, but with a teacher's answers to the unanswered test itself


def find(
    questions: Sequence[Question],
    clips: Mapping[str, Clip],
    seen: Iterable[Question],
    seen_clips: Mapping[str, Clip],
) -> Leaks:
    """Compare a test with the rows that a model has seen; clips are by digest."""
    like = groups([*clips.values(), *seen_clips.values()], SAME)
    given: set[str] = set()
    taught: set[str] = set()
    for row in seen:
        if row.answer is None:  # the trainer leaves it out
            continue
        known = _known_by(row.clip, seen_clips, like)
        (taught if _taught(row.origin) else given).update(known)
    asked = [_known_by(question.clip, clips, like) for question in questions]
    leaked = [bool(known & given) for known in asked]
    transductive = [bool(known & taught) and not open_ for known, open_ in zip(asked, leaked, strict=True)]
    return Leaks(leaked, transductive)


def overlap(
    questions: Sequence[Question],
    clips: Mapping[str, Clip],
    seen: Sequence[Question],
    seen_clips: Mapping[str, Clip],
) -> dict[str, int]:
    """Recordings of validation rows that training rows share, by clip, recording or look: recording → rows."""
    found = find(questions, clips, seen, seen_clips)
    shared = [
        clips[question.clip].recording
        for question, *known in zip(questions, found.leaked, found.transductive, strict=True)
        if any(known)
    ]
    return dict(Counter(shared))


def overlap_text(shared: Mapping[str, int]) -> str:
    """What a user is told of an overlap, in one line."""
    named = ", ".join(repr(recording) for recording in sorted(shared)[:5])
    rest = f" and {len(shared) - 5} more" if len(shared) > 5 else ""
    return (
        f"validation: {sum(shared.values())} of its rows are on recordings that are trained on ({named}{rest}):"
        " split them by recording first (`roadqa datasets split`)"
    )


def _taught(origin: Origin) -> bool:
    return origin.test_derived and origin.answer == "teacher"


def _known_by(digest: str, clips: Mapping[str, Clip], like: Mapping[str, str]) -> set[str]:
    """What makes two clips the same, two views of the same, or two that look the same."""
    clip = clips.get(digest)
    known = {f"clip {digest}"}
    return known if clip is None else known | {f"recording {clip.recording}", f"like {like[digest]}"}
