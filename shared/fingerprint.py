"""What a clip looks like, in few bytes: a perceptual hash of its frames, kept in the dataset.

A frame becomes 32×32 grey pixels; its 63 bits say which of the lowest 8×8 coefficients of their cosine transform, but
the mean, lie above the median. Bits survive coding, scaling and brightness, and change with the scene. (The method of
`imagehash.phash`, which would bring SciPy, PyWavelets and Pillow into every process for these twenty lines.)
"""

from __future__ import annotations

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

SIDE, LOW = 32, 8  #: pixels on a side; coefficients on a side that are kept
HEX = LOW * LOW // 4  #: hexadecimal digits of a frame
LONGEST = 1200  #: frames; a clip of more than five minutes is known by the first five


def _cosines() -> np.ndarray:
    """[LOW, SIDE] the first rows of the discrete cosine transform (type II)."""
    return np.cos(np.pi / SIDE * np.arange(LOW)[:, None] * (np.arange(SIDE)[None, :] + 0.5))


_BASE = _cosines()


def frame_hash(grey: np.ndarray) -> int:
    """63 bits of a picture [SIDE, SIDE]."""
    low = (_BASE @ grey @ _BASE.T).ravel()
    bits = low > np.median(low[1:])
    bits[0] = False  # the mean: brightness alone
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


class Fingerprint:
    """The hashes of a clip's frames in order of time; as a text, `HEX` digits for each."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()
        self._hashes: list[int] = []

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
        return "".join(f"{value:0{HEX}x}" for value in self._hashes)


def hashes_of(text: str) -> np.ndarray:
    """[n] uint64: the frames' hashes in a fingerprint."""
    return np.array([int(text[i : i + HEX], 16) for i in range(0, len(text), HEX)], np.uint64)
