"""Make clips that attack, lie or are broken: `python -m tests.hostile.generate FOLDER`.

Each must be refused, or read within the limits, with one line that names it; none may open another
file or a connection.
"""

import random
import struct
import sys
from collections.abc import Sequence
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np

from tests.hostile.atoms import find, patch, replace_body

SIBLING = "sibling.mp4"  #: a sound clip that the hostile ones try to have opened
SOUND = {SIBLING, "declared_65535x65535.mp4"}  #: what may be read (a decoder knows the true size)
FPS = 25


def encode(
    container: str = "mp4",
    *,
    codec: str = "libx264",
    frames: int = 75,
    size: tuple[int, int] = (160, 96),
    options: dict[str, str] | None = None,
    pixels: str = "yuv420p",
    gop: int = 25,
    b_frames: int = 2,
    streams: int = 1,
    stamps: Sequence[int] | None = None,
    coding: dict[str, str] | None = None,
) -> bytes:
    """A clip at 25 fps whose frames tell their index (`numbered`).

    `stamps` gives each frame its own time instead, in 1/25 s. `options` are the container's, `coding` the encoder's.
    """
    with TemporaryDirectory() as folder:  # faststart reads its own output again, so it needs a real file
        path = Path(folder) / "clip"
        _encode(
            path,
            container,
            options or {},
            codec,
            stamps or range(frames),
            size,
            pixels,
            gop,
            b_frames,
            streams,
            coding or {},
        )
        return path.read_bytes()


def _encode(
    path: Path,
    container: str,
    options: dict[str, str],
    codec: str,
    stamps: Sequence[int],
    size: tuple[int, int],
    pixels: str,
    gop: int,
    b_frames: int,
    streams: int,
    coding: dict[str, str],
) -> None:
    with av.open(str(path), "w", format=container, options=options) as out:
        tracks = [_track(out, codec, size, pixels, gop, b_frames, coding) for _ in range(streams)]
        for i, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(numbered(i, *size), format="rgb24")
            frame = frame.reformat(format=pixels)
            frame.pts, frame.time_base = stamp, Fraction(1, FPS)
            for track in tracks:
                out.mux(track.encode(frame))
        for track in tracks:
            out.mux(track.encode(None))


def _track(
    out: Any, codec: str, size: tuple[int, int], pixels: str, gop: int, b_frames: int, coding: dict[str, str]
) -> Any:
    track = out.add_stream(codec, rate=FPS, options=coding)
    track.width, track.height = size
    track.pix_fmt = pixels
    track.gop_size = gop
    if codec != "mjpeg":
        track.codec_context.max_b_frames = b_frames
    track.codec_context.thread_count = 1
    return track


def numbered(index: int, width: int, height: int) -> np.ndarray:
    """[height, width, 3] uint8: eight upright bars, dark or bright, that spell `index` in binary."""
    bits = np.array([index >> bit & 1 for bit in range(8)])
    row = np.where(bits[np.arange(width) * 8 // width], 230, 20).astype(np.uint8)
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def number_of(frame: np.ndarray) -> int:
    """The index that `numbered` wrote into a frame [height, width, 3] of any size."""
    centres = [(2 * bit + 1) * frame.shape[1] // 16 for bit in range(8)]
    return sum(1 << bit for bit, x in enumerate(centres) if frame[:, x].mean() > 125)


def sound_only() -> bytes:
    """An MP4 with nothing but AAC."""
    file = BytesIO()
    with av.open(file, "w", format="mp4") as out:
        track = out.add_stream("aac", rate=16000)
        for i in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, 1024 * i, Fraction(1, 16000)
            out.mux(track.encode(frame))
        out.mux(track.encode(None))
    return file.getvalue()


def picture() -> bytes:
    """A PNG."""
    context = av.CodecContext.create("png", "w")
    context.width, context.height, context.pix_fmt, context.time_base = 64, 48, "rgb24", Fraction(1, FPS)
    frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


def external_reference(clip: bytes, target: str) -> bytes:
    """A QuickTime alias that says the media data is in the file `target` (a path, absolute or relative)."""
    name = target.encode()
    alias = bytes(10) + bytes(28) + bytes(12) + bytes([len(name[:63])]) + name[:63].ljust(63, b"\0")
    alias += bytes(16) + struct.pack(">hh", 1, 1) + bytes(16)
    alias += struct.pack(">hH", 2, len(name)) + name + bytes(len(name) % 2) + struct.pack(">hH", -1, 0)
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    return replace_body(clip, b"dref", struct.pack(">II", 0, 1) + entry)


def playlists(port: int) -> dict[str, str]:
    """Text files named like clips that name another file or a URL."""
    url = f"http://127.0.0.1:{port}/segment.ts"
    hls = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:5\n#EXTINF:5.0,\n{}\n#EXT-X-ENDLIST\n"
    return {
        "ffconcat_relative.mp4": f"ffconcat version 1.0\nfile {SIBLING}\nduration 3\n",
        "ffconcat_http.mp4": f"ffconcat version 1.0\nfile {url}\n",
        "hls_http.mp4": hls.format(url),
        "hls_file.mp4": hls.format(SIBLING),
        "hls_absolute.mp4": hls.format("file:///etc/hosts"),
        "dash_http.mp4": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        f'mediaPresentationDuration="PT5S"><Period><BaseURL>{url}</BaseURL><AdaptationSet mimeType="video/mp4">'
        '<Representation id="1" bandwidth="1000"/></AdaptationSet></Period></MPD>',
        "sdp.mp4": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n",
        "git_lfs_pointer.mp4": "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 9\n",
    }


def damaged(seed: int) -> dict[str, bytes]:
    """Clips cut short, overwritten, or with headers that lie."""
    chance = random.Random(seed)
    clip = encode(options={"movflags": "faststart"}, gop=1000)
    late = encode()  # media first, index at the end
    index, media = find(clip, b"moov"), find(clip, b"mdat")
    stts = find(clip, b"stts")
    entry = find(clip, b"stsd") + 16  # past version, flags and count: the sample entry `avc1`
    flipped = bytearray(clip)
    for _ in range(40):
        flipped[chance.randrange(index + 8, media)] ^= 1 << chance.randrange(8)
    middle = (media + len(clip)) // 2
    return {
        SIBLING: clip,
        "cut_in_media.mp4": clip[:middle],
        "cut_before_index.mp4": late[: find(late, b"moov")],
        "cut_in_index.mp4": late[:-1200],
        "zeroed_middle.mp4": patch(clip, middle - 400, bytes(800)),
        "bitflips_in_index.mp4": bytes(flipped),
        "declared_65535x65535.mp4": patch(clip, entry + 32, struct.pack(">HH", 65535, 65535)),
        "stts_count_2e9.mp4": patch(clip, stts + 16, struct.pack(">II", 2**31 - 1, 1)),
        "timestamps_stand_still.mp4": patch(clip, stts + 20, struct.pack(">I", 0)),
        "encrypted.mp4": patch(clip, entry + 4, b"encv"),
        "external_reference.mp4": external_reference(late, SIBLING),
        "cut_matroska.mp4": (mkv := encode("matroska"))[: len(mkv) * 2 // 3],
        "cut_avi.mp4": (avi := encode("avi", codec="mpeg4"))[: len(avi) // 2],
        "forty_streams.mp4": encode("matroska", streams=40, frames=5),
        "one_frame.mp4": encode(frames=1),
        "frames_of_45_megapixels.mp4": encode("mov", codec="mjpeg", frames=2, size=(9000, 5000), pixels="yuvj420p"),
        "sound_only.mp4": sound_only(),
        "picture.mp4": picture(),
        "y4m_huge.mp4": b"YUV4MPEG2 W32000 H32000 F25:1 Ip A1:1 C420\nFRAME\n" + bytes(1000),
        "random_bytes.mp4": chance.randbytes(65536),
        "random_after_ftyp.mp4": clip[:32] + chance.randbytes(65536),
        "empty.mp4": b"",
    }


def generate(folder: Path, port: int = 9, seed: int = 0) -> list[Path]:
    """Write all of them into `folder`; URLs point at `port` of the loopback. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files = damaged(seed) | {name: text.encode() for name, text in playlists(port).items()}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in sorted(files)]


if __name__ == "__main__":
    for path in generate(Path(sys.argv[1])):
        print(path)
