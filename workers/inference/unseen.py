"""Questions whose clip does not decode: they get the first letter and a mark, and the others are answered."""

import math
from collections.abc import Mapping

from shared.errors import MediaError
from shared.schema import Prediction, Question

#: Of a shard's clips, beside one; beyond it the data or the decoder is at fault, not a clip.
LIMIT = 0.1


class Unseen:
    """Clips that do not decode, by digest, and why.

    Args:
        clips: how many there are in all.
        known: what an earlier attempt met.
    """

    def __init__(self, clips: int, known: Mapping[str, str]) -> None:
        self.clips, self.found = clips, dict(known)

    def add(self, digest: str, why: str) -> None:
        """Note one.

        Raises:
            MediaError: it is one too many, or none is left.
        """
        self.found[digest] = why
        bad = len(self.found)
        if bad > max(1, LIMIT * self.clips) or bad == self.clips:
            named = "; ".join(f"{digest[:12]}: {reason}" for digest, reason in list(self.found.items())[:3])
            raise MediaError(
                f"{bad} of {self.clips} clips cannot be decoded: {named}; import the clips anew, or take their rows out"
            )


def unseen(question: Question, why: str) -> Prediction:
    """The letter that is right most often where people write questions: the first that is offered."""
    n = len(question.choices)
    return Prediction(
        question=question.id,
        choice=question.offered[0],
        logprobs=(-math.log(n),) * n,
        prompt_tokens=0,
        seconds=0.0,
        unseen=why,
    )
