"""Sandbox clips: small, reproducible to the byte, and carrying the scene they show."""

import csv
import json
from pathlib import Path

import av
import numpy as np
import pytest

from services.sandbox.clips import draw, scene_of, write_clip
from services.sandbox.draw import LIGHT_RGB
from services.sandbox.questions import truth
from services.sandbox.render import lamp_centre
from services.sandbox.scene import FPS, Scene, recording
from shared.budget import VideoBudget
from shared.errors import InputError
from shared.formats import roadbuddy
from shared.video import sample


@pytest.fixture(scope="module")
def lit() -> Scene:
    scenes = (scene for index in range(20) for scene in recording(2, "train", index, 1))
    return next(scene for scene in scenes if scene.light is not None and scene.light.change is not None)


@pytest.fixture(scope="module")
def clip(lit: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip(lit, path)
    return path


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_clip_gives_its_scene_back(lit: Scene, clip: Path) -> None:
    assert scene_of(clip) == lit
    assert scene_of(clip.read_bytes()) == lit


def test_a_clip_is_small_h264_of_the_promised_length(lit: Scene, clip: Path) -> None:
    assert clip.stat().st_size < 100_000
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 384, 256)
        assert (stream.average_rate, stream.frames) == (FPS, lit.frames)


def test_the_light_survives_the_codec(lit: Scene, clip: Path) -> None:
    assert lit.light is not None
    with av.open(str(clip)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            state = lit.light.at(index / FPS)
            pixel = frame.to_ndarray(format="rgb24")[lamp_centre(lit, state)[::-1]].astype(int)
            nearest = min(LIGHT_RGB, key=lambda name: float(np.abs(pixel - LIGHT_RGB[name]).sum()))
            assert nearest == state


def test_other_videos_and_other_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plain.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width = stream.height = 64
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    with pytest.raises(InputError, match=r"plain\.mp4"):
        scene_of(path)
    with pytest.raises(InputError):
        scene_of(b"no video at all")


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_workers(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    for name, workers in (("one", 1), ("two", 2)):
        draw(
            tmp_path / name,
            seed=5,
            recordings=2,
            clips_per_recording=2,
            questions_per_clip=2,
            split="train",
            workers=workers,
            progress=lambda done, total: told.append((done, total)),
        )
    assert _files(tmp_path / "one") == _files(tmp_path / "two")
    assert told == [(done, 4) for done in (1, 2, 3, 4)] * 2


def test_a_data_set_has_the_roadbuddy_layout(tmp_path: Path) -> None:
    path = draw(tmp_path, seed=1, recordings=2, clips_per_recording=2, questions_per_clip=3, split="train", workers=1)
    table = json.loads(path.read_text(encoding="utf-8"))
    assert table["__count__"] == len(table["data"]) == 12
    for row in table["data"]:
        assert row["answer"] in row["choices"]
        assert [choice[:3] for choice in row["choices"]] == [f"{letter}. " for letter in "ABCD"[: len(row["choices"])]]
        scene = scene_of(tmp_path / row["video_path"])
        assert row["video_path"] == f"videos/{scene.recording}_{scene.number:02d}.mp4"
    assert len({row["id"] for row in table["data"]}) == 12


def test_the_roadbuddy_importer_takes_every_row_and_finds_the_recordings(tmp_path: Path) -> None:
    path = draw(tmp_path, seed=2, recordings=2, clips_per_recording=3, questions_per_clip=2, split="train", workers=1)
    imported = roadbuddy.read(path, tmp_path)
    assert imported.problems == []
    assert sorted(clip.recording for clip in imported.clips.values()) == ["train-rec001"] * 3 + ["train-rec002"] * 3
    for question in imported.questions:
        scene = scene_of(imported.paths[question.clip])
        assert truth(scene, question.text, [choice.text for choice in question.choices]) == question.answer


def test_the_tiny_models_budget_takes_eight_frames(clip: Path) -> None:
    sampled = sample(clip, VideoBudget(fps=2, tokens_per_patch=6, max_frames=8))
    assert sampled.frames.shape == (8, 64, 96, 3)


def test_a_test_split_hides_its_answers(tmp_path: Path) -> None:
    path = draw(
        tmp_path, seed=1, recordings=1, clips_per_recording=1, questions_per_clip=2, split="public_test", workers=1
    )
    rows = json.loads(path.read_text(encoding="utf-8"))["data"]
    assert all("answer" not in row for row in rows)
    with (tmp_path / "answers.csv").open(encoding="utf-8", newline="") as lines:
        assert [row["id"] for row in csv.DictReader(lines)] == [row["id"] for row in rows]
