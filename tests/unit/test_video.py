"""The frame shown at an instant is the right one, whatever container, codec, timing or rotation."""

import os
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from shared.budget import VideoBudget, frame_size, sample_times
from shared.errors import MediaError
from shared.video import MediaLimits, probe, sample
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


def test_thread_count_does_not_change_pixels(tmp_path: Path) -> None:
    path = write(tmp_path, encode(frames=60))
    assert np.array_equal(sample(path, SMALL, threads=1).frames, sample(path, SMALL, threads=4).frames)


def test_rotated_clips_stand_upright(tmp_path: Path) -> None:
    """A phone held upright writes its pictures lying, with a matrix that turns them 90° clockwise."""
    data = halves(tmp_path)
    matrix = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 96 << 16, 0, 1 << 30)
    path = write(tmp_path, patch(data, find(data, b"tkhd") + 48, matrix))
    found = probe(path)
    assert (found.width, found.height) == (96, 160)
    frame = sample(path, VideoBudget(fps=2, tokens_per_patch=64)).frames[0]
    assert frame.shape == (160, 96, 3)
    assert frame[:60].mean() < 60 < 180 < frame[100:].mean()  # left was dark: it is now on top


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
