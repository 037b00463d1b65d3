"""Datasets out of the store and back on a real S3 server, uploads that go on where they broke, and what is shown."""

import json
import shutil
from itertools import count
from pathlib import Path

import pytest

from services.cli import data, detail, insight
from services.cli.collect import read_rows
from services.sandbox import clips
from shared.errors import StoreError
from shared.formats import registry, roadbuddy
from shared.settings import Settings
from shared.store import Store
from tests.integration.commands import Roadqa, one_line
from tests.unit.formats import WRITERS, Case, write


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """A sandbox question file, its clips beside it: 6 clips of 3 recordings, 18 questions."""
    return clips.draw(tmp_path / "drawn", seed=3, recordings=3, clips_per_recording=2, questions_per_clip=3,
                      split="train", workers=2)  # fmt: skip


def quiet(*_: object) -> None:
    """Progress that nobody looks at."""


def test_what_is_exported_and_imported_again_is_the_same_dataset(roadqa: Roadqa, store: Store, drawn: Path) -> None:
    done = roadqa("import", "roadbuddy", drawn, "--videos", drawn.parent, "--name", "first", "--json")
    artifact = json.loads(done.stdout)["artifact"]
    for format_ in registry.EXPORTS:
        out = drawn.parent.parent / format_
        exported = roadqa("datasets", "export", "first", "--to", format_, "-o", out)
        assert exported.returncode == 0, exported.stderr
        assert "18 questions on 6 clips" in exported.stdout
        file = out / registry.FORMATS[format_].writes
        again = roadqa("import", format_, file, "--videos", out, "--name", f"from-{format_}", "--json")
        assert again.returncode == 0, again.stderr
        assert json.loads(again.stdout) == json.loads(done.stdout) | {"dataset": f"from-{format_}"}
        assert store.named("datasets", f"from-{format_}") == artifact, "not a byte differs"


def test_an_export_without_clips_writes_none_and_never_over_another_file(roadqa: Roadqa, drawn: Path) -> None:
    assert roadqa("import", "roadbuddy", drawn, "--videos", drawn.parent, "--name", "train").returncode == 0
    out = drawn.parent.parent / "out"
    assert roadqa("datasets", "export", "train", "--to", "roadbuddy", "-o", out, "--clips", "none").returncode == 0
    assert [path.name for path in out.rglob("*") if path.is_file()] == ["roadbuddy.json"]
    name = json.loads((out / "roadbuddy.json").read_text())["data"][0]["video_path"]
    assert roadqa("datasets", "export", "train", "--to", "roadbuddy", "-o", out).returncode == 0
    assert roadqa("datasets", "export", "train", "--to", "roadbuddy", "-o", out).returncode == 0, "what is there stays"
    (out / name).write_bytes(b"mine")
    refused = roadqa("datasets", "export", "train", "--to", "roadbuddy", "-o", out)
    assert refused.returncode == 1
    assert f"{name}: is another file" in refused.stderr.splitlines()[-1]
    assert (out / name).read_bytes() == b"mine"
    assert "no dataset is called 'gone'" in one_line(
        roadqa("datasets", "export", "gone", "--to", "roadbuddy", "-o", out), 2
    )


class Breaking(Store):
    """A store whose connection breaks after some uploads, and that counts them."""

    def __init__(self, config: Settings, good: int) -> None:
        super().__init__(config)
        self.good, self.sent, self._asked = good, list[str](), count()

    def write_file(self, key: str, path: Path) -> None:
        if next(self._asked) >= self.good:  # many threads ask
            raise StoreError(f"the connection broke at {key}")
        super().write_file(key, path)
        self.sent.append(key)


def test_an_upload_that_broke_goes_on_where_it_was(config: Settings, store: Store, drawn: Path) -> None:
    imported = roadbuddy.read(drawn, drawn.parent)
    blobs = len(imported.clips) + 2  # the clips, questions.jsonl, clips.jsonl
    broken = Breaking(config, 4)
    with pytest.raises(StoreError, match="the connection broke"):
        data.store_dataset(broken, "train", imported, quiet)
    assert store.named("datasets", "train") is None
    told: list[tuple[int, int]] = []
    whole = Breaking(config, 99)
    data.store_dataset(whole, "train", imported, lambda what, done, total: told.append((done, total)))
    assert len(whole.sent) == blobs - len(broken.sent)
    assert not set(whole.sent) & set(broken.sent)
    assert told == [(done, blobs) for done in range(1, blobs + 1)]
    again = Breaking(config, 0)
    assert data.store_dataset(again, "other", imported, quiet).artifact == store.named("datasets", "train")
    assert again.sent == [], "what the store has is not sent"


def test_equal_clips_are_stored_once(store: Store, drawn: Path) -> None:
    rows = json.loads(drawn.read_text())["data"]
    name = rows[0]["video_path"]
    (drawn.parent / "copy.mp4").write_bytes((drawn.parent / name).read_bytes())
    one = {"id": "a", "question": "?", "choices": ["x", "y"], "video_path": name}
    drawn.write_text(json.dumps([one, one | {"id": "b", "video_path": "copy.mp4", "question": "!"}]))
    done = data.store_dataset(store, "twice", roadbuddy.read(drawn, drawn.parent), quiet)
    assert (done.questions, done.clips) == (2, 1)
    assert len(list(store.keys("blobs/"))) == 3


def test_each_format_has_its_pipeline_entry(roadqa: Roadqa, store: Store, tmp_path: Path) -> None:
    drawn = clips.draw(tmp_path / "d", seed=1, recordings=1, clips_per_recording=1, questions_per_clip=1,
                       split="train", workers=1)  # fmt: skip
    clip = json.loads(drawn.read_text())["data"][0]["video_path"]
    sources = {}
    for format_ in WRITERS:
        (tmp_path / format_).mkdir()
        path = write(format_, tmp_path / format_, Case(video=clip), Case("gone", video="gone.mp4"))
        sources[format_] = {"import": format_, "file": str(path), "videos": str(drawn.parent), "name": format_,
                            "test": True}  # fmt: skip
    (tmp_path / "p.yaml").write_text(json.dumps({"name": "p", "data": sources, "models": {}}))
    done = roadqa("run", "p.yaml")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    for format_, source in sources.items():
        assert f"{format_}: 1 questions on 1 clips of 1 recordings, in 1 parts; 1 problems, listed above" in lines
        (problem,) = [line for line in lines if line.startswith(f"left out: {source['file']}: ")]
        assert "is not in" in problem
        artifact = store.named("datasets", format_)
        assert artifact is not None
        (questions, _) = read_rows(store, store.manifest(artifact).parts)
        assert [question.origin.test_derived for question in questions] == [True]
    csv = tmp_path / "csv" / "rows.csv"
    strict = roadqa("import", "csv", csv, "--videos", drawn.parent, "--strict", "--test")
    assert "1 problems, nothing imported (--strict)" in strict.stderr


def test_datasets_are_listed_and_shown(roadqa: Roadqa, store: Store, drawn: Path, tmp_path: Path) -> None:
    assert "no datasets yet" in roadqa("datasets", "list").stdout
    assert roadqa("import", "roadbuddy", drawn, "--videos", drawn.parent, "--name", "train").returncode == 0
    listed = json.loads(roadqa("datasets", "list", "--json").stdout)
    assert (listed["train"]["clips"], listed["train"]["parts"]) == (6, 1)
    found = json.loads(roadqa("datasets", "show", "train", "--json").stdout)
    assert (found["questions"], found["answered"], found["clips"], found["recordings"]) == (18, 18, 6, 3)
    for counts in found["questions_by"].values():
        assert sum(counts.values()) == 18
    for counts in found["clips_by"].values():
        assert sum(counts.values()) == 6
    assert {"split", "category", "language", "choices", "origin", "answer"} <= found["questions_by"].keys()
    assert {"codec", "frame rate"} <= found["clips_by"].keys()
    assert "18 questions (18 answered) on 6 clips of 3 recordings" in roadqa("datasets", "show", "train").stdout
    page = tmp_path / "pages" / "train.html"
    done = roadqa("datasets", "show", "train", "--html", page, "--clips", "4")
    assert "4 of 6 clips on the contact sheet" in done.stdout, done.stderr
    text = page.read_text()
    assert text.count("<figure>") == 4
    assert text.count("data:image/jpeg;base64,") >= 4
    assert "http" not in text.replace("http-equiv", ""), "the page asks no network"
    assert "no dataset is called 'gone'" in one_line(roadqa("datasets", "show", "gone"), 2)


def test_a_sheet_shows_the_same_clips_each_time_and_tells_what_it_cannot_show(store: Store, drawn: Path) -> None:
    imported = roadbuddy.read(drawn, drawn.parent)
    data.store_dataset(store, "train", imported, quiet)
    clips_ = list(imported.clips.values())
    some = insight.sheet(store, clips_, 3, quiet)
    assert len({shot.clip.recording for shot in some}) == 3, "one of each recording"
    assert insight.sheet(store, clips_[::-1], 3, quiet) == some
    assert all(frame.startswith("data:image/jpeg;base64,") for shot in some for frame in shot.frames)
    changed = {"won": [{"clip": {"digest": shot.clip.digest}} for shot in some], "lost": []}
    taken = detail.frames(store, [{"changed": changed}, {"changed": None}], quiet)
    assert [taken[shot.clip.digest].frames for shot in some] == [shot.frames for shot in some], (
        "the report's are the same"
    )
    lost = some[0].clip
    store.delete(f"blobs/{lost.digest}")
    shutil.rmtree(store.cache)
    (told,) = insight.sheet(store, [lost], 3, quiet)
    assert (told.frames, told.problem) == ((), "its bytes are not in the store")
