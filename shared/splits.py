"""Splits that leak nothing: whole recordings go to one side, and each side gets its share of every category."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

from shared import duplicates
from shared.errors import UsageError
from shared.schema import Clip, Question

Group = Callable[[Clip], str]


def by_recording(clip: Clip) -> str:
    return clip.recording


def joined(group: Group, clips: Iterable[Clip]) -> Group:
    """Groups that hold near-duplicates of each other become one."""
    held = {clip.digest: clip for clip in clips}
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = name = parent[parent[name]]
        return name

    for digest, first in duplicates.groups(held.values(), duplicates.SAME).items():
        one, other = sorted((root(group(held[digest])), root(group(held[first]))))
        parent[other] = one
    return lambda clip: root(group(clip))


def split(
    questions: Iterable[Question],
    clips: Mapping[str, Clip],
    shares: Mapping[str, float],
    *,
    seed: int = 0,
    group: Group = by_recording,
) -> dict[str, list[Question]]:
    """Deal whole groups of clips out to the splits.

    The largest group first, each to where it brings the counts of its categories nearest to their shares; equal groups
    in an order drawn from `seed`. The same for the same data, in whatever order its rows come.

    Args:
        clips: by digest.
        shares: split → share of the questions; they add up to 1.
        group: what may not be cut through; by default the source recording.

    Returns:
        Split → its questions, in the order in which they came.

    Raises:
        UsageError: the shares do not add up to 1, or there are fewer groups than splits.
    """
    if any(share <= 0 for share in shares.values()) or not math.isclose(sum(shares.values()), 1.0, abs_tol=1e-6):
        raise UsageError(f"the shares must be above 0 and add up to 1, not {', '.join(map(str, shares.values()))}")
    held = list(questions)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for question in held:
        counts[group(clips[question.clip])][question.category] += 1
    if len(counts) < len(shares):
        raise UsageError(f"{len(counts)} recordings cannot be dealt out to {len(shares)} splits without cutting one")
    home = _dealt(counts, shares, seed)
    dealt: dict[str, list[Question]] = {name: [] for name in shares}
    for question in held:
        dealt[home[group(clips[question.clip])]].append(question)
    return dealt


def _dealt(counts: Mapping[str, Counter[str]], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Group → split."""
    totals = sum(counts.values(), Counter[str]())
    have: dict[str, Counter[str]] = {name: Counter() for name in shares}
    home: dict[str, str] = {}
    for group in sorted(counts, key=lambda name: (-counts[name].total(), _drawn(seed, name))):
        empty = [name for name in shares if not have[name]]
        left = len(counts) - len(home)
        candidates = empty if left == len(empty) else list(shares)  # no split stays without a group
        nearest = min(candidates, key=lambda name: _cost(counts[group], have[name], totals, shares[name]))
        have[nearest] += counts[group]
        home[group] = nearest
    return home


def _cost(added: Counter[str], have: Counter[str], totals: Counter[str], share: float) -> float:
    """How much further from its shares of the group's categories a split comes (squared, by category size)."""
    cost = 0.0
    for category, count in sorted(added.items()):  # in one order: sums of floats depend on it
        short = share * totals[category] - have[category]
        cost += ((short - count) ** 2 - short**2) / (share * totals[category])
    return cost


def _drawn(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()
