"""How many clips of a shard may not decode, before the data is at fault."""

import pytest

from shared.errors import MediaError
from workers.inference.unseen import LIMIT, Unseen


@pytest.mark.parametrize(("clips", "allowed"), [(2, 1), (9, 1), (19, 1), (20, 2), (100, 10)])
def test_one_clip_may_be_unseen_and_a_tenth_but_not_more(clips: int, allowed: int) -> None:
    assert LIMIT == 0.1
    lost = Unseen(clips, {"0" * 64: "met by an earlier attempt"})
    for number in range(1, allowed):
        lost.add(f"{number:064}", "is no video")
    with pytest.raises(MediaError, match=rf"{allowed + 1} of {clips} clips cannot be decoded: 0{{12}}: met by"):
        lost.add("f" * 64, "is no video")


def test_something_must_be_seen() -> None:
    with pytest.raises(MediaError, match="1 of 1 clips"):
        Unseen(1, {}).add("0" * 64, "is no video")


def test_a_clip_counts_once() -> None:
    lost = Unseen(3, {})
    lost.add("a" * 64, "is no video")
    lost.add("a" * 64, "is no video")
    assert len(lost.found) == 1
