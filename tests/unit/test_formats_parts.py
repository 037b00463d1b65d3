"""A dataset is cut by clip, whole, and grows without disturbing most of its parts."""

import hashlib
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from shared.formats.common import Imported
from shared.formats.parts import CLIPS_PER_PART, bucket, bucket_bits, cut_parts
from shared.schema import Choice, Clip, Origin, Question, Rows


def dataset(folder: Path, clips: int) -> Imported:
    """`clips` clips with two questions each; the files hold only their number."""
    imported = Imported()
    folder.mkdir(exist_ok=True)
    for i in range(clips):
        digest = hashlib.sha256(str(i).encode()).hexdigest()
        (folder / str(i)).write_text(str(i))
        imported.clips[digest] = Clip(
            digest=digest, name=f"{i}.mp4", recording="r", size_bytes=1, seconds=1, fps=1, width=1, height=1, codec="c"
        )
        imported.paths[digest] = folder / str(i)
        choices = (Choice(label="A", text="yes"), Choice(label="B", text="no"))
        origin = Origin(answer="none")
        imported.questions += [
            Question(id=f"{i}-{k}", clip=digest, text="?", choices=choices, origin=origin) for k in range(2)
        ]
    return imported


@given(st.binary(min_size=32, max_size=32), st.integers(0, 16))
def test_a_bucket_is_the_leading_bits(data: bytes, bits: int) -> None:
    assert f"{bucket(data.hex(), bits):0{bits}b}"[-bits or None :] == (f"{int(data.hex(), 16):0256b}"[:bits] or "0")
    assert bucket(data.hex(), bits + 1) >> 1 == bucket(data.hex(), bits)  # a finer cut keeps within the coarse one


@given(st.integers(1, 100_000))
def test_the_fewest_buckets_that_are_small_enough(clips: int) -> None:
    bits = bucket_bits(clips)
    assert clips <= CLIPS_PER_PART << bits
    assert bits == 0 or clips > CLIPS_PER_PART << (bits - 1)


def test_parts_hold_every_question_and_clip_once(tmp_path: Path) -> None:
    imported = dataset(tmp_path / "files", 100)
    parts = cut_parts(imported, tmp_path / "parts")
    assert len(parts) == 4
    rows = Rows(parts)
    assert sorted(q.id for q in rows.questions) == sorted(q.id for q in imported.questions)
    assert rows.clips == imported.clips
    for digest, clip in rows.clips.items():
        assert rows.clip_path(digest).read_text() + ".mp4" == clip.name


def test_a_new_clip_disturbs_one_part(tmp_path: Path) -> None:
    before = cut_parts(dataset(tmp_path / "files", 100), tmp_path / "before")
    after = cut_parts(dataset(tmp_path / "files", 101), tmp_path / "after")
    same = [
        (a / "questions.jsonl").read_bytes() == (b / "questions.jsonl").read_bytes()
        for a, b in zip(before, after, strict=True)
    ]
    assert same.count(False) == 1
