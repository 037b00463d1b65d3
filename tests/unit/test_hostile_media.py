"""No clip opens another file or a connection, or takes the reader down; each is refused in one line."""

import ctypes
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import av
import pytest

from shared.budget import VideoBudget
from shared.errors import MediaError
from shared.video import probe, sample
from tests.hostile.generate import SIBLING, SOUND, encode, generate

GIVEN = Path(__file__).resolve().parents[3] / "shared" / "data" / "hostile"
GIVEN_SOUND = {"faststart_sibling.mp4", "declared_65535x65535_avc1.mp4"}
SECONDS = 20  #: the longest any clip may take; most take milliseconds
BUDGET = VideoBudget(fps=2, tokens_per_patch=6, max_frames=8)


class Listener:
    """A loopback port that counts who knocks."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.connections = 0
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, listener: Listener) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    generate(folder, listener.port)
    return folder


class Opened:
    """Names of the files that are opened in a folder, by anyone: inotify sees what Python's hooks do not."""

    IN_OPEN, IN_ISDIR = 0x20, 0x40000000

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor: int = libc.inotify_init1(os.O_NONBLOCK)
        if libc.inotify_add_watch(self._descriptor, os.fsencode(folder), self.IN_OPEN) < 0:
            pytest.skip("this machine has no inotify")

    def names(self) -> set[str]:
        """What was opened since the last call."""
        names = set()
        try:
            events = os.read(self._descriptor, 1 << 20)
        except BlockingIOError:
            return names
        while events:
            _, mask, _, size = struct.unpack_from("iIII", events)
            if not mask & self.IN_ISDIR:
                names.add(events[16 : 16 + size].rstrip(b"\0").decode())
            events = events[16 + size :]
        return names


@contextmanager
def watching(folder: Path) -> Iterator[Opened]:
    opened = Opened(folder)
    yield opened
    os.close(opened._descriptor)


def read(path: Path) -> str | None:
    """Why the clip is refused; None where it is read."""
    reasons = []
    for reader in (lambda: probe(path, thorough=True), lambda: sample(path, BUDGET)):
        started = time.monotonic()
        try:
            reader()
        except MediaError as error:
            reasons.append(str(error))
        assert time.monotonic() - started < SECONDS
    assert len(reasons) in (0, 2), f"one reader refuses, the other does not: {reasons}"
    return reasons[0] if reasons else None


def check_folder(folder: Path, sound: set[str]) -> None:
    """Every clip of `folder`: only the sound ones are read, each refusal is one line that names the file."""
    with watching(folder) as opened:
        for path in sorted(folder.glob("*.mp4")):
            reason = read(path)
            assert opened.names() == {path.name}, "another file was opened"
            if path.name in sound:
                assert reason is None, reason
            else:
                assert reason is not None, f"{path.name} was read"
                assert path.name in reason
                assert "\n" not in reason


def test_hostile_clips_are_refused_and_open_nothing_else(folder: Path, listener: Listener) -> None:
    check_folder(folder, SOUND)
    assert listener.connections == 0


@pytest.mark.parametrize(
    ("container", "codec"),
    [("mp4", "libx264"), ("avi", "mpeg4"), ("matroska", "libx264"), ("mpegts", "libx264"), ("mpeg", "mpeg2video")],
)
def test_flipped_bytes_end_in_frames_or_in_a_refusal(tmp_path: Path, container: str, codec: str) -> None:
    chance = random.Random(container)
    sound = encode(container, codec=codec, frames=30, gop=10)
    path = tmp_path / "clip"
    for _ in range(60):
        data = bytearray(sound)
        for _ in range(chance.choice((1, 5, 50))):
            data[chance.randrange(chance.choice((len(data), 800)))] = chance.randrange(256)
        path.write_bytes(data)
        for reader in (lambda: probe(path, thorough=True), lambda: sample(path, BUDGET)):
            with suppress(MediaError):  # any other error fails the test
                reader()


def test_the_given_hostile_clips_too() -> None:
    if not GIVEN.is_dir():
        pytest.skip(f"{GIVEN} is not here")
    check_folder(GIVEN, GIVEN_SOUND)


def test_the_watch_would_see_a_sibling_opened(folder: Path) -> None:
    """What an unguarded reader does with the same files: without this the tests above would prove little."""
    with watching(folder) as opened:
        av.open(str(folder / "ffconcat_relative.mp4")).close()
        assert SIBLING in opened.names()
        with av.open(str(folder / "external_reference.mp4"), options={"enable_drefs": "1"}) as clip:
            list(clip.demux(video=0))
        assert SIBLING in opened.names()


def test_the_listener_would_see_a_connection(folder: Path) -> None:
    listener = Listener()
    lured = folder / "lured"
    generate(lured, listener.port)
    with pytest.raises((av.FFmpegError, OSError)):
        av.open(
            str(lured / "hls_http.mp4"),
            format="hls",
            options={"protocol_whitelist": "file,http,tcp", "allowed_extensions": "ALL", "extension_picky": "0"},
        )
    assert listener.connections > 0
    listener.close()
