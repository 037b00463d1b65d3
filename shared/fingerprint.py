"""What a clip looks like, in few bytes: a perceptual hash of its frames, kept in the dataset.

A frame becomes 32×32 grey pixels; its 255 bits say which of the lowest 16×16 coefficients of their cosine transform,
but the mean, lie above the median. Bits survive coding, scaling and brightness, and change with the scene. (The method
of `imagehash.phash`, which would bring SciPy, PyWavelets and Pillow into every process for these twenty lines.)
"""

from __future__ import annotations

import base64

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

SIDE, LOW = 32, 16  #: pixels on a side; coefficients on a side that are kept
BITS = LOW * LOW - 1
WORDS = LOW * LOW // 64  #: of 64 bits, that a frame's hash is kept in
LONGEST = 1200  #: frames; a clip of more than five minutes is known by the first five
MARK = f"{LOW}x{LOW}:"  #: what a fingerprint begins with; base64 follows. Others are of an earlier version


def _cosines() -> np.ndarray:
    """[LOW, SIDE] the first rows of the discrete cosine transform (type II)."""
    return np.cos(np.pi / SIDE * np.arange(LOW)[:, None] * (np.arange(SIDE)[None, :] + 0.5))


_BASE = _cosines()
#: Places of the coefficients from the coarsest, the mean, to the finest: the first word holds the steadiest bits.
_ORDER = np.argsort(np.add.outer(np.arange(LOW), np.arange(LOW)).ravel(), kind="stable")


def frame_hash(grey: np.ndarray) -> np.ndarray:
    """[WORDS] uint64: a picture [SIDE, SIDE] in `BITS` bits, the coarsest first; the first bit is always 0."""
    low = (_BASE @ grey @ _BASE.T).ravel()[_ORDER]
    bits = low > np.median(low[1:])
    bits[0] = False  # the mean: brightness alone
    return np.packbits(bits).view(">u8").astype(np.uint64)


class Fingerprint:
    """The hashes of a clip's frames in order of time; as a text, `MARK` and their bytes in base64."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()
        self._hashes: list[np.ndarray] = []

    def add(self, frame: VideoFrame) -> None:
        """Take a frame in, upright."""
        if len(self._hashes) == LONGEST:
            return
        small = self._reformatter.reformat(
            frame, SIDE, SIDE, format="gray", interpolation=Interpolation.AREA, threads=1
        )
        grey = np.rot90(small.to_ndarray().astype(np.float64), frame.rotation // 90)
        self._hashes.append(frame_hash(grey))

    def __str__(self) -> str:
        return text_of(np.stack(self._hashes)) if self._hashes else ""


def text_of(hashes: np.ndarray) -> str:
    """The fingerprint of frames' hashes [n, WORDS] uint64."""
    return MARK + base64.b64encode(hashes.astype(">u8").tobytes()).decode()


def hashes_of(text: str) -> np.ndarray:
    """[n, WORDS] uint64: the frames' hashes in a fingerprint; none where it is of an earlier version."""
    coded = text.removeprefix(MARK) if text.startswith(MARK) else ""
    return np.frombuffer(base64.b64decode(coded), ">u8").astype(np.uint64).reshape(-1, WORDS)
