"""How the sandbox's teacher errs: at set rates, and the same way whenever it is asked the same."""

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple


class Rates(NamedTuple):
    """Shares between 0 and 1."""

    vote_error: float = 0.25  #: votes that are wrong
    common_share: float = 0.2  #: of those, the share that all prompts have in common on a question
    verify_error: float = 0.1  #: verifications that go wrong by themselves
    see_through: float = 0.5  #: common errors that the verification notices
    slips: float = 0.15  #: rewritten questions that no longer mean the same


class Case(NamedTuple):
    """A question on a clip, as the teacher sees it: the choices in the order of this request."""

    clip: str  #: digest
    question: str
    choices: tuple[str, ...]
    truth: int

    @property
    def name(self) -> str:
        """The same for every order of the choices."""
        return "\x1f".join([self.clip, self.question, *sorted(self.choices)])


class Verdict(NamedTuple):
    answer: int
    consistent: bool


class Mistakes:
    """Draws are hashes of (seed, what is asked), so neither time nor the order of requests matters."""

    def __init__(self, rates: Rates, seed: int) -> None:
        self._rates, self._seed = rates, seed
        common = rates.vote_error * rates.common_share
        self._common = common
        #: With it, `vote_error` of all votes are wrong: a common error leaves a vote no chance to be right.
        self._single = (rates.vote_error - common) / (1 - common) if common < 1 else 0.0

    def vote(self, case: Case, request: str) -> int:
        """The place this vote names; `request` tells one request on the case from another."""
        if (shared := self._shared(case)) is not None:
            return shared
        draw = self.draw("vote", case.name, request)
        return _wrong(case, draw) if draw.random() < self._single else case.truth

    def verify(self, case: Case, votes: Sequence[int], request: str) -> Verdict:
        """Belief about the case, against what most of the `votes` (places) say."""
        majority = Counter(votes).most_common(1)[0][0] if votes else None
        belief = self._believed(case, majority, request)
        return Verdict(belief, belief == majority)

    def _believed(self, case: Case, majority: int | None, request: str) -> int:
        shared = self._shared(case)
        if shared is not None and self.draw("see", case.name).random() >= self._rates.see_through:
            return shared
        draw = self.draw("verify", case.name, request)
        if draw.random() >= self._rates.verify_error:
            return case.truth
        return majority if majority is not None and majority != case.truth else _wrong(case, draw)

    def _shared(self, case: Case) -> int | None:
        """The place of the wrong choice that every prompt names on this question; None on most questions."""
        draw = self.draw("common", case.name)
        if draw.random() >= self._common:
            return None
        wrong = sorted(text for place, text in enumerate(case.choices) if place != case.truth)
        return case.choices.index(draw.choice(wrong))

    def draw(self, *parts: str) -> random.Random:
        """The same for the same seed and parts."""
        text = "\x1e".join([str(self._seed), *parts])
        return random.Random(hashlib.sha256(text.encode()).digest())


def _wrong(case: Case, draw: random.Random) -> int:
    return draw.choice([place for place in range(len(case.choices)) if place != case.truth])
