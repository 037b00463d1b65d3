"""The pictures of a clip that are on screen at wanted instants.

A clip is read once and its packets are kept; what no wanted picture leans on is not decoded (`shared/packets.py`).
Where that shows anything odd, all of the clip is decoded and judged by that: a clip whose damage hides a wanted
instant is refused.
"""

from __future__ import annotations

import heapq
import logging
import os
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any, NamedTuple

import av
from av.bitstream import BitStreamFilterContext
from av.packet import Packet as Coded
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from shared.container import MediaLimits, OpenClip, opened
from shared.packets import Packet, by_turn, nature_of, needed
from shared.timeline import PLACEHOLDER, SLACK, Timeline, read_timeline

log = logging.getLogger(__name__)

ONE_THREAD = 30_000_000  #: pixels; a clip of fewer is decoded before a second thread is under way
CORRUPT_SHARE = 0.1  #: share of the sampled frames that may carry the decoder's mark "corrupt"
NEVER_REORDERED = ("mjpeg", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "vp8")  #: codecs without B-frames
AVI_REORDER = 8  #: AVI has no display times: the decoder's order is right, its stamps are shuffled this far


#: More clips at once than there are cores are decoded no sooner, and keep the interpreter from each other.
_TURN = BoundedSemaphore(len(os.sched_getaffinity(0)))


class Shown(NamedTuple):
    """The frame on screen at a wanted instant; times in seconds from the start of the clip."""

    wanted: float
    time: float
    frame: VideoFrame


class OddError(Exception):
    """The packets did not tell how the clip decodes."""


class Source:
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
def read(path: Path, limits: MediaLimits | None, threads: int) -> Iterator[Source]:
    """The packets of a clip, one clip for each core at a time: others wait."""
    with _TURN, opened(path, limits or MediaLimits(), threads) as clip, clip.stream() as (container, stream):
        timeline = read_timeline(clip, container, stream)
        context = stream.codec_context
        if len(timeline.packets) * context.width * context.height < ONE_THREAD:
            context.thread_count = clip.threads = 1
        yield Source(clip, stream, timeline)


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


def _pick(wanted: Iterable[float], frames: Iterator[tuple[float, VideoFrame]]) -> Iterator[Shown]:
    """For each wanted instant (ascending) the last frame with a time <= it; the first frame before that."""
    following = next(frames, None)
    current = following
    for instant in wanted:
        while following is not None and following[0] <= instant:
            current, following = following, next(frames, None)
        if current is not None:
            yield Shown(instant, *current)


def shown_from_all(source: Source, wanted: list[float]) -> Iterator[Shown]:
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


def shown_alone(source: Source, wanted: list[float]) -> Iterator[Shown]:
    """The same frames, from no more than they lean on.

    Raises:
        OddError: that cannot be told beforehand, or decodes otherwise than was told; any frame so far is void.
    """
    clip, timeline = source.clip, source.timeline
    if not timeline.whole:
        raise OddError("its packets do not name its pictures")
    with source.packets() as (stream, coded):
        packets = timeline.packets
        if clip.demuxer == "avi" and clip.codec not in NEVER_REORDERED:
            packets, coded = _in_turn(clip, timeline, stream, coded)
        stamps = sorted(packet.pts for packet in packets)
        if len(set(stamps)) < len(stamps):
            raise OddError("two pictures have one time")
        base = _seconds_per_tick(stream)
        times = [(stamp - timeline.start) * base for stamp in stamps]
        due = deque((instant, stamps[max(0, bisect_right(times, instant) - 1)]) for instant in wanted)
        marks = needed(packets, {stamp for _, stamp in due})
        frames = _only_needed(clip, stream, coded, marks)
        stamped: Iterator[tuple[int | None, VideoFrame]] = ((frame.pts, frame) for frame in frames)
        if packets is not timeline.packets:
            stamped = _stamped_by_turn([packet for packet, mark in zip(packets, marks, strict=True) if mark], frames)
        latest = timeline.start - 1
        for stamp, frame in stamped:
            if stamp is None or stamp <= latest or (due and stamp > due[0][1]):
                raise OddError("a picture is missing, or comes out of turn")
            latest = stamp
            while due and stamp == due[0][1]:
                if frame.is_corrupt:
                    raise OddError("a wanted picture is marked corrupt")
                yield Shown(due.popleft()[0], (stamp - timeline.start) * base, frame)
            if not due:
                return
    raise OddError("a wanted picture did not come")


def _in_turn(
    clip: OpenClip, timeline: Timeline, stream: VideoStream, coded: Iterator[Coded[Any] | None]
) -> tuple[list[Packet], Iterator[Coded[Any] | None]]:
    """The packets of an AVI, which has no display times, each with the time of its turn; one picture in each.

    Old encoders pack a B-picture behind the one that it leans on, and send a placeholder when its turn has come.
    """
    if clip.codec != "mpeg4":
        raise OddError("its packets do not tell when their pictures are shown")
    if all(packet.coded for packet in timeline.packets):
        return by_turn(timeline.packets), coded
    if timeline.kept is None:
        raise OddError("its packets hold several pictures, and are too large to keep")
    try:
        unpacking = BitStreamFilterContext("mpeg4_unpack_bframes", stream)
        single = [one for packet in coded for one in unpacking.filter(packet) if one.size > PLACEHOLDER]
    except av.FFmpegError as error:
        raise OddError("its packed pictures cannot be taken apart") from error
    nature = nature_of(clip.codec, None)
    described: list[Packet] = []
    for packet in single:
        if packet.pts is None:
            raise OddError("a picture has no time")
        described.append(Packet(packet.pts, packet.is_keyframe, True, *nature(bytes(packet), packet.is_keyframe)))
    return by_turn(described), chain(single, (None,))


def _stamped_by_turn(packets: list[Packet], frames: Iterator[VideoFrame]) -> Iterator[tuple[int | None, VideoFrame]]:
    """The frames of these packets, in order of display, with the packets' times."""
    turns = deque(sorted(packets))
    for frame in frames:
        if not turns or (frame.pict_type == PictureType.B) != turns[0].spare:
            raise OddError("another picture than the one whose turn it is")
        yield turns.popleft().pts, frame


def _only_needed(
    clip: OpenClip, stream: VideoStream, packets: Iterator[Coded[Any] | None], marks: list[bool]
) -> Iterator[VideoFrame]:
    marked = (packet for packet, mark in zip(packets, marks, strict=False) if mark)
    try:
        for packet in chain(marked, (None,)):
            yield from _decode(clip, stream, packet)
    except av.FFmpegError as error:
        raise OddError("a packet cannot be decoded") from error


def _seconds_per_tick(stream: VideoStream) -> float:
    assert stream.time_base is not None, "a stream that was read has a time base"
    return float(stream.time_base)
