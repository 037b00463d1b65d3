"""The frame shown at an instant is the right one, whatever container, codec, timing or rotation."""

import os
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation

from shared.budget import VideoBudget, frame_size, sample_times
from shared.errors import MediaError
from shared.video import MediaLimits, _Scaler, probe, sample
from tests.hostile.atoms import find, patch
from tests.hostile.generate import encode, number_of

SMALL = VideoBudget(fps=4, tokens_per_patch=6, max_frames=16)


def write(folder: Path, data: bytes) -> Path:
    path = folder / "clip"
    path.write_bytes(data)
    return path


def seen(frames: np.ndarray) -> list[int]:
    """Which frame each picture is."""
    return [number_of(frame) for frame in frames]


@pytest.mark.parametrize(
    ("container", "codec", "pixels"),
    [
        ("mp4", "libx264", "yuv420p"),
        ("mov", "mjpeg", "yuvj420p"),
        ("matroska", "libx264", "yuv420p"),
        ("webm", "libvpx", "yuv420p"),
        ("webm", "libsvtav1", "yuv420p"),
        ("avi", "mpeg4", "yuv420p"),
        ("mpegts", "libx264", "yuv420p"),
        ("mpeg", "mpeg2video", "yuv420p"),
    ],
)
def test_shows_the_last_frame_at_or_before_each_instant(
    tmp_path: Path, container: str, codec: str, pixels: str
) -> None:
    path = write(tmp_path, encode(container, codec=codec, pixels=pixels, frames=70))
    clip = sample(path, SMALL)
    assert clip.fps == pytest.approx(25, abs=0.4)
    assert clip.seconds == pytest.approx(2.8, abs=0.05)
    expected = [int(t * 25) for t in sample_times(clip.seconds, SMALL)]
    assert np.abs(np.array(seen(clip.frames)) - expected).max() <= (1 if container in ("avi", "mpeg") else 0)
    assert clip.indices == pytest.approx(expected, abs=1)


def test_frames_have_the_shape_the_budget_asks_for(tmp_path: Path) -> None:
    clip = sample(write(tmp_path, encode(size=(320, 180))), SMALL)
    width, height = frame_size(320, 180, len(clip.indices), SMALL)
    assert clip.frames.shape == (len(clip.indices), height, width, 3)
    assert clip.frames.dtype == np.uint8
    assert len(clip.indices) % 2 == 0


def test_true_times_with_a_variable_frame_rate(tmp_path: Path) -> None:
    stamps = [0, 1, 2, 3, 40, 41, 42, 43, 44, 45, 60, 62, 64, 74]
    clip = sample(write(tmp_path, encode(stamps=stamps, b_frames=0)), SMALL)
    expected = [max(s for s in stamps if s / 25 <= t + 1e-9) for t in sample_times(clip.seconds, SMALL)]
    assert seen(clip.frames) == [stamps.index(s) for s in expected]
    times = np.array(clip.indices) / clip.fps
    assert np.abs(times - np.array(expected) / 25).max() <= 0.5 / clip.fps + 1e-6


def test_a_stream_cut_between_key_frames_starts_at_the_next_one(tmp_path: Path) -> None:
    data = encode("mpegts", frames=75, gop=25)
    clip = sample(write(tmp_path, data[len(data) // 2 // 188 * 188 :]), SMALL)
    first = 75 - round(clip.seconds * 25)  # the key frame after the cut
    assert 37 < first < 75
    assert seen(clip.frames) == [first + int(t * 25) for t in sample_times(clip.seconds, SMALL)]


def test_fewer_frames_than_instants_repeats_frames(tmp_path: Path) -> None:
    clip = sample(write(tmp_path, encode(frames=5)), VideoBudget(fps=60, tokens_per_patch=6))
    assert len(clip.indices) == 12
    assert seen(clip.frames) == [int(t * 25) for t in sample_times(clip.seconds, VideoBudget(fps=60))]


@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p"])
def test_scaling_before_converting_is_as_near_to_the_exact_picture(pixels: str) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    smooth = av.VideoFrame.from_ndarray(coarse, format="rgb24").reformat(384, 240, interpolation=Interpolation.BICUBIC)
    frame = smooth.reformat(format=pixels)
    flags = (
        Interpolation.AREA | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND
    )
    for width, height in ((384, 256), (224, 128)):
        exact = frame.reformat(width, height, "rgb24", interpolation=flags).to_ndarray().astype(int)
        once = frame.reformat(width, height, "rgb24", interpolation=Interpolation.AREA).to_ndarray()
        ours = _Scaler(width, height).pixels(frame)
        assert np.abs(ours - exact).mean() <= min(2, np.abs(once - exact).mean() + 0.3)


def test_a_picture_of_less_than_half_the_size_is_made_in_one_step() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (240, 384, 3), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
    once = frame.reformat(96, 64, "rgb24", interpolation=Interpolation.AREA).to_ndarray()
    assert np.array_equal(_Scaler(96, 64).pixels(frame), once)


def test_thread_count_does_not_change_pixels(tmp_path: Path) -> None:
    path = write(tmp_path, encode(frames=60))
    assert np.array_equal(sample(path, SMALL, threads=1).frames, sample(path, SMALL, threads=4).frames)


MATRICES = {  # a, b, c, d of the matrix that turns pictures of 160×96 clockwise, and where that puts their corner
    90: (0, 1, -1, 0, 96, 0),
    180: (-1, 0, 0, -1, 160, 96),
    270: (0, -1, 1, 0, 0, 160),
}


@pytest.mark.parametrize("degrees", MATRICES)
def test_rotated_clips_stand_upright(tmp_path: Path, degrees: int) -> None:
    """A phone held upright writes its pictures lying, with a matrix that turns them."""
    a, b, c, d, x, y = MATRICES[degrees]
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, x << 16, y << 16, 1 << 30)
    data = halves(tmp_path)
    path = write(tmp_path, patch(data, find(data, b"tkhd") + 48, matrix))
    found = probe(path, thorough=True)
    assert found.rotation == degrees
    assert (found.width, found.height) == ((160, 96) if degrees == 180 else (96, 160))
    frame = sample(path, VideoBudget(fps=2, tokens_per_patch=64)).frames[0]
    assert frame.shape == (found.height, found.width, 3)
    dark, bright = {  # left was dark
        90: (frame[:60], frame[100:]),
        180: (frame[:, 100:], frame[:, :60]),
        270: (frame[100:], frame[:60]),
    }[degrees]
    assert dark.mean() < 60 < 180 < bright.mean()


def test_a_probe_says_whether_the_frame_rate_varies(tmp_path: Path) -> None:
    steady = probe(write(tmp_path, encode("matroska", frames=60)))  # milliseconds: 40 each
    assert not steady.variable
    assert not probe(write(tmp_path, encode("mpegts", frames=60))).variable
    uneven = write(tmp_path, encode(stamps=[0, 1, 2, 3, 7, 8, 12, 13, 20, 21, 22, 40], b_frames=0))
    assert probe(uneven).variable
    one_missing = [i for i in range(150) if i != 40]
    assert not probe(write(tmp_path, encode(stamps=one_missing, b_frames=0))).variable


def test_a_probe_names_the_sound(tmp_path: Path) -> None:
    assert probe(write(tmp_path, encode())).audio == ""
    path = tmp_path / "loud.mp4"
    with av.open(str(path), "w") as out:
        picture, sound = out.add_stream("libx264", rate=25), out.add_stream("aac", rate=16000)
        picture.width, picture.height, picture.pix_fmt = 160, 96, "yuv420p"
        for _ in range(25):
            out.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((96, 160, 3), np.uint8), format="rgb24")))
        for i in range(16):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 1024 * i
            out.mux(sound.encode(frame))
        out.mux(picture.encode(None))
        out.mux(sound.encode(None))
    assert probe(path).audio == "aac"
    assert len(sample(path, SMALL).indices) == 4


def test_timestamps_that_go_back_are_sampled_by_time(tmp_path: Path) -> None:
    """Every eighth picture says that it is shown two frames later than it is."""
    data = encode(frames=75)
    at = find(data, b"ctts") + 16
    count = struct.unpack_from(">I", data, at - 4)[0]
    table = bytearray(data[at : at + 8 * count])
    shifted = 0
    for i in range(8, count, 8):
        repeat, offset = struct.unpack_from(">II", table, 8 * i)
        if repeat == 1:
            struct.pack_into(">II", table, 8 * i, 1, offset + 2 * 512)
            shifted += 1
    assert shifted > 2
    clip = sample(write(tmp_path, patch(data, at, bytes(table))), SMALL)
    expected = [int(t * 25) for t in sample_times(clip.seconds, SMALL)]
    assert np.abs(np.array(seen(clip.frames)) - expected).max() <= 3
    assert list(clip.indices) == sorted(clip.indices)


def halves(folder: Path) -> bytes:
    """A clip whose left half is dark and whose right half is bright."""
    picture = np.full((96, 160, 3), 20, np.uint8)
    picture[:, 80:] = 220
    path = folder / "halves.mp4"
    with av.open(str(path), "w") as out:
        track = out.add_stream("libx264", rate=25)
        track.width, track.height, track.pix_fmt = 160, 96, "yuv420p"
        for _ in range(30):
            out.mux(track.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(track.encode(None))
    return path.read_bytes()


def damage(path: Path, second: float) -> None:
    """Overwrite the coded picture at `second`."""
    with av.open(str(path)) as clip:
        packet = next(p for p in clip.demux(video=0) if p.pts is not None and float(p.pts * p.time_base) >= second)
        at, size = packet.pos, packet.size
    assert at is not None
    path.write_bytes(patch(path.read_bytes(), at, b"\xff" * size))


def test_damage_between_wanted_instants_is_tolerated_where_it_hides_none(tmp_path: Path) -> None:
    path = write(tmp_path, encode(gop=5, b_frames=0))
    damage(path, 1.0)  # lost until the key frame at 1.2 s
    clip = sample(path, VideoBudget(fps=1, tokens_per_patch=6))
    assert seen(clip.frames) == [int(t * 25) for t in sample_times(3.0, VideoBudget(fps=1))]


def test_damage_that_hides_a_wanted_instant_is_refused_and_says_when(tmp_path: Path) -> None:
    path = write(tmp_path, encode(gop=25, b_frames=0))
    damage(path, 1.04)
    with pytest.raises(MediaError, match=r"damaged: the picture at 1\.\d\d s of 3\.00 s"):
        sample(path, SMALL)
    with pytest.raises(MediaError, match="damaged"):
        probe(path, thorough=True)


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ({"max_bytes": 100}, "bytes"),
        ({"max_pixels": 160 * 96 - 1}, "pixels"),
        ({"max_frames": 10}, "more than 10 frames"),
        ({"max_seconds": 2.0}, "lasts 3 s"),
        ({"wall_seconds": 1e-9}, "takes longer"),
    ],
)
def test_every_limit_refuses(tmp_path: Path, limit: dict[str, float], reason: str) -> None:
    path = write(tmp_path, encode())
    with pytest.raises(MediaError, match=reason):
        probe(path, limits=MediaLimits(**limit))
    with pytest.raises(MediaError, match=reason):
        sample(path, SMALL, limits=MediaLimits(**limit))


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero"), tmp_path / "absent"):
        with pytest.raises(MediaError, match=str(path)):
            probe(path)


def test_a_link_to_a_clip_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, encode())
    (tmp_path / "link").symlink_to(path)
    assert probe(tmp_path / "link") == probe(path)
