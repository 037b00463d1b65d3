"""No recording on two sides, nothing lost, every category in its share."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UsageError
from shared.fingerprint import WORDS, text_of
from shared.schema import Choice, Clip, Origin, Question
from shared.splits import by_recording, joined, split

CHOICES = (Choice(label="A", text="a"), Choice(label="B", text="b"))
CATEGORIES = ("signs", "lights", "counting")


def clip(number: int, recording: str) -> Clip:
    return Clip(
        digest=f"{number:064x}", name=f"{number}.mp4", recording=recording, size_bytes=1, seconds=1, fps=1, width=1,
        height=1, codec="x",
    )  # fmt: skip


def data(sizes: list[int]) -> tuple[list[Question], dict[str, Clip]]:
    """Recordings of so many clips; each clip has one to three questions."""
    clips = [clip(1000 * r + n, f"r{r}") for r, size in enumerate(sizes) for n in range(size)]
    questions = [
        Question(id=f"{one.name}-{n}", clip=one.digest, text="?", choices=CHOICES, category=CATEGORIES[(k + n) % 3],
                 origin=Origin(answer="none"))
        for k, one in enumerate(clips) for n in range(1 + k % 3)
    ]  # fmt: skip
    return questions, {one.digest: one for one in clips}


@given(st.lists(st.integers(1, 9), min_size=3, max_size=30), st.integers(0, 5))
def test_recordings_stay_whole_nothing_is_lost_and_order_does_not_matter(sizes: list[int], seed: int) -> None:
    questions, clips = data(sizes)
    shares = {"train": 0.6, "val": 0.2, "test": 0.2}
    dealt = split(questions, clips, shares, seed=seed)
    assert sorted(q.id for rows in dealt.values() for q in rows) == sorted(q.id for q in questions)
    assert all(dealt.values()), "no split stays empty"
    sides = [{clips[q.clip].recording for q in rows} for rows in dealt.values()]
    assert sum(map(len, sides)) == len(set.union(*sides))
    mixed = random.Random(seed).sample(questions, len(questions))
    again = split(mixed, clips, shares, seed=seed)
    assert {name: {q.id for q in rows} for name, rows in again.items()} == {
        name: {q.id for q in rows} for name, rows in dealt.items()
    }


def test_each_side_has_its_share_of_each_category() -> None:
    questions, clips = data([5] * 100)
    dealt = split(questions, clips, {"train": 0.8, "test": 0.2})
    whole = Counter(q.category for q in questions)
    tested = Counter(q.category for q in dealt["test"])
    assert all(abs(tested[category] / whole[category] - 0.2) < 0.02 for category in CATEGORIES)


def test_a_rare_category_is_on_both_sides() -> None:
    questions, clips = data([4] * 40)
    rare = {f"r{n}" for n in range(10)}
    marked = [q.model_copy(update={"category": "rare"}) if clips[q.clip].recording in rare else q for q in questions]
    dealt = split(marked, clips, {"train": 0.8, "test": 0.2})
    found = Counter(name for name, rows in dealt.items() for q in rows if q.category == "rare")
    assert 0.1 < found["test"] / found.total() < 0.3


def test_another_seed_deals_otherwise() -> None:
    questions, clips = data([3] * 30)
    first, second = (split(questions, clips, {"a": 0.5, "b": 0.5}, seed=seed) for seed in (0, 1))
    assert {q.id for q in first["a"]} != {q.id for q in second["a"]}


def test_groups_of_ones_own_are_kept_whole() -> None:
    questions, clips = data([2] * 12)
    dealt = split(questions, clips, {"a": 0.5, "b": 0.5}, group=lambda one: str(int(one.recording[1:]) // 3))
    sides = [{int(clips[q.clip].recording[1:]) // 3 for q in rows} for rows in dealt.values()]
    assert not sides[0] & sides[1]


@pytest.mark.parametrize("shares", [{"a": 0.5, "b": 0.4}, {"a": 1.2, "b": -0.2}, {"a": 1.0, "b": 0.0}])
def test_shares_that_are_none_are_refused(shares: dict[str, float]) -> None:
    questions, clips = data([1, 1, 1])
    with pytest.raises(UsageError, match="add up to 1"):
        split(questions, clips, shares)


def test_one_recording_cannot_be_split() -> None:
    questions, clips = data([9])
    with pytest.raises(UsageError, match="1 recordings cannot be dealt out to 2"):
        split(questions, clips, {"a": 0.5, "b": 0.5})


def test_recordings_that_hold_near_duplicates_stay_together() -> None:
    questions, clips = data([2] * 10)
    lot = np.random.default_rng(0)
    look = [text_of(lot.integers(0, 1 << 63, (4, WORDS), dtype=np.uint64)) for _ in range(20)]
    marked = {
        digest: clip.model_copy(update={"fingerprint": look[number]})
        for number, (digest, clip) in enumerate(sorted(clips.items()))
    }
    first, last = min(marked), max(marked)
    marked[last] = marked[last].model_copy(update={"fingerprint": marked[first].fingerprint})
    group = joined(by_recording, marked.values())
    assert group(marked[first]) == group(marked[last])
    assert len({group(clip) for clip in marked.values()}) == 9
    dealt = split(questions, marked, {"a": 0.5, "b": 0.5}, group=group)
    sides = {marked[q.clip].recording: name for name, rows in dealt.items() for q in rows}
    assert sides[marked[first].recording] == sides[marked[last].recording]
