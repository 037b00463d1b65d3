"""Clips that show the same thing: coded anew, scaled, brightened, or with their ends cut off.

Two clips are near-duplicates where, laid over each other at the best offset with half of the shorter in common, the
frames' hashes (`shared.fingerprint`, 4 a second) differ in no more than `NEAR` of their 255 bits on average. Pairs to
compare are found without comparing all: two hashes that are close share one of three bands of 21 of their coarsest
bits, for most distances and frames, so clips are listed by the bands that they hold, and each is compared with the
`NEIGHBOURS` that follow it in each list. Time grows with the number of frames, whatever they show.

`benchmarks/duplicates.py` measures how often that is right; docs/log.md has what `NEAR` was chosen by.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from shared.fingerprint import hashes_of
from shared.schema import Clip

NEAR = 28.0  #: bits of 255 in which the frames of near-duplicates differ on average
SAME = 12.0  #: no pair of different recordings was as near in two lots of 720 drawn clips: what leaks are told by
BANDS, BAND_BITS = 3, 21
NEIGHBOURS = 16


class Pair(NamedTuple):
    """Two near-duplicates."""

    first: str  #: digest, the smaller of the two
    second: str
    bits: float  #: mean number of bits in which their frames differ


def groups(clips: Iterable[Clip], near: float = NEAR) -> dict[str, str]:
    """For each clip's digest the smallest digest of its group; a clip without a near-duplicate is its own group.

    Groups are closed: what is near one member is in. A clip without a fingerprint is alone.
    """
    digests = sorted({clip.digest: clip for clip in clips}.items())
    parent = {digest: digest for digest, _ in digests}
    for pair in pairs((clip for _, clip in digests), near):
        first, second = sorted((_root(parent, pair.first), _root(parent, pair.second)))
        parent[second] = first
    return {digest: _root(parent, digest) for digest in parent}


def _root(parent: dict[str, str], digest: str) -> str:
    while parent[digest] != digest:
        parent[digest] = parent[parent[digest]]
        digest = parent[digest]
    return digest


def pairs(clips: Iterable[Clip], near: float = NEAR) -> Iterator[Pair]:
    """The near-duplicates that are found, in the order of their digests.

    Of many copies of one clip not every pair is named, but enough to join them all.
    """
    texts = {clip.digest: clip.fingerprint for clip in clips}
    known = [(digest, own) for digest in sorted(texts) if len(own := hashes_of(texts[digest]))]
    digests = [digest for digest, _ in known]
    hashes = [own for _, own in known]
    for a, b in _candidates(hashes):
        bits = distance(hashes[a], hashes[b])
        if bits <= near:
            yield Pair(digests[a], digests[b], round(bits, 2))


def _candidates(hashes: Sequence[np.ndarray]) -> Iterator[tuple[int, int]]:
    """Places of clips that share a band of a frame."""
    count = len(hashes)
    if count < 2:
        return
    entries = np.sort(np.concatenate([_bands(own) * count + place for place, own in enumerate(hashes)]))
    band, place = np.divmod(entries, count)
    found = np.empty(0, np.int64)
    for step in range(1, min(NEIGHBOURS, len(entries) - 1) + 1):
        together = np.flatnonzero(band[step:] == band[:-step])
        found = np.union1d(found, place[together] * count + place[together + step])
    for pair in found.tolist():
        yield divmod(pair, count)


def _bands(hashes: np.ndarray) -> np.ndarray:
    """int64, each once: number of the band, and its bits."""
    shifts = np.arange(BANDS, dtype=np.uint64) * np.uint64(BAND_BITS)
    bits = (hashes[:, :1] >> shifts) & np.uint64((1 << BAND_BITS) - 1)
    return np.unique(bits.astype(np.int64) + (np.arange(BANDS, dtype=np.int64) << BAND_BITS))


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Mean bits in which two sequences of hashes [n, WORDS] differ, at the offset where they differ least.

    They overlap by half of the shorter, or more.
    """
    words = (np.bitwise_count(a[:, None] ^ b[None, :]) for a, b in zip(first.T, second.T, strict=True))
    bits = sum(words, start=np.zeros((len(first), len(second)), np.uint8))  # BITS fits into eight
    offsets, counts = _offsets(len(first), len(second))
    sums = np.bincount(offsets, bits.ravel(), len(counts))
    wide = counts >= (min(len(first), len(second)) + 1) // 2
    return float((sums[wide] / counts[wide]).min())


@lru_cache(8)
def _offsets(first: int, second: int) -> tuple[np.ndarray, np.ndarray]:
    """For each pair of frames the offset at which they meet; for each offset how many meet."""
    offsets = (np.arange(second)[None, :] - np.arange(first)[:, None] + first - 1).ravel()
    return offsets, np.bincount(offsets)
