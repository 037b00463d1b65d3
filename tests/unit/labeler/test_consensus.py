"""When votes and verification make an answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.schema import Vote
from workers.labeler import consensus
from workers.labeler.consensus import Verification


def votes(*choices: int | None) -> list[Vote]:
    return [Vote(prompt=f"p{n}", round=0, choice=choice, reasoning="") for n, choice in enumerate(choices)]


def check(choice: int | None, consistent: bool = True) -> Verification:
    return Verification(Vote(prompt="verify", round=0, choice=choice, reasoning=""), consistent)


@pytest.mark.parametrize(
    ("choices", "share", "answer"),
    [
        ((1, 1, 1, 0, 2), 0.6, 1),
        ((1, 1, 0, 0, 2), 0.6, None),
        ((1, 1, 1, 1, 0), 1.0, None),
        ((1, 1, None, 0, None), 0.6, 1),  # two of three usable ones
        ((1, 1, None, None, None), 0.6, None),  # below the quorum
        ((0, 0, 1, 1, 2), 0.1, None),  # a tie, whatever share is enough
        ((None,) * 5, 0.0, None),
    ],
)
def test_consensus_is_a_share_of_the_usable_votes(
    choices: tuple[int | None, ...], share: float, answer: int | None
) -> None:
    assert consensus.count(votes(*choices), share).answer == answer


@pytest.mark.parametrize(
    ("choices", "verification", "reason"),
    [
        ((1, 1, 1, 0, 0), check(1), consensus.ACCEPTED),
        ((1, 1, 1, 0, 0), check(1, consistent=False), consensus.INCONSISTENT),
        ((1, 1, 1, 0, 0), check(0), consensus.CONTRADICTED),
        ((1, 1, 1, 0, 0), check(None), consensus.UNVERIFIED),
        ((1, 1, 1, 0, 0), None, consensus.UNVERIFIED),
        ((1, 1, 2, 0, 0), None, consensus.SPLIT),
        ((1, None, None, None, 1), None, consensus.TOO_FEW),
    ],
)
def test_only_agreement_that_the_verification_confirms_is_accepted(
    choices: tuple[int | None, ...], verification: Verification | None, reason: str
) -> None:
    agreed = consensus.count(votes(*choices), 0.6)
    label = consensus.conclude("q", votes(*choices), agreed, verification)
    assert label.reason == reason
    assert label.status == ("accepted" if reason == consensus.ACCEPTED else "flagged")
    assert (label.answer is None) == (label.status == "flagged")


@given(st.permutations([0, 0, 0, 1, 2]), st.floats(0, 1))
def test_the_order_of_the_votes_does_not_matter(choices: list[int], share: float) -> None:
    assert consensus.count(votes(*choices), share) == consensus.count(votes(0, 0, 0, 1, 2), share)
