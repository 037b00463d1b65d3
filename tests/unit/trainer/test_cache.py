"""Decoded clips on disk: bounded, the least used gone first, whole whatever happens to their writers."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from shared.budget import VideoBudget
from shared.errors import MediaError
from shared.schema import Rows
from tests.unit.trainer.conftest import RECIPE
from workers.trainer import cache
from workers.trainer.cache import ClipCache, contract


@pytest.fixture(scope="module")
def clips(labelled: Path) -> dict[str, Path]:
    rows = Rows([labelled])
    return {digest: rows.clip_path(digest) for digest in list(rows.clips)[:4]}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    plain = cache.sample
    monkeypatch.setattr(cache, "sample", lambda path, budget: found.append(path.name) or plain(path, budget))
    return found


def _kept(root: Path) -> set[str]:
    return {path.stem for path in root.glob("*/*.npz")}


def test_what_was_used_longest_ago_makes_room(clips: dict[str, Path], tmp_path: Path, decoded: list[str]) -> None:
    first, second, third, _ = clips
    size = _size(clips, tmp_path)
    kept = ClipCache(tmp_path / "bounded", RECIPE.video, int(2.5 * size))
    for digest in (first, second):
        kept.get(digest, clips[digest])
    for age, digest in enumerate((first, second)):
        os.utime(tmp_path / "bounded" / contract(RECIPE.video) / f"{digest}.npz", (age, age))
    decoded.clear()
    kept.get(first, clips[first])  # is used now
    kept.get(third, clips[third])
    assert decoded == [third]
    assert _kept(tmp_path / "bounded") == {first, third}


def _size(clips: dict[str, Path], tmp_path: Path) -> int:
    digest = next(iter(clips))
    ClipCache(tmp_path / "one", RECIPE.video, 10**9).get(digest, clips[digest])
    return next((tmp_path / "one").glob("*/*.npz")).stat().st_size


def test_another_process_and_the_next_attempt_decode_nothing(
    clips: dict[str, Path], tmp_path: Path, decoded: list[str]
) -> None:
    frames = [ClipCache(tmp_path, RECIPE.video, 10**9).get(*clip) for clip in clips.items()]
    again = [ClipCache(tmp_path, RECIPE.video, 10**9).get(*clip) for clip in clips.items()]
    assert len(decoded) == 4
    assert all(np.array_equal(a.frames, b.frames) and a[1:] == b[1:] for a, b in zip(frames, again, strict=True))


def test_another_contract_is_another_folder_within_the_same_bound(clips: dict[str, Path], tmp_path: Path) -> None:
    digest, path = next(iter(clips.items()))
    size = _size(clips, tmp_path)
    coarse = VideoBudget(tokens_per_patch=2, max_frames=2)
    assert ClipCache(tmp_path / "two", RECIPE.video, size + 100).get(digest, path).frames.shape == (4, 64, 96, 3)
    assert ClipCache(tmp_path / "two", coarse, size + 100).get(digest, path).frames.shape == (2, 32, 64, 3)
    assert [path.parent.name for path in (tmp_path / "two").glob("*/*.npz")] == [contract(coarse)]


def test_what_is_larger_than_the_bound_is_not_kept(clips: dict[str, Path], tmp_path: Path) -> None:
    digest, path = next(iter(clips.items()))
    assert ClipCache(tmp_path, RECIPE.video, limit_bytes=10).get(digest, path).frames.shape == (4, 64, 96, 3)
    assert not _kept(tmp_path)


def test_a_file_cut_short_is_decoded_again(clips: dict[str, Path], tmp_path: Path, decoded: list[str]) -> None:
    digest, path = next(iter(clips.items()))
    kept = ClipCache(tmp_path, RECIPE.video, 10**9)
    frames = kept.get(digest, path).frames
    file = next(tmp_path.glob("*/*.npz"))
    for size in (0, 100, file.stat().st_size - 100):
        os.truncate(file, size)
        assert np.array_equal(kept.get(digest, path).frames, frames)
    assert len(decoded) == 4


def test_a_full_disk_costs_speed_only(clips: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.np, "savez", full)
    digest, path = next(iter(clips.items()))
    assert ClipCache(tmp_path, RECIPE.video, 10**9).get(digest, path).frames.shape == (4, 64, 96, 3)
    assert not list(tmp_path.glob("*/*"))


def test_a_damaged_clip_is_named(tmp_path: Path) -> None:
    clip = tmp_path / "broken"
    clip.write_bytes(b"no video")
    with pytest.raises(MediaError, match="broken"):
        ClipCache(tmp_path / "cache", RECIPE.video, 10**9).get("0" * 64, clip)


def test_two_threads_of_a_process_may_keep_the_same_clip_at_once(
    clips: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that works ahead, and the one it works for."""
    digest, path = next(iter(clips.items()))
    kept, plain, together = ClipCache(tmp_path, RECIPE.video, 10**9), np.savez, threading.Barrier(2)

    def savez(out: BinaryIO, **arrays: Any) -> None:
        plain(out, **arrays)
        together.wait(30)  # both have written, neither has put its file in place

    monkeypatch.setattr(np, "savez", savez)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: kept.get(digest, path).indices, range(2)))
    assert found[0] == found[1] == kept.get(digest, path).indices
    assert _kept(tmp_path) == {digest}
