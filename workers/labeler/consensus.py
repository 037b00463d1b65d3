"""When votes and their verification make an answer. Pure functions."""

from collections.abc import Sequence
from typing import NamedTuple

from shared.schema import Label, Vote
from shared.votes import QUORUM, Consensus, count

__all__ = ["QUORUM", "Consensus", "Verification", "conclude", "count", "reason"]

ACCEPTED = "votes agree and the verification confirms them"
TOO_FEW = "too few usable votes"
SPLIT = "votes disagree"
UNVERIFIED = "no usable verification"
INCONSISTENT = "verification finds inconsistencies"
CONTRADICTED = "verification has another answer"


class Verification(NamedTuple):
    """The cross-verification: its vote, and whether it found votes and clip consistent."""

    vote: Vote
    consistent: bool


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
