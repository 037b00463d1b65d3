"""Questions and frames drawn from a seed, for tests that need no video file."""

from typing import NamedTuple

import numpy as np

from shared.schema import Choice, Origin, Question


class Drawn(NamedTuple):
    """The fields of `shared.video.SampledClip`."""

    frames: np.ndarray  # [T, H, W, 3] uint8 RGB
    indices: tuple[int, ...]
    fps: float
    seconds: float


def clip(seed: int = 0, frames: int = 8, width: int = 96, height: int = 64, fps: float = 10.0) -> Drawn:
    random = np.random.default_rng(seed)
    ramp = np.linspace(0, 255, width, dtype=np.uint8)[None, None, :, None]
    noise = random.integers(0, 255, (frames, height, width, 3), dtype=np.uint8)
    start = int(random.integers(0, 5))
    return Drawn((noise // 2 + ramp // 2), tuple(start + 5 * i for i in range(frames)), fps, frames * 0.5 + 1)


def question(
    texts: tuple[str, ...] = ("red", "green", "amber", "off"), answer: int | None = 1, name: str = "q1"
) -> Question:
    choices = tuple(Choice(label=chr(65 + i), text=text) for i, text in enumerate(texts))
    return Question(
        id=name, clip="0" * 64, text="Which colour is the light?", choices=choices, answer=answer,
        origin=Origin(answer="human" if answer is not None else "none"),
    )  # fmt: skip
