"""`roadqa labels` with a real store, broker, conductor and labeler, and a teacher over HTTP."""

import hashlib
import json
import urllib.request
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from services.cli.collect import read_rows
from shared.schema import Origin, Question, Rows, write_rows
from shared.store import Manifest, Store
from tests.integration.commands import Roadqa, one_line
from tests.integration.processes import Processes
from tests.integration.taught import sandbox_teacher, write_scene_rows

RUN = """
name: labelled
data: {open: open}
models: {}
steps: {labels: {stage: label, data: open, teacher: {model: sandbox-teacher}}}
"""


def named(store: Store, name: str, *folders: Path) -> None:
    parts = tuple(sorted(store.put_artifact("rows", folder) for folder in folders))
    store.set_name("datasets", name, store.put_manifest(Manifest(kind="dataset", parts=parts)))


@pytest.fixture
def truth(store: Store, tmp_path: Path) -> dict[str, int]:
    """The datasets `open`, without answers, and `answered`, the same with people's; the truth by question id."""
    folder = tmp_path / "open"
    truth = write_scene_rows(folder, recordings=4, clips=2, per_clip=3)
    named(store, "open", folder)
    rows = Rows([folder])
    human = Origin(answer="human")
    write_rows(
        tmp_path / "answered",
        [row.model_copy(update={"answer": truth[row.id], "origin": human}) for row in rows.questions],
        rows.clips,
    )
    named(store, "answered", tmp_path / "answered")
    return truth


def served(url: str) -> int:
    with urllib.request.urlopen(f"{url}/health") as reply:
        return int(json.load(reply)["served"]["generateContent"])


def people(tasks: list[dict[str, Any]], truth: dict[str, int]) -> list[dict[str, Any]]:
    """What people make of the tasks: the right answers, but that one skips the first, and two differ on the second."""
    done = []
    for number, task in enumerate(tasks, 1):
        right = task["data"]["choices"][truth[task["data"]["question_id"]]]["value"]
        result = {"from_name": "answer", "to_name": "video", "type": "choices", "value": {"choices": [right]}}
        annotations = [{"id": 1, "was_cancelled": number == 1, "result": [result]}]
        if number == 2:
            wrong = next(choice["value"] for choice in task["data"]["choices"] if choice["value"] != right)
            annotations.append({"id": 2, "was_cancelled": False, "result": [result | {"value": {"choices": [wrong]}}]})
        done.append({**task, "id": number, "annotations": annotations})
    return done


def test_labels_are_measured_and_the_doubtful_ones_go_to_people_and_back(
    roadqa: Roadqa, processes: Processes, store: Store, truth: dict[str, int], tmp_path: Path
) -> None:
    (tmp_path / "p.yaml").write_text(RUN)
    with sandbox_teacher("--verify-error", "0.6") as url:
        processes.conductor()
        processes.start("labeler", gemini_base_url=url, gemini_api_key="k", teacher_in_flight=8)

        wanted = ("labels", "evaluate", "answered", "--teacher", "sandbox-teacher", "--questions", "12", "--limit", "5",
                  "--target-precision", "0.05", "--json", "trust.json", "--picture", "trust.svg")  # fmt: skip
        done = roadqa(*wanted)
        assert done.returncode == 0, done.stderr
        assert "12 answered questions of 4 recordings" in done.stdout
        assert "\nmin_agreement: " in done.stdout
        figures = json.loads((tmp_path / "trust.json").read_text())
        assert (figures["n"], figures["recordings"]) == (12, 4)
        assert figures["usd_per_accepted"] > 0
        assert ElementTree.parse(tmp_path / "trust.svg").getroot().tag.endswith("svg")
        paid = served(url)
        assert roadqa(*wanted, "--picture", "trust.html").returncode == 0
        assert served(url) == paid, "what was measured before is not asked again"
        assert "<svg" in (tmp_path / "trust.html").read_text()

        started = roadqa("run", "p.yaml", "--watch")
        assert started.returncode == 0, started.stderr
        run = started.stdout.splitlines()[0]
    told = roadqa("labels", "evaluate", "--run", run, "--answers", "answered", "--json", "-")
    assert told.returncode == 0, told.stderr
    trust = json.loads(told.stdout)
    flagged = sum(group["n"] for group in trust["flagged"])
    assert trust["n"] == len(truth)
    assert flagged >= 3, "the teacher is unsure of some"

    out = roadqa("labels", "export", run, "--flagged", "-o", "tasks.json", "--clips", "clips", "--config", "ui.xml")
    assert out.returncode == 0, out.stderr
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert len(tasks) == flagged
    for task in tasks:
        clip = tmp_path / task["data"]["video"].removeprefix("/data/local-files/?d=")
        assert hashlib.sha256(clip.read_bytes()).hexdigest() == task["data"]["clip"]
    ElementTree.parse(tmp_path / "ui.xml")

    (tmp_path / "export.json").write_text(json.dumps(people(tasks, truth)))
    back = roadqa("labels", "import", "export.json", "--run", run, "--name", "people")
    assert back.returncode == 0, back.stderr
    lines = [line for line in back.stderr.splitlines() if line.startswith("left out: ")]
    assert len(lines) == 2
    assert "was skipped" in lines[0]
    assert "annotators disagree" in lines[1]
    rows = _dataset(store, "people")
    assert len(rows) == flagged - 2
    assert all(row.answer == truth[row.id] and row.origin.answer == "human" for row in rows)
    sources = {row.id: row for row in _dataset(store, "open")}
    assert all(row.origin.test_derived == sources[row.id].origin.test_derived for row in rows)
    again = roadqa("labels", "evaluate", "--run", run, "--answers", "people", "--json", "-")
    assert json.loads(again.stdout)["n"] == flagged - 2


def _dataset(store: Store, name: str) -> list[Question]:
    artifact = store.named("datasets", name)
    assert artifact is not None
    return read_rows(store, store.manifest(artifact).parts)[0]


def test_what_cannot_be_measured_is_said_in_a_line(roadqa: Roadqa, truth: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(RUN)
    run = roadqa("run", "p.yaml").stdout.strip()
    teacher = ("--teacher", "sandbox-teacher")
    for words, says in (
        (("evaluate", "open", *teacher), "people have answered none of its questions"),
        (("evaluate", "nowhere", *teacher), "no dataset is called 'nowhere'"),
        (("evaluate", "answered", *teacher, "--min-agreement", "2"), "min_agreement"),
        (("evaluate", "answered", "--teacher", "unpriced", "--limit", "1"), "ROADQA_PRICES"),
        (("evaluate", "--run", run), "has no labels yet"),
        (("evaluate", "--run", run, "--step", "other"), "no label step called 'other'; there are: labels"),
        (("export", "nobody", "-o", "t.json", "--url", "u"), "no run is called 'nobody'"),
        (("import", "p.yaml", "--run", run, "--name", "n"), "has no labels yet"),
    ):
        assert says in one_line(roadqa("labels", *words), 2), words
