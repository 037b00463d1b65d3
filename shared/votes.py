"""What a round's votes say, before any verification. Pure functions."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from shared.schema import Label, Vote

QUORUM = 3  #: usable votes without which nothing is concluded


class Consensus(NamedTuple):
    """What the votes say. `answer` is None where they agree too little; `leading` is their first choice anyway."""

    answer: int | None
    leading: int | None
    agreement: float  #: share of the usable votes for `leading`
    usable: int


def count(votes: Sequence[Vote], min_agreement: float) -> Consensus:
    """The consensus of one round's votes. A tie is none, whatever `min_agreement` allows."""
    counts = Counter(vote.choice for vote in votes if vote.choice is not None)
    usable = counts.total()
    if not usable:
        return Consensus(None, None, 0.0, 0)
    most = max(counts.values())
    leaders = [choice for choice, number in counts.items() if number == most]
    agreement = most / usable
    # Shares such as 3/5 are compared with 0.6 as written: no rounding may decide.
    agreed = len(leaders) == 1 and usable >= QUORUM and agreement + 1e-9 >= min_agreement
    return Consensus(leaders[0] if agreed else None, min(leaders), agreement, usable)


def leading(label: Label) -> int | None:
    """What most votes of a label's last round say, ties to the first choice; None where no vote is usable."""
    last = max(vote.round for vote in label.votes)
    return count([vote for vote in label.votes if vote.round == last], 0.0).leading
