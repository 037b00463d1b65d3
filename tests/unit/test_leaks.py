"""A test leaks by a clip, its recording, or a clip that looks the same; a teacher's labels are another thing."""

import numpy as np
import pytest

from shared.fingerprint import WORDS, text_of
from shared.leaks import find
from shared.schema import Choice, Clip, Origin, Question

CHOICES = (Choice(label="A", text="a"), Choice(label="B", text="b"))
HUMAN, TAUGHT = Origin(answer="human"), Origin(answer="teacher", test_derived=True)


def look(seed: int, flipped: int = 0) -> str:
    """A fingerprint of twelve frames; each differs from the unflipped one in so many bits."""
    hashes = np.random.default_rng(seed).integers(0, 1 << 63, (12, WORDS), dtype=np.uint64)
    hashes[:, WORDS - 1] ^= np.uint64((1 << flipped) - 1)
    return text_of(hashes)


def clip(number: int, recording: str, fingerprint: str = "") -> Clip:
    return Clip(
        digest=f"{number:064x}", name=f"{number}", recording=recording, size_bytes=1, seconds=3, fps=4, width=1,
        height=1, codec="x", fingerprint=fingerprint,
    )  # fmt: skip


def row(one: Clip, origin: Origin = HUMAN) -> Question:
    return Question(id=one.name, clip=one.digest, text="?", choices=CHOICES, answer=0, origin=origin)


def leaks(test: Clip, seen: Clip, origin: Origin = HUMAN) -> tuple[bool, bool]:
    found = find([row(test)], {test.digest: test}, [row(seen, origin)], {seen.digest: seen})
    return found.leaked[0], found.transductive[0]


@pytest.mark.parametrize(
    ("seen", "leaked"),
    [
        (clip(1, "elsewhere"), True),
        (clip(2, "r"), True),
        (clip(2, "elsewhere", look(7, flipped=11)), True),
        (clip(2, "elsewhere", look(7, flipped=14)), False),
        (clip(2, "elsewhere", look(8)), False),
        (clip(2, "elsewhere"), False),
    ],
    ids=["same clip", "same recording", "looks the same", "looks alike", "looks otherwise", "no fingerprint"],
)
def test_what_was_seen_leaks(seen: Clip, leaked: bool) -> None:
    assert leaks(clip(1, "r", look(7)), seen) == (leaked, False)


def test_a_teachers_labels_on_the_test_are_transductive() -> None:
    assert leaks(clip(1, "r"), clip(2, "r"), TAUGHT) == (False, True)
    assert leaks(clip(1, "r"), clip(2, "other"), TAUGHT) == (False, False)


def test_a_persons_answer_beside_the_teachers_makes_it_a_leak() -> None:
    test, seen = clip(1, "r"), clip(2, "r")
    found = find([row(test)], {test.digest: test}, [row(seen, TAUGHT), row(seen)], {seen.digest: seen})
    assert (found.leaked, found.transductive) == ([True], [False])


def test_a_row_without_an_answer_is_not_trained_on() -> None:
    test, seen = clip(1, "r"), clip(2, "r")
    open_row = row(seen).model_copy(update={"answer": None})
    assert find([row(test)], {test.digest: test}, [open_row], {seen.digest: seen}).leaked == [False]
