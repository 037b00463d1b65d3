"""Take from a clip the frames that are on screen at given instants, and say what the clip is.

Headers are not believed: length and frame rate come from the packets' own timestamps, and a clip that is shorter
than it declares, or whose damage hides a wanted instant, is refused. `shared/container.py` opens it,
`shared/timeline.py` reads its packets, `shared/pictures.py` decodes. The picture at time t is the last frame with a
timestamp <= t, cut to size by swscale (`AREA` filter, RGB): all of that is part of the video contract
(`shared/budget.py`).
"""

import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from shared.budget import VideoBudget, frame_size, sample_times
from shared.container import MediaLimits as MediaLimits
from shared.container import OpenClip
from shared.fingerprint import Fingerprint
from shared.pictures import OddError, Shown, Source, read, shown_alone, shown_from_all

log = logging.getLogger(__name__)

#: Pixel format of a source → that which it is scaled in, with a colour for each line as one step to RGB would have.
_BETWEEN = {"yuv420p": "yuv422p", "yuvj420p": "yuvj422p"}
CHECK_EVERY = 0.25  #: seconds between the instants a thorough probe wants to see

Room = Callable[[tuple[int, ...]], np.ndarray]  #: shape → array of uint8


class Probe(NamedTuple):
    """What a clip is; width and height in pixels as displayed, fps the average rate."""

    seconds: float
    fps: float
    width: int
    height: int
    codec: str
    frames: int
    rotation: int  #: degrees clockwise by which its pictures are turned to stand upright: 0, 90, 180 or 270
    variable: bool  #: its frames do not come at even intervals
    audio: str  #: codec of its first sound track; empty where it has none
    fingerprint: str  #: `shared.fingerprint`; empty unless the probe was thorough


class SampledClip(NamedTuple):
    """Frames of a clip, in order of time; a frame that is on screen at two instants is there twice."""

    frames: np.ndarray  #: [T, H, W, 3] uint8 RGB; T even, H and W multiples of 32
    indices: tuple[int, ...]  #: T source frame indices: index / fps is the frame's own time in seconds
    fps: float  #: average source frame rate
    seconds: float  #: length of the clip


def _displayed(clip: OpenClip, frame: VideoFrame) -> tuple[int, int]:
    """(width, height) after rotation."""
    if frame.rotation % 90:
        clip.refuse(f"is rotated by {frame.rotation} degrees; re-encode it upright")
    return (frame.height, frame.width) if frame.rotation % 180 else (frame.width, frame.height)


class _Scaler:
    """Pictures at one size.

    From YUV to RGB of another size swscale takes two to three times as long as it takes to scale and then convert, and
    comes out darker (by 1.8 grey levels, where the exact conversion is 0.7 to 1.2 away). A picture of less than half
    the size is made in one step all the same: its colours have few pixels to lose.
    """

    def __init__(self, width: int, height: int) -> None:
        self._size, self._scaling, self._converting = (width, height), VideoReformatter(), VideoReformatter()

    def pixels(self, frame: VideoFrame) -> np.ndarray:
        """[height, width, 3] uint8 RGB, upright: a view of the scaled frame, not a copy."""
        width, height = self._size[::-1] if frame.rotation % 180 else self._size
        scaled, between = frame, _BETWEEN.get(frame.format.name)
        if between and 2 * width >= frame.width and 2 * height >= frame.height and not _has_size(frame, width, height):
            scaled = self._scaling.reformat(
                frame, width, height, format=between, interpolation=Interpolation.AREA, threads=1
            )
        small = self._converting.reformat(
            scaled, width, height, format="rgb24", interpolation=Interpolation.AREA, threads=1
        )
        plane = small.planes[0]
        lines = np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)
        return np.rot90(lines[:, : 3 * width].reshape(height, width, 3), frame.rotation // 90)


def _has_size(frame: VideoFrame, width: int, height: int) -> bool:
    return (frame.width, frame.height) == (width, height)


def probe(path: Path, *, limits: MediaLimits | None = None, thorough: bool = False, threads: int = 2) -> Probe:
    """What a clip is: its packets are read, its first frame decoded; with `thorough` all of it is decoded.

    Raises:
        MediaError: not a video, damaged, or beyond the limits; names the file and the reason.
    """
    with read(path, limits, threads) as source:
        timeline = source.timeline
        step = CHECK_EVERY if thorough else timeline.seconds
        wanted = [i * step for i in range(math.ceil(timeline.seconds / step))]
        sizes: set[tuple[int, int]] = set()
        rotation, fingerprint = 0, Fingerprint()
        for shown in shown_from_all(source, wanted):
            sizes.add(_displayed(source.clip, shown.frame))
            rotation = -shown.frame.rotation % 360
            if thorough:
                fingerprint.add(shown.frame)
        width, height = max(sizes)
        return Probe(
            timeline.seconds,
            timeline.fps,
            width,
            height,
            source.clip.codec,
            len(timeline.packets),
            rotation,
            timeline.variable,
            timeline.audio,
            str(fingerprint),
        )


def in_memory(shape: tuple[int, ...]) -> np.ndarray:
    """An array of uint8 of this process' own."""
    return np.empty(shape, np.uint8)


def sample(
    path: Path,
    budget: VideoBudget,
    *,
    limits: MediaLimits | None = None,
    threads: int = 2,
    room: Room = in_memory,
) -> SampledClip:
    """The frames a model sees of a clip under `budget`, each the one on screen at its instant.

    `room` makes the array that they are put in.

    Raises:
        MediaError: not a video, beyond the limits, or damaged where a frame is wanted; names file and reason.
    """
    with read(path, limits, threads) as source:
        wanted = sample_times(source.timeline.seconds, budget)
        try:
            return _sampled(source, budget, wanted, shown_alone(source, wanted), room)
        except OddError as odd:
            log.debug("%s: %s; decoding all of it", path, odd)
            return _sampled(source, budget, wanted, shown_from_all(source, wanted), room)


def _sampled(
    source: Source, budget: VideoBudget, wanted: list[float], frames: Iterator[Shown], room: Room
) -> SampledClip:
    pictures: np.ndarray | None = None
    times: list[float] = []
    for number, shown in enumerate(frames):
        if pictures is None:
            width, height = frame_size(*_displayed(source.clip, shown.frame), len(wanted), budget)
            scaler, pictures = _Scaler(width, height), room((len(wanted), height, width, 3))
        fresh = not times or shown.time != times[-1]
        pictures[number] = scaler.pixels(shown.frame) if fresh else pictures[number - 1]
        times.append(shown.time)
    assert pictures is not None, "frames that cannot be shown are refused"
    fps, seconds = source.timeline.fps, source.timeline.seconds
    return SampledClip(pictures, tuple(round(instant * fps) for instant in times), fps, seconds)
