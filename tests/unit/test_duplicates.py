"""A copy of a clip is found however it was made anew; another scene is not."""

import itertools
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.sandbox import scene as scenes
from services.sandbox.render import render
from shared.duplicates import NEAR, distance, groups, pairs
from shared.fingerprint import LONGEST, MARK, WORDS, Fingerprint, hashes_of, text_of
from shared.formats.common import read_clip
from shared.schema import Clip
from tests.hostile.atoms import find, patch

Pictures = list[np.ndarray]
RECORDINGS = 4


@pytest.fixture(scope="module")
def drawn() -> list[Pictures]:
    """A scene of each of some recordings."""
    return [list(render(scenes.recording(5, "duplicates", i, 1)[0])) for i in range(1, RECORDINGS + 1)]


@pytest.fixture(scope="module")
def originals(drawn: list[Pictures], tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    folder = tmp_path_factory.mktemp("originals")
    return [written(pictures, folder / f"{i}.mp4") for i, pictures in enumerate(drawn)]


def written(
    pictures: Pictures, path: Path, *, crf: int = 23, scale: tuple[float, float] = (1, 1), codec: str = "libx264"
) -> Clip:
    """The pictures as a clip, imported."""
    height, width = pictures[0].shape[:2]
    with av.open(str(path), "w") as out:
        options = {"crf": str(crf)} if codec == "libx264" else {"b": "400k"}
        track = out.add_stream(codec, rate=Fraction(scenes.FPS), options=options)
        track.width, track.height = (int(side * by) // 2 * 2 for side, by in zip((width, height), scale, strict=True))
        track.pix_fmt = "yuv420p"
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            out.mux(track.encode(frame.reformat(track.width, track.height)))
        out.mux(track.encode(None))
    return read_clip(path, path.name)


copies = st.fixed_dictionaries(
    {
        "crf": st.integers(18, 36),
        "scale": st.tuples(st.floats(0.4, 1.3), st.floats(0.4, 1.3)),
        "codec": st.sampled_from(["libx264", "mpeg4"]),
        "from_start": st.integers(0, 10),
        "from_end": st.integers(0, 10),
        "gain": st.floats(0.8, 1.2),
        "lift": st.integers(-15, 25),
        "which": st.integers(0, RECORDINGS - 1),
    }
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(copies)
def test_a_copy_made_anew_is_found(
    drawn: list[Pictures], originals: list[Clip], tmp_path: Path, copy: dict[str, object]
) -> None:
    """Coded, scaled and brightened anew, with up to a second cut off at either end."""
    made = copied(drawn, tmp_path, **copy)
    which = copy["which"]
    assert isinstance(which, int)
    found = groups([*originals, made])
    assert found[made.digest] == found[originals[which].digest]
    assert len(set(found.values())) == RECORDINGS


def copied(
    drawn: list[Pictures],
    folder: Path,
    *,
    which: int,
    from_start: int,
    from_end: int,
    gain: float,
    lift: int,
    crf: int,
    scale: tuple[float, float],
    codec: str,
) -> Clip:
    kept = drawn[which][from_start : len(drawn[which]) - from_end]
    pictures = [np.clip(picture * gain + lift, 0, 255).astype(np.uint8) for picture in kept]
    return written(pictures, folder / "copy.mp4", crf=crf, scale=scale, codec=codec)


def test_a_copy_that_lies_on_its_side_is_found(drawn: list[Pictures], originals: list[Clip], tmp_path: Path) -> None:
    path = tmp_path / "lying.mp4"
    written([np.rot90(picture) for picture in drawn[0]], path)
    height = drawn[0][0].shape[0]
    turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, height << 16, 0, 1 << 30)
    data = path.read_bytes()
    path.write_bytes(patch(data, find(data, b"tkhd") + 48, turned))
    clip = read_clip(path, path.name)
    assert clip.rotation == 90
    assert groups([clip, *originals])[clip.digest] == groups([clip, *originals])[originals[0].digest]


def test_different_scenes_are_not_duplicates(originals: list[Clip]) -> None:
    assert set(groups(originals).values()) == {clip.digest for clip in originals}
    for a, b in itertools.combinations(originals, 2):
        assert distance(hashes_of(a.fingerprint), hashes_of(b.fingerprint)) > NEAR


def test_an_import_fingerprints_four_frames_a_second(originals: list[Clip]) -> None:
    for clip in originals:
        assert hashes_of(clip.fingerprint).shape == (-(-int(clip.seconds * 1000) // 250), WORDS)


# --- the search ------------------------------------------------------------------------------------


def clip(number: int, hashes: np.ndarray) -> Clip:
    return Clip(
        digest=f"{number:064x}",
        name=f"{number}.mp4",
        recording=str(number),
        size_bytes=1,
        seconds=len(hashes) / 4,
        fps=10,
        width=64,
        height=64,
        codec="h264",
        fingerprint=text_of(hashes) if len(hashes) else "",
    )


def flipped(hashes: np.ndarray, share: float, lot: np.random.Generator) -> np.ndarray:
    """With `share` of all bits another."""
    bits = lot.random((len(hashes), 64 * WORDS)) < share
    bits[:, 0] = False  # the first is none
    return hashes ^ np.packbits(bits, axis=1).view(">u8").astype(np.uint64)


def walk(frames: int, lot: np.random.Generator) -> np.ndarray:
    """A scene: one bit in fifty changes from frame to frame."""
    out = [flipped(np.zeros((1, WORDS), np.uint64), 0.5, lot)]
    for _ in range(frames - 1):
        out.append(flipped(out[-1], 0.02, lot))
    return np.concatenate(out)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.integers(16, 60), st.integers(0, 3), st.integers(0, 3), st.floats(0, 0.05))
def test_the_search_finds_what_comparing_all_finds(
    seed: int, frames: int, from_start: int, from_end: int, share: float
) -> None:
    """Of clips of two seconds and more, up to some thirteen bits of 255 apart; what is further apart may escape it."""
    lot = np.random.default_rng(seed)
    scenes_ = [walk(frames, lot) for _ in range(12)]
    made = [flipped(scene[from_start : frames - from_end], share, lot) for scene in scenes_[:6]]
    everything = [clip(i, hashes) for i, hashes in enumerate([*scenes_, *made])]
    near = {
        (a.digest, b.digest)
        for a, b in itertools.combinations(everything, 2)
        if distance(hashes_of(a.fingerprint), hashes_of(b.fingerprint)) <= NEAR
    }
    assert {(pair.first, pair.second) for pair in pairs(everything)} == near
    assert {(f"{i:064x}", f"{i + 12:064x}") for i in range(6)} <= near


def test_many_copies_are_one_group_and_a_shared_black_start_makes_none() -> None:
    lot = np.random.default_rng(0)
    scene = walk(40, lot)
    copies_ = [clip(i, flipped(scene, 0.02, lot)) for i in range(300)]
    black = np.zeros((6, WORDS), np.uint64)
    others = [clip(1000 + i, np.concatenate([black, walk(30, lot)])) for i in range(300)]
    found = groups([*copies_, *others])
    assert {found[one.digest] for one in copies_} == {copies_[0].digest}
    assert all(found[one.digest] == one.digest for one in others)


def test_groups_do_not_hang_on_the_order_of_clips() -> None:
    lot = np.random.default_rng(1)
    scenes_ = [walk(20, lot) for _ in range(5)]
    known = [clip(i, flipped(scenes_[i % 5], 0.03, lot)) for i in range(20)]
    assert groups(known) == groups(reversed(known)) == groups([*known, *known])


def test_a_clip_without_a_fingerprint_is_alone() -> None:
    old = [clip(i, np.empty((0, WORDS), np.uint64)) for i in range(3)]
    old.append(clip(3, walk(8, np.random.default_rng(0))).model_copy(update={"fingerprint": 8 * "0123456789abcdef"}))
    assert groups(old) == {one.digest: one.digest for one in old}
    assert groups([]) == {}


def test_a_clip_stored_before_there_were_fingerprints_is_still_read(originals: list[Clip]) -> None:
    new = ("rotation", "variable", "audio", "fingerprint")
    before = {name: value for name, value in originals[0].model_dump().items() if name not in new}
    read = Clip.model_validate(before)
    assert (read.rotation, read.variable, read.audio, read.fingerprint) == (None, None, None, "")
    assert read.digest == originals[0].digest


def test_a_long_clip_is_known_by_its_first_minutes() -> None:
    fingerprint = Fingerprint()
    picture = av.VideoFrame.from_ndarray(np.eye(64, dtype=np.uint8) * 200, format="gray")
    for _ in range(LONGEST + 5):
        fingerprint.add(picture)
    assert str(fingerprint).startswith(MARK)
    assert len(hashes_of(str(fingerprint))) == LONGEST


@pytest.mark.parametrize("lengths", [(1, 1), (1, 40), (40, 1), (3, 4)])
def test_distance_is_the_smallest_mean_over_overlaps(lengths: tuple[int, int]) -> None:
    lot = np.random.default_rng(2)
    first, second = (walk(size, lot) for size in lengths)
    assert distance(first, second) == pytest.approx(slow_distance(first, second))
    assert distance(first, second) == pytest.approx(distance(second, first))


def slow_distance(first: np.ndarray, second: np.ndarray) -> float:
    need = (min(len(first), len(second)) + 1) // 2
    means = []
    for offset in range(-len(first) + 1, len(second)):
        met = [(i, i + offset) for i in range(len(first)) if 0 <= i + offset < len(second)]
        if len(met) >= need:
            means.append(float(np.mean([sum(map(int.bit_count, (first[i] ^ second[j]).tolist())) for i, j in met])))
    return min(means)
