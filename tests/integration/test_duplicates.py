"""`roadqa datasets duplicates`: what shows the same thing, within a dataset and across two."""

import json
import shutil
from fractions import Fraction
from pathlib import Path

import av

from services.sandbox import clips
from tests.integration.commands import Roadqa


def coded_anew(source: Path, path: Path) -> None:
    """The clip without its first half second, at half its size."""
    with av.open(str(source)) as clip, av.open(str(path), "w") as out:
        (track,) = clip.streams.video
        copy = out.add_stream("libx264", rate=Fraction(track.average_rate or 10), options={"crf": "30"})
        copy.width, copy.height, copy.pix_fmt = track.width // 2, track.height // 2, "yuv420p"
        for number, frame in enumerate(clip.decode(track)):
            if number >= 5:
                picture = av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"), format="rgb24")
                out.mux(copy.encode(picture.reformat(copy.width, copy.height)))
        out.mux(copy.encode(None))


def test_a_copy_in_another_dataset_is_named_and_other_scenes_are_not(roadqa: Roadqa, tmp_path: Path) -> None:
    train = clips.draw(
        tmp_path / "train", seed=3, recordings=3, clips_per_recording=1, questions_per_clip=1, split="train", workers=1
    )
    rows = json.loads(train.read_text())["data"][:2]
    test = tmp_path / "test"
    test.mkdir()
    coded_anew(train.parent / rows[0]["video_path"], test / "copy.mp4")
    shutil.copy(train.parent / rows[1]["video_path"], test / "same.mp4")
    listed = [{**row, "video_path": name} for row, name in zip(rows, ("copy.mp4", "same.mp4"), strict=True)]
    (test / "test.json").write_text(json.dumps({"data": listed}))
    assert roadqa("import", "roadbuddy", train, "--videos", train.parent, "--name", "train").returncode == 0
    assert roadqa("import", "roadbuddy", test / "test.json", "--videos", test, "--name", "test").returncode == 0

    alone = json.loads(roadqa("datasets", "duplicates", "train", "--json").stdout)
    assert (alone["clips"], alone["groups"], alone["across"], alone["unknown"]) == (3, [], 0, 0)

    both = json.loads(roadqa("datasets", "duplicates", "train", "test", "--json").stdout)
    found = {frozenset((member["dataset"], member["name"]) for member in group) for group in both["groups"]}
    assert found == {
        frozenset({("train", rows[0]["video_path"]), ("test", "copy.mp4")}),
        frozenset({("train", rows[1]["video_path"]), ("test", "same.mp4")}),
    }
    assert (both["clips"], both["across"]) == (4, 2)

    told = roadqa("datasets", "duplicates", "train", "test")
    assert told.returncode == 0, told.stderr
    assert "2 groups of near-duplicates among 4 clips, 2 of them across datasets" in told.stdout
    assert "copy.mp4" in told.stdout

    missing = roadqa("datasets", "duplicates", "train", "gone")
    assert missing.returncode == 2
    assert "'gone'" in missing.stderr
