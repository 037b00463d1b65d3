"""Open a clip as if it were hostile, and take from it the frames that are on screen at given instants.

ffmpeg gets a Python file object and a demuxer forced from an allow-list, so a playlist or a script
named `.mp4` is refused by its first bytes, and nothing but the clip itself can be opened. Headers are
not believed: length and frame rate come from the packets' own timestamps, and a clip that is shorter
than it declares, or whose damage hides a wanted instant, is refused. The picture at time t is the last
frame with a timestamp <= t, cut to size by one conversion (`AREA` filter, RGB): all of that is part of
the video contract (`shared/budget.py`).
"""

import heapq
import logging
import math
import os
import stat
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream
from pydantic import Field

from shared.budget import VideoBudget, frame_size, sample_times
from shared.errors import MediaError
from shared.schema import Frozen

log = logging.getLogger(__name__)

DECODERS = (
    "h264,hevc,av1,libdav1d,vp8,vp9,libvpx,libvpx-vp9,mpeg4,msmpeg4v1,msmpeg4v2,msmpeg4,h263,"
    "mpeg1video,mpeg2video,mjpeg"
)
QUICKTIME_ATOMS = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp")
CHECK_EVERY = 0.25  #: seconds between the instants a thorough probe wants to see
SLACK = 0.5  #: seconds of picture that may be missing at either end before a clip counts as cut short
MAX_FPS = 1000.0  #: more than this is a lie in the timestamps
CORRUPT_SHARE = 0.1  #: share of the sampled frames that may carry the decoder's mark "corrupt"
PLACEHOLDER = 8  #: bytes; a packet no larger than this holds no picture of its own
AVI_REORDER = 8  #: AVI has no display times: the decoder's order is right, its stamps are shuffled this far


class MediaLimits(Frozen):
    """What a clip may cost. Beyond any of these it is refused."""

    max_bytes: int = Field(2 << 30, gt=0)
    max_pixels: int = Field(7680 * 4320, gt=0)  #: of one frame
    max_frames: int = Field(100_000, gt=0)
    max_streams: int = Field(16, gt=0)
    max_seconds: float = Field(1800, gt=0)  #: of media
    wall_seconds: float = Field(120, gt=0)  #: for one call


class Probe(NamedTuple):
    """What a clip is; width and height in pixels as displayed, fps the average rate."""

    seconds: float
    fps: float
    width: int
    height: int
    codec: str
    frames: int


class SampledClip(NamedTuple):
    """Frames of a clip, in order of time; a frame that is on screen at two instants is there twice."""

    frames: np.ndarray  #: [T, H, W, 3] uint8 RGB; T even, H and W multiples of 32
    indices: tuple[int, ...]  #: T source frame indices: index / fps is the frame's own time in seconds
    fps: float  #: average source frame rate
    seconds: float  #: length of the clip


class _Packet(NamedTuple):
    pts: int
    keyframe: bool
    coded: bool  #: False for the placeholders of a few bytes that old AVI encoders write


class _Timeline(NamedTuple):
    """What the packets say of a stream, in its time base."""

    packets: list[_Packet]  #: in decoding order
    start: int
    seconds: float

    @property
    def fps(self) -> float:
        """Average frame rate."""
        return round(len(self.packets) / self.seconds, 6) if self.seconds > 0 else float("inf")


class _Shown(NamedTuple):
    """The frame on screen at a wanted instant; times in seconds from the start of the clip."""

    wanted: float
    time: float
    frame: VideoFrame


class _Clip:
    """One opened clip, with its clock and its limits."""

    def __init__(self, path: Path, file: BinaryIO, demuxer: str, limits: MediaLimits, threads: int) -> None:
        self.path, self.file, self.demuxer, self.limits, self.threads = path, file, demuxer, limits, threads
        self.codec = "unknown"
        self._deadline = time.monotonic() + limits.wall_seconds

    def refuse(self, reason: str) -> NoReturn:
        raise MediaError(f"{self.path}: {reason}")

    def check_clock(self) -> None:
        if time.monotonic() > self._deadline:
            self.refuse(f"takes longer than {self.limits.wall_seconds:g} s to read; re-encode it")

    def check_size(self, width: int, height: int) -> None:
        if width <= 0 or height <= 0:
            self.refuse(f"has no picture of a size up to {self.limits.max_pixels} pixels")
        if width * height > self.limits.max_pixels:
            self.refuse(f"frames of {width}x{height} exceed {self.limits.max_pixels} pixels; scale it down")

    @contextmanager
    def stream(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        """The container and its picture stream, read from the start."""
        self.file.seek(0)
        options = {
            "max_pixels": str(self.limits.max_pixels),
            "max_streams": str(self.limits.max_streams),
            "codec_whitelist": DECODERS,
            "protocol_whitelist": "none",
        }
        if self.demuxer == "mov":
            options |= {"enable_drefs": "0", "use_absolute_path": "0"}
        container = av.open(
            self.file,
            mode="r",
            format=self.demuxer,
            options=options,
            metadata_errors="replace",
            io_open=_refuse_to_open,
        )
        with container:
            yield container, self._picture(container)

    def _picture(self, container: InputContainer) -> VideoStream:
        if len(container.streams) > self.limits.max_streams:
            self.refuse(f"has {len(container.streams)} streams, more than {self.limits.max_streams}")
        pictures = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not pictures:
            self.refuse("has no video stream")
        stream, context = pictures[0], pictures[0].codec_context
        if context is None or context.name not in DECODERS.split(","):
            self.refuse(f"has no codec we decode ({context.name if context else 'unknown or encrypted'}); use H.264")
        self.check_size(context.width, context.height)
        self.codec = context.name
        context.options = {"max_pixels": str(self.limits.max_pixels)}
        context.thread_type, context.thread_count = "FRAME", self.threads
        return stream


def _refuse_to_open(url: str, flags: int, options: dict[str, Any]) -> NoReturn:
    raise PermissionError(f"a clip may not open another file: {url}")


def _demuxer(head: bytes) -> str | None:
    """The demuxer for a file that starts with these bytes; None where it is no container we read."""
    if head[4:8] in QUICKTIME_ATOMS:
        return "mov"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head[:4] == b"\x00\x00\x01\xba":
        return "mpeg"
    for lead, size in ((0, 188), (4, 192)):
        if len(head) > lead + 2 * size and all(head[lead + i * size] == 0x47 for i in range(3)):
            return "mpegts"
    return None


@contextmanager
def _opened(path: Path, limits: MediaLimits, threads: int) -> Iterator[_Clip]:
    """Open a regular file of a known container; every failure inside becomes a MediaError that names it."""
    with _open_regular(path) as file:
        status = os.fstat(file.fileno())
        if not 0 < status.st_size <= limits.max_bytes:
            raise MediaError(f"{path}: has {status.st_size} bytes, the limit is 1 to {limits.max_bytes}")
        head = file.read(1024)
        demuxer = _demuxer(head)
        if demuxer is None:
            raise MediaError(f"{path}: {_what_it_is(head)}; expected MP4/MOV, Matroska/WebM, AVI or MPEG")
        try:
            yield _Clip(path, file, demuxer, limits, threads)
        # IndexError: PyAV's own, for streams that come and go in a damaged MPEG-TS
        except (av.FFmpegError, OSError, MemoryError, IndexError) as error:
            raise MediaError(f"{path}: cannot be read as video ({demuxer}): {_reason(error)}") from error


def _open_regular(path: Path) -> BinaryIO:
    """Open a regular file; never waits on a pipe or reads a device."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise MediaError(f"{path}: cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise MediaError(f"{path}: is not a regular file")
    return os.fdopen(descriptor, "rb")


def _what_it_is(head: bytes) -> str:
    for mark, name in (
        (b"version https://git-lfs", "is a Git LFS pointer, not the clip: run `git lfs pull`"),
        (b"#EXTM3U", "is a playlist"),
        (b"ffconcat", "is an ffconcat script"),
        (b"<", "is a text document"),
        (b"\x89PNG", "is a PNG picture"),
    ):
        if head.startswith(mark):
            return name
    return "is no video container"


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def _timeline(clip: _Clip) -> _Timeline:
    """Read all packets, decode none. The clip starts at the first frame that can be decoded."""
    packets: list[_Packet] = []
    earliest, first_key, last = None, None, (0, 0)
    read_until = 0.0
    with clip.stream() as (container, stream):
        base = stream.time_base
        for packet in container.demux():
            clip.check_clock()
            mine = packet.stream_index == stream.index
            stamp = packet.dts if packet.pts is None else packet.pts
            if mine and packet.is_keyframe and first_key is None:
                first_key = stamp
            if stamp is None or packet.is_discard:  # an edit list may hide a key frame that others lean on
                continue
            length = packet.duration or 0
            read_until = max(read_until, float((stamp + length) * packet.time_base))
            if mine:
                earliest = stamp if earliest is None else min(earliest, stamp)
            if mine and first_key is not None and stamp >= first_key:
                packets.append(_Packet(stamp, packet.is_keyframe, packet.size > PLACEHOLDER))
                last = max(last, (stamp, length))
                if len(packets) > clip.limits.max_frames:
                    clip.refuse(f"has more than {clip.limits.max_frames} frames")
        if len(packets) < 2 or base is None or earliest is None:
            clip.refuse(f"has {len(packets)} frames: not a video")
        start = min(packet.pts for packet in packets)
        step = last[1] or (last[0] - start) / (len(packets) - 1)
        timeline = _Timeline(packets, start, float((last[0] - start + step) * base))
        _check_length(clip, container, stream, timeline, float((start - earliest) * base), read_until)
    return timeline


def _check_length(
    clip: _Clip, container: InputContainer, stream: VideoStream, timeline: _Timeline, lead: float, read_until: float
) -> None:
    """Refuse a clip that is too long, shorter than its header declares, or whose timestamps stand still.

    `lead`: seconds before the first key frame; `read_until`: where the last packet of any stream ends.
    """
    declared, found = None, lead + timeline.seconds
    if stream.duration is not None and stream.time_base is not None:
        declared = float(stream.duration * stream.time_base)
    elif container.duration is not None:  # Matroska: only the length of the whole, sound included
        declared, found = container.duration / av.time_base, read_until
    if declared is not None and declared - found > SLACK:
        clip.refuse(f"is cut short, or its header lies: it breaks off at {found:.2f} s of {declared:.2f} s declared")
    if timeline.seconds > clip.limits.max_seconds:
        clip.refuse(f"lasts {timeline.seconds:.0f} s, more than {clip.limits.max_seconds:g} s; cut it")
    if timeline.seconds <= 0 or timeline.fps > MAX_FPS:
        clip.refuse("its timestamps do not advance; re-encode it")


class _Decoder:
    """Decodes a stream once, in order of display, and remembers what could not be decoded."""

    def __init__(self, clip: _Clip, timeline: _Timeline) -> None:
        self._clip, self._timeline = clip, timeline
        self._errors, self._ended = 0, False
        self._seen: set[int] = set()

    def frames(self, container: InputContainer, stream: VideoStream) -> Iterator[tuple[float, VideoFrame]]:
        """(seconds from the start, frame). Never goes back in time."""
        base = _seconds_per_tick(stream)
        window = AVI_REORDER if self._clip.demuxer == "avi" else 0
        stamps: list[int] = []
        held: deque[VideoFrame] = deque()
        latest = self._timeline.start
        for frame in self._decoded(container, stream):
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

    def _decoded(self, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
        for packet in container.demux(stream):
            self._clip.check_clock()
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                self._errors += 1
                log.debug("%s: packet at %s: %s", self._clip.path, packet.dts, error)
                continue
            for frame in frames:
                assert isinstance(frame, VideoFrame)
                self._clip.check_size(frame.width, frame.height)
                yield frame
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


def _shown(clip: _Clip, timeline: _Timeline, wanted: list[float]) -> Iterator[_Shown]:
    """The frames on screen at the wanted instants (ascending seconds).

    Raises:
        MediaError: an instant cannot be shown; only after the last frame, so take all or nothing.
    """
    decoder = _Decoder(clip, timeline)
    times: list[tuple[float, float]] = []
    corrupt = 0
    with clip.stream() as (container, stream):
        for shown in _pick(wanted, decoder.frames(container, stream)):
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


def _seconds_per_tick(stream: VideoStream) -> float:
    assert stream.time_base is not None, "a stream that was read has a time base"
    return float(stream.time_base)


def _displayed(clip: _Clip, frame: VideoFrame) -> tuple[int, int]:
    """(width, height) after rotation."""
    if frame.rotation % 90:
        clip.refuse(f"is rotated by {frame.rotation} degrees; re-encode it upright")
    return (frame.height, frame.width) if frame.rotation % 180 else (frame.width, frame.height)


def _pixels(frame: VideoFrame, width: int, height: int) -> np.ndarray:
    """[height, width, 3] uint8 RGB, upright; one conversion from the source frame."""
    turned = frame.rotation % 180 != 0
    size = (height, width) if turned else (width, height)
    small = frame.reformat(*size, format="rgb24", interpolation=Interpolation.AREA, threads=1)
    return np.rot90(small.to_ndarray(), frame.rotation // 90)


def probe(path: Path, *, limits: MediaLimits | None = None, thorough: bool = False, threads: int = 2) -> Probe:
    """What a clip is: its packets are read, its first frame decoded; with `thorough` all of it is decoded.

    Raises:
        MediaError: not a video, damaged, or beyond the limits; names the file and the reason.
    """
    with _opened(path, limits or MediaLimits(), threads) as clip:
        timeline = _timeline(clip)
        step = CHECK_EVERY if thorough else timeline.seconds
        wanted = [i * step for i in range(math.ceil(timeline.seconds / step))]
        sizes = {_displayed(clip, shown.frame) for shown in _shown(clip, timeline, wanted)}
        width, height = max(sizes)
        return Probe(timeline.seconds, timeline.fps, width, height, clip.codec, len(timeline.packets))


def sample(path: Path, budget: VideoBudget, *, limits: MediaLimits | None = None, threads: int = 2) -> SampledClip:
    """The frames a model sees of a clip under `budget`, each the one on screen at its instant.

    Raises:
        MediaError: not a video, beyond the limits, or damaged where a frame is wanted; names file and reason.
    """
    with _opened(path, limits or MediaLimits(), threads) as clip:
        timeline = _timeline(clip)
        wanted = sample_times(timeline.seconds, budget)
        size: tuple[int, int] | None = None
        pictures: list[np.ndarray] = []
        times: list[float] = []
        for shown in _shown(clip, timeline, wanted):
            size = size or frame_size(*_displayed(clip, shown.frame), len(wanted), budget)
            fresh = not times or shown.time != times[-1]
            pictures.append(_pixels(shown.frame, *size) if fresh else pictures[-1])
            times.append(shown.time)
        indices = tuple(round(instant * timeline.fps) for instant in times)
        return SampledClip(np.stack(pictures), indices, timeline.fps, timeline.seconds)
