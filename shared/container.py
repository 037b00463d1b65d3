"""Open a clip as if it were hostile.

ffmpeg gets a Python file object and a demuxer forced from an allow-list, so a playlist or a script named `.mp4` is
refused by its first bytes, and nothing but the clip itself can be opened.
"""

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from pydantic import Field

from shared.errors import MediaError
from shared.schema import Frozen

DECODERS = (
    "h264,hevc,av1,libdav1d,vp8,vp9,libvpx,libvpx-vp9,mpeg4,msmpeg4v1,msmpeg4v2,msmpeg4,h263,"
    "mpeg1video,mpeg2video,mjpeg"
)
QUICKTIME_ATOMS = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp")
READ_BYTES = 1 << 18  #: that ffmpeg asks the file for at once


class MediaLimits(Frozen):
    """What a clip may cost. Beyond any of these it is refused."""

    max_bytes: int = Field(2 << 30, gt=0)
    max_pixels: int = Field(7680 * 4320, gt=0)  #: of one frame
    max_frames: int = Field(100_000, gt=0)
    max_streams: int = Field(16, gt=0)
    max_seconds: float = Field(1800, gt=0)  #: of media
    wall_seconds: float = Field(120, gt=0)  #: for one call
    max_memory: int = Field(4 << 30, gt=0)  #: bytes, of a process that does nothing else (`shared.decoders`)


class OpenClip:
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
            buffer_size=READ_BYTES,
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
def opened(path: Path, limits: MediaLimits, threads: int) -> Iterator[OpenClip]:
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
            yield OpenClip(path, file, demuxer, limits, threads)
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
