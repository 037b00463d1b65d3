"""How far a teacher's labels can be trusted, measured on questions that people have answered. Pure computation.

The recording is the unit of every interval and test, as in `shared/metrics.py`. Figures of votes are those of the
first round: the later ones are asked of the hard questions only.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from shared.choices import fixed_places
from shared.metrics import Settings, accuracy_interval, cluster_interval, sign_flip_p
from shared.schema import Frozen, Label, Question, Vote
from shared.votes import QUORUM, count, leading


class Case(NamedTuple):
    """A label and what is known about its question. `question.answer` is the people's."""

    label: Label
    question: Question
    recording: str

    @property
    def first(self) -> list[Vote]:
        """The votes of the first round."""
        return [vote for vote in self.label.votes if vote.round == 0]

    @property
    def right(self) -> int:
        """1 where the label's answer is the people's."""
        return int(self.label.answer == self.question.answer)


class Share(Frozen):
    """A share with its error bar; both None where there is nothing to take it of."""

    n: int
    value: float | None
    ci95: tuple[float, float] | None


class PromptTrust(Frozen):
    """One prompt's votes."""

    prompt: str
    accuracy: Share  #: of its usable votes
    unusable: int


class Point(Frozen):
    """What one setting of `min_agreement` lets through."""

    min_agreement: float
    coverage: Share  #: of all questions
    precision: Share  #: of what is let through
    asked_again: int = 0  #: labels that it would have asked again, with an outcome nobody knows


class Place(Frozen):
    """How often one shown place was picked, and how often the right answer stood there."""

    place: int  #: from 1
    picked: float
    right: float
    p: float  #: two-sided sign-flip test over recordings


class Kappa(Frozen):
    value: float
    ci95: tuple[float, float]
    n: int  #: questions with two usable votes or more


class Unanimous(Frozen):
    """Questions on which every usable vote of the first round says the same."""

    precision: Share
    wrong: int
    independent: float  #: of them wrong at most, were the prompts' errors independent of each other


class Group(Frozen):
    """Labels that have a category, a round or a reason in common."""

    name: str
    coverage: Share  #: accepted ones of all
    precision: Share  #: right ones of the accepted


class Flagged(Frozen):
    reason: str
    n: int
    leading_right: Share  #: questions on which the last round's first choice was right all the same


class Trust(Frozen):
    """Everything that is measured of a teacher."""

    n: int
    recordings: int
    min_agreement: float  #: the recipe's
    single_vote: Share
    prompts: tuple[PromptTrust, ...]
    majority: Point  #: the first round's votes alone, at the recipe's threshold
    accepted: Point  #: the whole of voting and verification
    kappa: Kappa | None
    unanimous: Unanimous
    curve: tuple[Point, ...]
    votes_alone: tuple[Point, ...]  #: the same without verification
    places: tuple[Place, ...]
    place_p: float | None  #: of the places' smallest p, times how many places there are
    categories: tuple[Group, ...]
    rounds: tuple[Group, ...]
    flagged: tuple[Flagged, ...]
    problems: dict[str, int]  #: votes and verifications without a usable answer, by kind
    usd: float | None  #: of all labels; None where the model has no price
    usd_per_accepted: float | None


def measure(
    cases: Sequence[Case], min_agreement: float, extra_rounds: int, settings: Settings | None = None,
    *, usd: float | None = None,
) -> Trust:  # fmt: skip
    """Measure the labels of answered questions, made with a recipe's `min_agreement` and `extra_rounds`.

    Args:
        usd: what all of them cost; by default what their votes and last verifications did. The verifications of
            earlier rounds are not kept with a label.

    Raises:
        ValueError: there is no case, or a question without an answer.
    """
    if not cases or any(case.question.answer is None for case in cases):
        raise ValueError("trust is measured on answered questions, one at least")
    shares = _Shares(settings)
    curve = tuple(_stricter(cases, at, extra_rounds, shares) for at in _thresholds(cases, min_agreement))
    usd = _usd(cases) if usd is None else usd
    accepted = curve[0].precision.n
    places = _places(cases)
    return Trust(
        n=len(cases),
        recordings=len({case.recording for case in cases}),
        min_agreement=min_agreement,
        single_vote=shares.of((_right(case, vote), case.recording) for case, vote in _usable(cases)),
        prompts=tuple(_prompts(cases, shares)),
        majority=_votes_alone(cases, min_agreement, shares),
        accepted=curve[0],
        kappa=_kappa(cases, settings),
        unanimous=_unanimous(cases, shares),
        curve=curve,
        votes_alone=tuple(_votes_alone(cases, at, shares) for at in _agreements(cases)),
        places=places,
        place_p=min(1.0, len(places) * min(place.p for place in places)) if places else None,
        categories=tuple(_groups(cases, lambda case: case.question.category, shares)),
        rounds=tuple(_groups(cases, lambda case: str(_rounds(case.label)), shares, by_name=True)),
        flagged=tuple(_flagged(cases, shares)),
        problems=dict(Counter(vote.problem for case in cases for vote in _asked(case.label) if vote.problem)),
        usd=usd,
        usd_per_accepted=usd / accepted if usd is not None and accepted else None,
    )


def choose(trust: Trust, target: float) -> Point | None:
    """The loosest threshold of the curve whose precision's lower 95% bound reaches `target`; None where none does.

    A few thresholds are compared on the same questions, so the bound of the chosen one is somewhat too good.
    """
    reached = (point for point in trust.curve if point.precision.ci95 and point.precision.ci95[0] >= target)
    return min(reached, key=lambda point: point.min_agreement, default=None)


class _Shares:
    """Shares with intervals, all by the same settings."""

    def __init__(self, settings: Settings | None) -> None:
        self._settings = settings

    def of(self, outcomes: Iterable[tuple[bool | int, str]]) -> Share:
        """The share of 1 among outcomes, each with its recording."""
        found = list(outcomes)
        if not found:
            return Share(n=0, value=None, ci95=None)
        value, interval = accuracy_interval([int(o) for o, _ in found], [r for _, r in found], self._settings)
        return Share(n=len(found), value=value, ci95=(interval.low, interval.high))


# --- votes -----------------------------------------------------------------------------------------


def _usable(cases: Iterable[Case]) -> list[tuple[Case, Vote]]:
    return [(case, vote) for case in cases for vote in case.first if vote.choice is not None]


def _right(case: Case, vote: Vote) -> bool:
    return vote.choice == case.question.answer


def _prompts(cases: Sequence[Case], shares: _Shares) -> Iterable[PromptTrust]:
    names = sorted({vote.prompt for case in cases for vote in case.first})
    for name in names:
        usable = [(_right(case, vote), case.recording) for case, vote in _usable(cases) if vote.prompt == name]
        asked = sum(vote.prompt == name for case in cases for vote in case.first)
        yield PromptTrust(prompt=name, accuracy=shares.of(usable), unusable=asked - len(usable))


def fleiss_kappa(counts: np.ndarray) -> float:
    """Agreement beyond chance of raters who put subjects into categories.

    Args:
        counts: [subjects, categories], how many raters chose each; two raters or more for each subject.

    Where subjects have different numbers of raters each subject weighs the same; where they have the same, this is
    kappa as Fleiss (1971, "Measuring nominal scale agreement among many raters") has it. 1 where all say the same.
    """
    return float(_kappas(_agreement_sums(counts).sum(axis=0)[None])[0])


def _agreement_sums(counts: np.ndarray) -> np.ndarray:
    """[subjects, 2 + categories]: one, the share of agreeing pairs of raters, the share of each category."""
    raters = counts.sum(axis=1, keepdims=True)
    pairs = (counts * (counts - 1)).sum(axis=1, keepdims=True) / (raters * (raters - 1))
    return np.hstack([np.ones_like(pairs), pairs, counts / raters])


def _kappas(sums: np.ndarray) -> np.ndarray:
    """Kappa of each row of summed `_agreement_sums`."""
    means = sums[:, 1:] / sums[:, :1]
    observed, chance = means[:, 0], (means[:, 1:] ** 2).sum(axis=1)
    room = 1 - chance
    return np.where(room > 1e-12, (observed - chance) / np.where(room > 1e-12, room, 1), 1.0)


def _kappa(cases: Sequence[Case], settings: Settings | None) -> Kappa | None:
    """Of the first round; the categories are the choices' places in the question's own order."""
    rated = [case for case in cases if sum(vote.choice is not None for vote in case.first) > 1]
    if not rated:
        return None
    counts = np.zeros((len(rated), max(len(case.question.choices) for case in rated)))
    for row, case in zip(counts, rated, strict=True):
        for vote in case.first:
            if vote.choice is not None:
                row[vote.choice] += 1
    sums = _agreement_sums(counts)
    _, recording = np.unique([case.recording for case in rated], return_inverse=True)
    totals = np.stack([np.bincount(recording, weights=column) for column in sums.T], axis=1)
    return Kappa(value=fleiss_kappa(counts), ci95=cluster_interval(totals, _kappas, settings), n=len(rated))


def _unanimous(cases: Sequence[Case], shares: _Shares) -> Unanimous:
    """Whether the prompts err together: then all of them may agree on what is wrong."""
    asked, wrong = Counter[str](), Counter[str]()
    for case, vote in _usable(cases):
        asked[vote.prompt] += 1
        wrong[vote.prompt] += not _right(case, vote)
    usable = {id(case): [vote for vote in case.first if vote.choice is not None] for case in cases}
    quorate = [case for case in cases if len(usable[id(case)]) >= QUORUM]
    agreed = [case for case in quorate if len({vote.choice for vote in usable[id(case)]}) == 1]
    outcomes = [(_right(case, usable[id(case)][0]), case.recording) for case in agreed]
    return Unanimous(
        precision=shares.of(outcomes),
        wrong=sum(not right for right, _ in outcomes),
        independent=sum(
            math.prod(wrong[vote.prompt] / asked[vote.prompt] for vote in usable[id(case)]) for case in quorate
        ),
    )


def _places(cases: Sequence[Case]) -> tuple[Place, ...]:
    """Picks against right answers by shown place, on the questions whose choices all move.

    Choices are shown in random orders. A teacher without a preference for a place then picks a wrong choice at one
    place and leaves the right one at another as often as the other way round: the differences are symmetric, which
    is what the sign-flip test takes for granted.
    """
    shown = [
        (case.recording, vote.order.index(vote.choice), vote.order.index(case.question.answer or 0))
        for case in cases
        if not fixed_places([choice.text for choice in case.question.choices])
        for vote in case.label.votes
        if vote.choice is not None and vote.order
    ]
    found = []
    for place in range(max((max(picked, right) for _, picked, right in shown), default=-1) + 1):
        difference: Counter[str] = Counter()
        for recording, picked, right in shown:
            difference[recording] += (picked == place) - (right == place)
        found.append(
            Place(
                place=place + 1,
                picked=sum(picked == place for _, picked, _ in shown) / len(shown),
                right=sum(right == place for _, _, right in shown) / len(shown),
                p=sign_flip_p(difference.values()),
            )
        )
    return tuple(found)


# --- thresholds ------------------------------------------------------------------------------------


def _threshold(agreement: float) -> float:
    """An agreement as it can be written into a recipe: 2/3 as 0.6666, which 2/3 reaches."""
    return math.floor(agreement * 10_000 + 1e-6) / 10_000


def _thresholds(cases: Iterable[Case], own: float) -> list[float]:
    """The recipe's threshold, and the stricter ones that would let less through."""
    found = {_threshold(case.label.agreement) for case in cases if case.label.status == "accepted"}
    lowest = min(found, default=own)  # up to it, all thresholds are the same as the recipe's own
    return [own, *sorted(at for at in found if at > max(own, lowest))]


def _agreements(cases: Iterable[Case]) -> list[float]:
    """The agreements that first rounds came to."""
    rounds = (count(case.first, 0.0) for case in cases)
    return sorted({_threshold(votes.agreement) for votes in rounds if votes.answer is not None})


def _stricter(cases: Sequence[Case], at: float, extra_rounds: int, shares: _Shares) -> Point:
    """What a threshold at least as strict as the recipe's would have let through.

    A round that fell short of the recipe's threshold falls short of a stricter one too, so an accepted label stays
    accepted where its last round agrees enough. Where it does not, a stricter recipe would have asked again while
    it had rounds left: those are counted in `asked_again`, and coverage may be higher by as many. A looser threshold
    cannot be told from these votes: the rounds that it would have ended were never verified, and further ones were
    asked in their place. What votes alone say at any threshold is in `Trust.votes_alone`.
    """
    accepted = [case for case in cases if case.label.status == "accepted"]
    through = [case for case in accepted if case.label.agreement + 1e-9 >= at]
    kept = {id(case) for case in through}
    left = [case for case in accepted if id(case) not in kept and _rounds(case.label) <= extra_rounds]
    return Point(
        min_agreement=at,
        coverage=shares.of((id(case) in kept, case.recording) for case in cases),
        precision=shares.of((case.right, case.recording) for case in through),
        asked_again=len(left),
    )


def _votes_alone(cases: Sequence[Case], at: float, shares: _Shares) -> Point:
    """What the first round's votes would let through without a verification: exact at any threshold."""
    answers = [(case, count(case.first, at).answer) for case in cases]
    return Point(
        min_agreement=at,
        coverage=shares.of((answer is not None, case.recording) for case, answer in answers),
        precision=shares.of(
            (answer == case.question.answer, case.recording) for case, answer in answers if answer is not None
        ),
    )


# --- labels ----------------------------------------------------------------------------------------


def _rounds(label: Label) -> int:
    """Rounds that were asked."""
    return 1 + max(vote.round for vote in label.votes)


def _asked(label: Label) -> list[Vote]:
    """The votes, and the verification that is kept: the last round's."""
    return [*label.votes, *([label.verification] if label.verification else [])]


def _groups(
    cases: Sequence[Case], name_of: Callable[[Case], str], shares: _Shares, by_name: bool = False
) -> Iterable[Group]:
    groups: defaultdict[str, list[Case]] = defaultdict(list)
    for case in cases:
        groups[name_of(case)].append(case)
    order: Callable[[str], Any] = (lambda name: name) if by_name else (lambda name: (-len(groups[name]), name))
    for name in sorted(groups, key=order):
        accepted = [case for case in groups[name] if case.label.status == "accepted"]
        yield Group(
            name=name,
            coverage=shares.of((case.label.status == "accepted", case.recording) for case in groups[name]),
            precision=shares.of((case.right, case.recording) for case in accepted),
        )


def _flagged(cases: Sequence[Case], shares: _Shares) -> Iterable[Flagged]:
    reasons: defaultdict[str, list[Case]] = defaultdict(list)
    for case in cases:
        if case.label.status == "flagged":
            reasons[case.label.reason].append(case)
    for reason, found in sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0])):
        choices = [(leading(case.label), case) for case in found]
        outcomes = [(choice == case.question.answer, case.recording) for choice, case in choices if choice is not None]
        yield Flagged(reason=reason, n=len(found), leading_right=shares.of(outcomes))


def _usd(cases: Iterable[Case]) -> float | None:
    """What votes and last verifications cost when they were asked for."""
    known = [vote.usd for case in cases for vote in _asked(case.label) if vote.usd is not None]
    return sum(known) if known else None
