"""Take from a clip the frames that are on screen at given instants, and say what the clip is.

Headers are not believed: length and frame rate come from the packets' own timestamps, and a clip that is shorter
than it declares, or whose damage hides a wanted instant, is refused (`shared/container.py` opens it). The picture at
time t is the last frame with a timestamp <= t, cut to size by one conversion (`AREA` filter, RGB): all of that is part
of the video contract (`shared/budget.py`).

A clip is read once and its packets are kept; what no wanted picture leans on is not decoded (`shared/packets.py`).
Where that shows anything odd, the clip is decoded wholly and judged by that.
"""

from __future__ import annotations

import heapq
import logging
import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.packet import Packet as Coded
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from shared.budget import VideoBudget, frame_size, sample_times
from shared.container import MediaLimits as MediaLimits
from shared.container import OpenClip, opened
from shared.fingerprint import Fingerprint
from shared.packets import needed
from shared.timeline import SLACK, Timeline, read_timeline

log = logging.getLogger(__name__)

CHECK_EVERY = 0.25  #: seconds between the instants a thorough probe wants to see
CORRUPT_SHARE = 0.1  #: share of the sampled frames that may carry the decoder's mark "corrupt"
NEVER_REORDERED = ("mjpeg", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "vp8")  #: codecs without B-frames
AVI_REORDER = 8  #: AVI has no display times: the decoder's order is right, its stamps are shuffled this far


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


class _Shown(NamedTuple):
    """The frame on screen at a wanted instant; times in seconds from the start of the clip."""

    wanted: float
    time: float
    frame: VideoFrame


class _OddError(Exception):
    """The packets did not tell how the clip decodes."""


class _Source:
    """The coded packets of a clip that has been read, as often as they are wanted."""

    def __init__(self, clip: OpenClip, stream: VideoStream, timeline: Timeline) -> None:
        self.clip, self.timeline = clip, timeline
        self._stream, self._fresh = stream, True

    @contextmanager
    def packets(self) -> Iterator[tuple[VideoStream, Iterator[Coded[Any] | None]]]:
        """The stream whose decoder is in its first state, and its packets; None where they end."""
        kept, fresh, self._fresh = self.timeline.kept, self._fresh, False
        if kept is not None and fresh:
            yield self._stream, chain(kept, (None,))
        else:
            with self.clip.stream() as (container, stream):
                yield stream, chain((packet for packet in container.demux(stream) if packet.size), (None,))


@contextmanager
def _read(path: Path, limits: MediaLimits | None, threads: int) -> Iterator[_Source]:
    with opened(path, limits or MediaLimits(), threads) as clip, clip.stream() as (container, stream):
        yield _Source(clip, stream, read_timeline(clip, container, stream))


def _decode(clip: OpenClip, stream: VideoStream, packet: Coded[Any] | None) -> Iterator[VideoFrame]:
    clip.check_clock()
    for frame in stream.decode(packet):
        clip.check_size(frame.width, frame.height)
        yield frame


class _Decoder:
    """Decodes a stream once, in order of display, and remembers what could not be decoded."""

    def __init__(self, clip: OpenClip, timeline: Timeline, stream: VideoStream) -> None:
        self._clip, self._timeline, self._stream = clip, timeline, stream
        self._errors, self._ended = 0, False
        self._seen: set[int] = set()

    def frames(self, packets: Iterable[Coded[Any] | None]) -> Iterator[tuple[float, VideoFrame]]:
        """(seconds from the start, frame). Never goes back in time."""
        base = _seconds_per_tick(self._stream)
        window = AVI_REORDER if self._clip.demuxer == "avi" else 0
        stamps: list[int] = []
        held: deque[VideoFrame] = deque()
        latest = self._timeline.start
        for frame in self._decoded(packets):
            stamp = latest if frame.pts is None else frame.pts
            self._seen.add(stamp)
            heapq.heappush(stamps, stamp)
            held.append(frame)
            if len(held) > window:
                latest = max(latest, heapq.heappop(stamps))
                yield (latest - self._timeline.start) * base, held.popleft()
        while held:
            latest = max(latest, heapq.heappop(stamps))
            yield (latest - self._timeline.start) * base, held.popleft()

    def _decoded(self, packets: Iterable[Coded[Any] | None]) -> Iterator[VideoFrame]:
        for packet in packets:
            try:
                yield from _decode(self._clip, self._stream, packet)
            except av.FFmpegError as error:
                self._errors += 1
                log.debug("%s: packet at %s: %s", self._clip.path, packet and packet.dts, error)
        self._ended = True

    def hidden(self, base: float, shown: list[tuple[float, float]]) -> float | None:
        """The first wanted instant whose picture was lost to damage; `shown` pairs (wanted, time of its frame)."""
        lost = self._lost(base)
        for wanted, frame in shown:
            following = bisect_right(lost, frame)
            between = following < len(lost) and lost[following] <= wanted
            itself = following > 0 and lost[following - 1] == frame
            if (self._errors and (between or itself)) or (between and wanted - frame > SLACK):
                return wanted
        return None

    def _lost(self, base: float) -> list[float]:
        """Times of the frames that did not come, or lean on one that did not (up to the next key frame)."""
        until = None if self._ended else max(self._seen, default=None)
        broken, times = False, []
        for packet in self._timeline.packets:
            if not packet.coded or (until is not None and packet.pts > until):
                continue
            broken = (broken and not packet.keyframe) or packet.pts not in self._seen
            if broken:
                times.append((packet.pts - self._timeline.start) * base)
        return sorted(times)


def _pick(wanted: Iterable[float], frames: Iterator[tuple[float, VideoFrame]]) -> Iterator[_Shown]:
    """For each wanted instant (ascending) the last frame with a time <= it; the first frame before that."""
    following = next(frames, None)
    current = following
    for instant in wanted:
        while following is not None and following[0] <= instant:
            current, following = following, next(frames, None)
        if current is not None:
            yield _Shown(instant, *current)


def _shown(source: _Source, wanted: list[float]) -> Iterator[_Shown]:
    """The frames on screen at the wanted instants (ascending seconds), from all that comes before them.

    Raises:
        MediaError: an instant cannot be shown; only after the last frame, so take all or nothing.
    """
    clip, timeline = source.clip, source.timeline
    times: list[tuple[float, float]] = []
    corrupt = 0
    with source.packets() as (stream, packets):
        decoder = _Decoder(clip, timeline, stream)
        for shown in _pick(wanted, decoder.frames(packets)):
            times.append((shown.wanted, shown.time))
            corrupt += shown.frame.is_corrupt
            yield shown
        if not times:
            clip.refuse("no frame of it can be decoded (encrypted, or damaged)")
        hidden = decoder.hidden(_seconds_per_tick(stream), times)
    if hidden is not None:
        clip.refuse(f"damaged: the picture at {hidden:.2f} s of {timeline.seconds:.2f} s cannot be decoded")
    if times[0][1] - times[0][0] > SLACK:
        clip.refuse(f"shows nothing before {times[0][1]:.2f} s")
    if corrupt > max(1, CORRUPT_SHARE * len(times)):
        clip.refuse(f"damaged: {corrupt} of {len(times)} sampled frames are marked corrupt")
    if corrupt:
        log.warning("%s: %d of %d sampled frames are marked corrupt; used as they are", clip.path, corrupt, len(times))


def _shown_alone(source: _Source, wanted: list[float]) -> Iterator[_Shown]:
    """The same frames, from no more than they lean on.

    Raises:
        _OddError: that cannot be told beforehand, or decodes otherwise than was told; any frame so far is void.
    """
    clip, timeline = source.clip, source.timeline
    stamps = sorted(packet.pts for packet in timeline.packets)
    reordered = clip.demuxer == "avi" and clip.codec not in NEVER_REORDERED
    if not timeline.whole or reordered or len(set(stamps)) < len(stamps):
        raise _OddError("its packets do not name its pictures")
    with source.packets() as (stream, packets):
        base = _seconds_per_tick(stream)
        times = [(stamp - timeline.start) * base for stamp in stamps]
        due = deque((instant, stamps[max(0, bisect_right(times, instant) - 1)]) for instant in wanted)
        latest = timeline.start - 1
        for frame in _only_needed(clip, stream, packets, needed(timeline.packets, {stamp for _, stamp in due})):
            if frame.pts is None or frame.pts <= latest or (due and frame.pts > due[0][1]):
                raise _OddError("a picture is missing, or comes out of turn")
            latest = frame.pts
            while due and frame.pts == due[0][1]:
                if frame.is_corrupt:
                    raise _OddError("a wanted picture is marked corrupt")
                yield _Shown(due.popleft()[0], (frame.pts - timeline.start) * base, frame)
            if not due:
                return
    raise _OddError("a wanted picture did not come")


def _only_needed(
    clip: OpenClip, stream: VideoStream, packets: Iterator[Coded[Any] | None], marks: list[bool]
) -> Iterator[VideoFrame]:
    marked = (packet for packet, mark in zip(packets, marks, strict=False) if mark)
    try:
        for packet in chain(marked, (None,)):
            yield from _decode(clip, stream, packet)
    except av.FFmpegError as error:
        raise _OddError("a packet cannot be decoded") from error


def _seconds_per_tick(stream: VideoStream) -> float:
    assert stream.time_base is not None, "a stream that was read has a time base"
    return float(stream.time_base)


def _displayed(clip: OpenClip, frame: VideoFrame) -> tuple[int, int]:
    """(width, height) after rotation."""
    if frame.rotation % 90:
        clip.refuse(f"is rotated by {frame.rotation} degrees; re-encode it upright")
    return (frame.height, frame.width) if frame.rotation % 180 else (frame.width, frame.height)


class _Scaler:
    """Pictures at one size."""

    def __init__(self, width: int, height: int) -> None:
        self._size, self._reformatter = (width, height), VideoReformatter()

    def pixels(self, frame: VideoFrame) -> np.ndarray:
        """[height, width, 3] uint8 RGB, upright; one conversion from the source frame."""
        width, height = self._size[::-1] if frame.rotation % 180 else self._size
        small = self._reformatter.reformat(
            frame, width, height, format="rgb24", interpolation=Interpolation.AREA, threads=1
        )
        return np.rot90(small.to_ndarray(), frame.rotation // 90)


def probe(path: Path, *, limits: MediaLimits | None = None, thorough: bool = False, threads: int = 2) -> Probe:
    """What a clip is: its packets are read, its first frame decoded; with `thorough` all of it is decoded.

    Raises:
        MediaError: not a video, damaged, or beyond the limits; names the file and the reason.
    """
    with _read(path, limits, threads) as source:
        timeline = source.timeline
        step = CHECK_EVERY if thorough else timeline.seconds
        wanted = [i * step for i in range(math.ceil(timeline.seconds / step))]
        sizes: set[tuple[int, int]] = set()
        rotation, fingerprint = 0, Fingerprint()
        for shown in _shown(source, wanted):
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


def sample(path: Path, budget: VideoBudget, *, limits: MediaLimits | None = None, threads: int = 2) -> SampledClip:
    """The frames a model sees of a clip under `budget`, each the one on screen at its instant.

    Raises:
        MediaError: not a video, beyond the limits, or damaged where a frame is wanted; names file and reason.
    """
    with _read(path, limits, threads) as source:
        wanted = sample_times(source.timeline.seconds, budget)
        try:
            return _sampled(source, budget, wanted, _shown_alone(source, wanted))
        except _OddError as odd:
            log.debug("%s: %s; decoding all of it", path, odd)
            return _sampled(source, budget, wanted, _shown(source, wanted))


def _sampled(source: _Source, budget: VideoBudget, wanted: list[float], frames: Iterator[_Shown]) -> SampledClip:
    scaler: _Scaler | None = None
    pictures: list[np.ndarray] = []
    times: list[float] = []
    for shown in frames:
        if scaler is None:
            scaler = _Scaler(*frame_size(*_displayed(source.clip, shown.frame), len(wanted), budget))
        fresh = not times or shown.time != times[-1]
        pictures.append(scaler.pixels(shown.frame) if fresh else pictures[-1])
        times.append(shown.time)
    fps, seconds = source.timeline.fps, source.timeline.seconds
    return SampledClip(np.stack(pictures), tuple(round(instant * fps) for instant in times), fps, seconds)
