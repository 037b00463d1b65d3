"""Clips in processes of their own: the same frames, and what a clip does to its process stays there."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

import shared.decoders
from shared.budget import VideoBudget
from shared.container import MediaLimits
from shared.decoders import Decoders
from shared.errors import MediaError, RoadQAError
from shared.video import sample
from tests.hostile.generate import encode

BUDGET = VideoBudget(fps=4, tokens_per_patch=6, max_frames=16)
ALL = VideoBudget(fps=25, tokens_per_patch=6, max_frames=2000)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "sound.mp4"
    path.write_bytes(encode())
    return path


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that takes a second or more: of noise, and each picture is wanted."""
    path = tmp_path_factory.mktemp("long") / "long.mov"
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    with av.open(str(path), "w") as out:
        track = out.add_stream("mjpeg", rate=25, width=640, height=480, pix_fmt="yuvj420p")
        for _ in range(400):
            out.mux(track.encode(av.VideoFrame.from_ndarray(noise)))
        out.mux(track.encode(None))
    return path


@pytest.fixture
def one() -> Iterator[Decoders]:
    """A process that waits for a clip."""
    with Decoders(1) as decoders:
        decoders.start()
        yield decoders


def processes(of: int | None = None) -> list[psutil.Process]:
    return [each for each in psutil.Process(of).children() if "shared.decoders" in each.cmdline()]


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def at_work(process: psutil.Process) -> None:
    """Wait until it decodes."""
    before = process.cpu_times().user
    wait_for(lambda: process.cpu_times().user > before + 0.05)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(("container", "codec"), [("mp4", "libx264"), ("avi", "mpeg4"), ("mpegts", "mpeg2video")])
def test_the_frames_are_those_of_sample(tmp_path: Path, one: Decoders, container: str, codec: str) -> None:
    path = tmp_path / "clip"
    path.write_bytes(encode(container, codec=codec))
    expected = sample(path, BUDGET)
    found = one.submit(path, BUDGET).result()
    assert np.array_equal(found.frames, expected.frames)
    assert found[1:] == expected[1:]
    assert found.frames.flags.writeable, "torch takes no other"


def test_frames_outlive_their_decoders(clip: Path) -> None:
    with Decoders(2) as decoders:
        found = [decoders.submit(clip, BUDGET) for _ in range(5)]
    expected = sample(clip, BUDGET)
    assert all(np.array_equal(each.result().frames, expected.frames) for each in found)
    assert not processes()


def test_processes_start_with_the_first_clips(clip: Path) -> None:
    with Decoders(3) as decoders:
        assert not processes()
        decoders.submit(clip, BUDGET).result()
        assert len(processes()) == 1
        decoders.start()
        assert len(processes()) == 3


def test_what_is_refused_is_refused_in_the_same_words(tmp_path: Path, one: Decoders, clip: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(encode()[:3000])
    with pytest.raises(MediaError) as expected:
        sample(path, BUDGET)
    (before,) = processes()
    with pytest.raises(MediaError) as found:
        one.submit(path, BUDGET).result()
    assert str(found.value) == str(expected.value)
    one.submit(clip, BUDGET).result()
    assert processes() == [before], "a refusal costs no process"


def test_a_clip_that_crashes_its_decoder_is_refused_and_the_others_go_on(
    one: Decoders, clip: Path, long_clip: Path
) -> None:
    (first,) = processes()
    crashing, following = one.submit(long_clip, ALL), one.submit(clip, BUDGET)
    at_work(first)
    first.send_signal(signal.SIGSEGV)
    with pytest.raises(MediaError, match=r"long\.mov: takes its decoder down \(SIGSEGV\)"):
        crashing.result()
    assert len(following.result().frames) == len(sample(clip, BUDGET).frames)
    assert first not in processes()


def test_a_clip_that_hangs_its_decoder_is_refused_and_the_others_go_on(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.decoders, "GRACE_SECONDS", 0.5)
    with Decoders(1, limits=MediaLimits(wall_seconds=0.5)) as decoders:
        decoders.start()
        (first,) = processes()
        first.suspend()
        began = time.monotonic()
        hanging, following = decoders.submit(clip, BUDGET), decoders.submit(clip, BUDGET)
        with pytest.raises(MediaError, match=r"sound\.mp4: takes its decoder down \(no answer in 1 s\)"):
            hanging.result()
        assert time.monotonic() - began >= 1
        assert len(following.result().frames) > 0


def test_a_clip_that_takes_too_much_memory_is_refused(tmp_path: Path, clip: Path) -> None:
    path = tmp_path / "large.mov"
    path.write_bytes(encode("mov", codec="mjpeg", pixels="yuvj420p", frames=2, size=(8000, 4000)))
    assert len(sample(path, BUDGET).frames) == 2, "it is within the other limits"
    with Decoders(1, limits=MediaLimits(max_memory=150_000_000)) as decoders:
        with pytest.raises(MediaError, match=r"large\.mov: "):
            decoders.submit(path, BUDGET).result()
        decoders.submit(clip, BUDGET).result()


def test_a_process_that_was_killed_is_no_clips_fault(one: Decoders, clip: Path, long_clip: Path) -> None:
    (first,) = processes()
    running = one.submit(long_clip, ALL)
    at_work(first)
    first.kill()
    with pytest.raises(RoadQAError, match="SIGKILL") as found:
        running.result()
    assert not found.value.permanent, "another attempt may help"
    one.submit(clip, BUDGET).result()
    (second,) = processes()
    second.kill()
    wait_for(lambda: gone(second.pid))
    assert one.submit(clip, BUDGET).result(), "one that died between two clips is replaced"


def test_what_is_under_way_is_dropped_when_asked(one: Decoders, long_clip: Path) -> None:
    (process,) = processes()
    running, waiting = one.submit(long_clip, ALL), one.submit(long_clip, ALL)
    at_work(process)
    one.shutdown(cancel_futures=True)
    assert waiting.cancelled()
    assert isinstance(running.exception(), RoadQAError)
    assert gone(process.pid)


def test_a_process_that_does_not_start_says_so(monkeypatch: pytest.MonkeyPatch, clip: Path) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Decoders(2) as decoders:
        with pytest.raises(RoadQAError, match=r"does not start \(exit code 1\)"):
            decoders.start()
        with pytest.raises(RoadQAError, match="does not start") as found:
            decoders.submit(clip, BUDGET).result()
        assert not isinstance(found.value, MediaError), "the clip is not to blame"


def test_a_start_that_fails_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch, clip: Path) -> None:
    def open_now() -> int:
        return len(os.listdir("/proc/self/fd"))

    with Decoders(1) as decoders:
        before = open_now()
        for executable in ("/bin/false", "/nowhere", str(killed(clip.parent))):
            monkeypatch.setattr(sys, "executable", executable)
            with pytest.raises((RoadQAError, OSError)):
                decoders.submit(clip, BUDGET).result()
        assert open_now() == before


def killed(folder: Path) -> Path:
    """A program that is killed before it can do anything."""
    path = folder / "killed.sh"
    path.write_text("#!/bin/sh\nkill -KILL $$\n")
    path.chmod(0o755)
    return path


def test_an_error_of_the_reader_is_not_laid_on_the_clip(clip: Path) -> None:
    room = shared.decoders._Memory(os.memfd_create("frames"))
    broken = {"path": str(clip), "budget": BUDGET.model_dump() | {"fps": 2, "unknown": 1}}
    answer = shared.decoders._answer(broken, MediaLimits(), room)
    assert list(answer) == ["failed"]
    assert str(clip) in answer["failed"]
    assert "unknown" in answer["failed"]
    os.close(room.descriptor)


@pytest.mark.parametrize("amid_a_clip", [False, True])
def test_no_process_outlives_a_killed_parent(long_clip: Path, amid_a_clip: bool) -> None:
    lines = [
        "import sys, time; from pathlib import Path",
        "from shared.budget import VideoBudget; from shared.decoders import Decoders",
        "decoders = Decoders(2); decoders.start()",
        f"amid = {amid_a_clip} and decoders.submit(Path({str(long_clip)!r}), VideoBudget(fps=25, max_frames=2000))",
        "print('ready', flush=True); time.sleep(600)",
    ]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen([sys.executable, "-c", "\n".join(lines)], stdout=subprocess.PIPE, cwd=root) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        left = processes(parent.pid)
        assert len(left) == 2
        if amid_a_clip:
            os.kill(left[0].pid, signal.SIGSTOP)  # as one that hangs where it reads no message
        parent.kill()
    for each in left:
        wait_for(lambda each=each: gone(each.pid), 10)  # type: ignore[misc]
