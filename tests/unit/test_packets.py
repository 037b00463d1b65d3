"""What is skipped is what no wanted picture leans on, and no other picture changes for it."""

import io
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from hypothesis import given
from hypothesis import strategies as st

import shared.pictures
import shared.video
from shared.budget import VideoBudget, sample_times
from shared.container import MediaLimits, opened
from shared.errors import MediaError
from shared.packets import Packet, nature_of, needed
from shared.pictures import OddError
from shared.timeline import Timeline, read_timeline
from shared.video import SampledClip, sample
from tests.hostile.generate import encode, number_of

BUDGETS = [VideoBudget(fps=fps, tokens_per_patch=6, max_frames=16) for fps in (0.5, 2, 9)]
X265 = "log-level=error:pools=none"
#: container, encoder, pixels, what else it is told; pictures of 160×96 at 25 fps with a key frame each second
CODINGS = {
    "h264": ("mp4", "libx264", "yuv420p", {}),
    "h264 open groups": ("matroska", "libx264", "yuv420p", {"x264-params": "open-gop=1:scenecut=0"}),
    "h264 annex b": ("mpegts", "libx264", "yuv420p", {}),
    "hevc": ("mp4", "libx265", "yuv420p", {"x265-params": X265}),
    "hevc closed groups": ("matroska", "libx265", "yuv420p", {"x265-params": f"{X265}:open-gop=0"}),
    "hevc two layers": ("mp4", "libx265", "yuv420p", {"x265-params": f"{X265}:temporal-layers=2"}),
    "hevc annex b": ("mpegts", "libx265", "yuv420p", {"x265-params": X265}),
    "vp8": ("webm", "libvpx", "yuv420p", {}),
    "vp9": ("webm", "libvpx-vp9", "yuv420p", {"cpu-used": "5"}),
    "vp9 mp4": ("mp4", "libvpx-vp9", "yuv420p", {"cpu-used": "5"}),
    "av1": ("mp4", "libsvtav1", "yuv420p", {"preset": "12"}),
    "mpeg4": ("mp4", "mpeg4", "yuv420p", {}),
    "mpeg4 avi": ("avi", "mpeg4", "yuv420p", {}),
    "mpeg4 avi packed": ("avi", "mpeg4", "yuv420p", {}),
    "msmpeg4": ("avi", "msmpeg4", "yuv420p", {}),
    "mpeg1": ("mpeg", "mpeg1video", "yuv420p", {}),
    "mpeg2": ("mpegts", "mpeg2video", "yuv420p", {}),
    "mpeg2 program": ("mpeg", "mpeg2video", "yuv420p", {}),
    "mjpeg": ("mov", "mjpeg", "yuvj420p", {}),
    "mjpeg avi": ("avi", "mjpeg", "yuvj420p", {}),
}
#: Of these at least so many of 75 pictures need no decoding for one picture a second.
SKIPPED = {"h264": 25, "hevc": 25, "mpeg4": 30, "mpeg2": 30, "mjpeg": 70, "mjpeg avi": 70, "msmpeg4": 20, "vp9": 5}
VOP = b"\0\0\1\xb6"  #: what an MPEG-4 picture starts with
PLACEHOLDER = VOP + b"\x51\x20"  #: a picture that says: nothing is coded


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("coded")


def coded(folder: Path, name: str) -> Path:
    container, encoder, pixels, options = CODINGS[name]
    path = folder / name.replace(" ", "-")
    if not path.exists():
        try:
            av.Codec(encoder, "w")
        except av.codec.codec.UnknownCodecError:
            pytest.skip(f"this PyAV has no encoder {encoder}")
        b_frames = 0 if encoder in ("msmpeg4", "libvpx", "libvpx-vp9", "libsvtav1") else 2
        data = encode(container, codec=encoder, pixels=pixels, coding=options, b_frames=b_frames)
        path.write_bytes(packed(data) if name.endswith("packed") else data)
    return path


def packed(data: bytes) -> bytes:
    """An AVI as DivX wrote it: the first B-picture behind the one it leans on, a placeholder for the last."""
    written = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(written, "w", format="avi") as out:
        track = out.add_stream_from_template(source.streams.video[0])
        chunks: list[bytes] = []
        before = 0
        for packet in source.demux(video=0):
            picture = bytes(packet)
            kind = picture[picture.index(VOP) + len(VOP)] >> 6 if picture else 0  # 2: B; the last is empty
            if kind == 2 and before != 2:
                chunks[-1] += picture
            else:
                chunks += [PLACEHOLDER] * (kind != 2 and before == 2) + [picture] * bool(picture)
            before = kind
        for i, chunk in enumerate(chunks):
            packet = av.Packet(re.sub(rb"(?<=\x01\xb2)Lavc[\d.]+", b"DivX503b1393p", chunk))
            packet.stream, packet.time_base, packet.dts, packet.is_keyframe = track, Fraction(1, 25), i, not i % 25
            out.mux(packet)
    return written.getvalue()


def decoding_all(path: Path, budget: VideoBudget, monkeypatch: pytest.MonkeyPatch) -> SampledClip:
    def refuse(*_: object) -> None:
        raise OddError("told so")

    with monkeypatch.context() as patched:
        patched.setattr(shared.video, "shown_alone", refuse)
        return sample(path, budget)


@pytest.mark.parametrize("name", CODINGS)
def test_the_same_frames_as_from_all_packets(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = coded(folder, name)
    for budget in BUDGETS:
        some, all_ = sample(path, budget), decoding_all(path, budget, monkeypatch)
        assert np.array_equal(some.frames, all_.frames)
        assert some[1:] == all_[1:]


@pytest.mark.parametrize("name", CODINGS)
def test_every_codec_shows_the_right_picture(folder: Path, name: str) -> None:
    clip = sample(coded(folder, name), BUDGETS[2])
    expected = [int(instant * 25) for instant in sample_times(clip.seconds, BUDGETS[2])]
    slack = 1 if CODINGS[name][0] in ("avi", "mpeg") or name == "mpeg2" else 0  # coarse, or absent, display times
    assert np.abs(np.array([number_of(frame) for frame in clip.frames]) - expected).max() <= slack


@pytest.mark.parametrize(
    ("codec", "spare"),
    [
        ("mpeg4", VOP + b"\x80\0"),
        ("mpeg2video", b"\0\0\1\0\0\x18"),
        ("h264", b"\0\0\1\x01\0"),
    ],
)
def test_a_packet_of_countless_pictures_is_decoded_instead_of_looked_through(codec: str, spare: bytes) -> None:
    nature = nature_of(codec, None)
    assert nature(spare, False) == nature(spare * 600, False) == (True, False)
    assert nature(spare * 100_000, False) == (False, False)
    assert nature(spare[:-1], False) == (False, False), "cut off"


def test_of_an_avi_with_packed_pictures_each_is_taken_by_itself(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = coded(folder, "mpeg4 avi packed")
    assert sum(not packet.coded for packet in timeline_of(path).packets) > 10
    decoded: list[int] = []
    decode = VideoStream.decode
    with caplog.at_level("DEBUG", logger="shared.video"), monkeypatch.context() as patched:
        patched.setattr(
            shared.pictures, "_decode", lambda clip, stream, packet: decoded.append(1) or decode(stream, packet)
        )
        sample(path, VideoBudget(fps=1))
    assert "decoding all of it" not in caplog.text
    assert len(decoded) < 45, "of 75 pictures 48 are B-pictures"


@pytest.mark.parametrize("name", SKIPPED)
def test_little_is_decoded_for_few_pictures(folder: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    path = coded(folder, name)
    timeline = timeline_of(path)
    stamps = sorted(packet.pts for packet in timeline.packets)
    marks = needed(timeline.packets, stamps[12::25])
    assert len(marks) - sum(marks) >= SKIPPED[name]
    with caplog.at_level("DEBUG", logger="shared.video"):
        sample(path, VideoBudget(fps=1))
    assert "decoding all of it" not in caplog.text


def timeline_of(path: Path) -> Timeline:
    with opened(path, MediaLimits(), 1) as clip, clip.stream() as (container, stream):
        return read_timeline(clip, container, stream)


def test_bytes_that_lie_about_references_change_no_verdict(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures that others lean on are marked as if none did: then something is missing, and all is decoded."""
    path = tmp_path / "clip"
    data = bytearray(coded(folder, "h264").read_bytes())
    with av.open(str(coded(folder, "h264"))) as clip:
        packets = [packet for packet in clip.demux(video=0) if packet.size]
        leaned_on = [packet for packet in packets if bytes(packet)[4] & 31 == 1 and bytes(packet)[4] >> 5]
    for packet in leaned_on[::3]:
        assert packet.pos is not None
        data[packet.pos + 4] &= 0b10011111
    path.write_bytes(bytes(data))
    for budget in BUDGETS:
        with pytest.raises(MediaError) as some:
            sample(path, budget)
        with pytest.raises(MediaError) as whole:
            decoding_all(path, budget, monkeypatch)
        assert str(some.value) == str(whole.value)


groups = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 3)), min_size=1, max_size=8)


@given(groups, st.data())
def test_what_a_wanted_picture_leans_on_is_never_skipped(shape: list[tuple[int, int]], data: st.DataObject) -> None:
    """Streams in which every picture leans on the reference before it, and a B-picture on the one after too."""
    packets, leans = stream_of(shape)
    wanted = data.draw(st.sets(st.sampled_from(range(len(packets)))))
    marks = needed(packets, {packets[i].pts for i in wanted})
    due = set(wanted)
    for i in sorted(due, reverse=True):
        todo = [i]
        while todo:
            for leaned in leans[todo.pop()]:
                assert marks[leaned], f"{leaned} of {packets} is skipped, and {i} leans on it"
                todo.append(leaned)
    assert all(marks[i] for i in wanted)


def stream_of(shape: list[tuple[int, int]]) -> tuple[list[Packet], list[list[int]]]:
    """Groups of `anchors` references, each after the first of all followed by `between` spare pictures shown before it.

    So the spare ones after a key frame lean back across it, and it is closed for the others.
    """
    packets: list[Packet] = []
    leans: list[list[int]] = []
    before: int | None = None
    clock = 0
    for anchors, between in shape:
        for number in range(anchors):
            count = between if before is not None else 0
            key, here = number == 0, len(packets)
            packets.append(Packet(clock + count, key, True, False, key))
            leans.append([] if key or before is None else [before])
            for i in range(count):
                packets.append(Packet(clock + i, False, True, True, False))
                leans.append([here, before] if before is not None else [here])
            clock += count + 1
            before = here
    return packets, leans
