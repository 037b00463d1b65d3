"""When votes and their verification make an answer. Pure functions."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from shared.schema import Label, Vote

QUORUM = 3  #: usable votes without which nothing is concluded

ACCEPTED = "votes agree and the verification confirms them"
TOO_FEW = "too few usable votes"
SPLIT = "votes disagree"
UNVERIFIED = "no usable verification"
INCONSISTENT = "verification finds inconsistencies"
CONTRADICTED = "verification has another answer"


class Consensus(NamedTuple):
    """What the votes say. `answer` is None where they agree too little; `leading` is their first choice anyway."""

    answer: int | None
    leading: int | None
    agreement: float  #: share of the usable votes for `leading`
    usable: int


class Verification(NamedTuple):
    """The cross-verification: its vote, and whether it found votes and clip consistent."""

    vote: Vote
    consistent: bool


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


def reason(consensus: Consensus, verification: Verification | None) -> str:
    """Why the round is accepted (`ACCEPTED`) or not."""
    if consensus.answer is None:
        return TOO_FEW if consensus.usable < QUORUM else SPLIT
    if verification is None or verification.vote.choice is None:
        return UNVERIFIED
    if not verification.consistent:
        return INCONSISTENT
    return ACCEPTED if verification.vote.choice == consensus.answer else CONTRADICTED


def conclude(question: str, votes: Sequence[Vote], consensus: Consensus, verification: Verification | None) -> Label:
    """The label after the last round; `votes` are those of all rounds."""
    why = reason(consensus, verification)
    return Label(
        question=question,
        status="accepted" if why == ACCEPTED else "flagged",
        answer=consensus.answer if why == ACCEPTED else None,
        reason=why,
        agreement=consensus.agreement,
        votes=tuple(votes),
        verification=verification.vote if verification else None,
    )
