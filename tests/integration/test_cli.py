"""The command line on real servers: exit statuses, one-line errors, imports that lose nothing."""

import json
from pathlib import Path

import pytest

from services.cli import data, tracing
from services.local.stack import free_port
from services.sandbox import clips
from shared.contracts import STAGES
from shared.errors import UsageError
from shared.pipeline import Plan, make_plan, parse_pipeline
from shared.run import Result, Runs
from shared.schema import Choice, Clip, Origin, Question, Rejected, write_rows
from shared.store import Lineage, Manifest, Store
from tests.integration.commands import Roadqa, one_line

ROOT = Path(__file__).resolve().parents[2]


def test_errors_are_one_line_with_an_exit_status_for_each_kind(roadqa: Roadqa, tmp_path: Path) -> None:
    nobody = f"127.0.0.1:{free_port(0)}"
    (tmp_path / "p.yaml").write_text("name: p\ndata: {train: nothing}\nmodels: {}\n")
    assert "no dataset is called 'nothing'" in one_line(roadqa("run", "p.yaml"), 2)
    assert "no run is called" in one_line(roadqa("watch", "nobody"), 2)
    assert "ROADQA_REDIS_URL" in one_line(roadqa("run", "p.yaml", ROADQA_REDIS_URL=f"redis://{nobody}/0"), 3)
    assert "ROADQA_S3_ENDPOINT" in one_line(roadqa("status", ROADQA_S3_ENDPOINT=nobody), 4)
    assert "neither a local folder" in one_line(roadqa("models", "pull", "no/such-model", HF_HUB_OFFLINE="1"), 1)
    assert roadqa("run", "--no-such-option").returncode == 2


def test_doctor_finds_a_healthy_stack(roadqa: Roadqa) -> None:
    done = roadqa("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "conditional put holds" in done.stdout


def test_bad_rows_are_named_and_the_good_ones_go_through(roadqa: Roadqa, tmp_path: Path) -> None:
    drawn = clips.draw(tmp_path / "d", seed=1, recordings=1, clips_per_recording=1, questions_per_clip=3, split="train",
                       workers=1)  # fmt: skip
    rows = json.loads(drawn.read_text())
    good = len(rows["data"])
    rows["data"] += [
        {**rows["data"][0], "id": "gone", "video_path": "videos/gone.mp4"},
        {**rows["data"][0], "id": "bare", "choices": []},
        {**rows["data"][0], "id": "wrong", "answer": "E. none of these"},
        rows["data"][0],
    ]
    rows["__count__"] = len(rows["data"])
    drawn.write_text(json.dumps(rows), encoding="utf-8-sig")
    done = roadqa("import", "roadbuddy", drawn, "--videos", drawn.parent, "--name", "mixed")
    assert done.returncode == 0, done.stderr
    problems = [line for line in done.stderr.splitlines() if line.startswith("left out: ")]
    assert len(problems) == 4
    assert all("questions.json" in line for line in problems)
    assert f"{good} questions" in done.stdout
    strict = roadqa("import", "roadbuddy", drawn, "--videos", drawn.parent, "--name", "strict", "--strict")
    assert strict.returncode == 1
    assert "4 problems" in strict.stderr


def test_left_out_rows_are_told_where_the_import_stands_in_a_pipeline_file(roadqa: Roadqa, tmp_path: Path) -> None:
    drawn = clips.draw(tmp_path / "d", seed=1, recordings=2, clips_per_recording=1, questions_per_clip=2,
                       split="public-test", workers=1)  # fmt: skip
    rows = json.loads(drawn.read_text())
    lost = rows["data"][0]["id"]
    rows["data"][0]["video_path"] = "videos/gone.mp4"
    drawn.write_text(json.dumps(rows))
    source = {"import": "roadbuddy", "file": str(drawn), "videos": str(drawn.parent), "name": "test"}
    source["answers"] = str(drawn.parent / "answers.csv")
    (tmp_path / "p.yaml").write_text(json.dumps({"name": "p", "data": {"test": source}, "models": {}}))
    done = roadqa("run", "p.yaml")
    assert done.returncode == 0, done.stderr
    first, second, summary = (line for line in done.stderr.splitlines() if not line.startswith(("read: ", "upload: ")))
    assert first.startswith(f"left out: {drawn}: row 1 (id {lost}): clip 'videos/gone.mp4' is not in")
    assert second.startswith(f"left out: {drawn.parent / 'answers.csv'}:2: id '{lost}' is none of the imported")
    assert summary == "test: 3 questions on 2 clips of 2 recordings, in 1 parts; 2 problems, listed above"
    assert json.loads(roadqa("status", done.stdout.strip(), "--json").stdout)["steps"] == []
    as_json = roadqa("import", "roadbuddy", drawn, "--videos", drawn.parent, "--name", "test", "--json")
    assert json.loads(as_json.stdout)["recordings"] == 2
    (tmp_path / "p.yaml").write_text(
        json.dumps({"name": "p", "data": {"test": {**source, "strict": True}}, "models": {}})
    )
    assert "2 problems, nothing imported" in roadqa("run", "p.yaml").stderr


def test_what_cannot_be_a_name_is_refused_before_any_work(roadqa: Roadqa, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text("no JSON")
    (tmp_path / "p.yaml").write_text("{name: p, data: {}, models: {base: ./dir}}")
    nobody = f"127.0.0.1:{free_port(0)}"  # a store that answers would be work
    for words in (
        ("import", "roadbuddy", "t.json", "--videos", ".", "--name", "./x"),
        ("import", "roadbuddy", "t.json", "--videos", ".", "--name", ""),
        ("models", "pull", "sandbox-tiny", "--name", "a/"),
        ("run", "p.yaml"),
        ("predict", "public", "--model", "./dir", "-o", "out.csv"),
    ):
        assert "cannot be a name" in one_line(roadqa(*words, ROADQA_S3_ENDPOINT=nobody), 2)


def test_only_a_model_is_taken_for_a_model(store: Store, tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "clips.jsonl").touch()
    rows = store.put_artifact("rows", tmp_path / "rows")
    model = store.put_manifest(Manifest(kind="model"))
    assert data.resolve_model(store, "base", model, lambda *_: None) == model
    with pytest.raises(UsageError, match=f"models.base: artifact {rows[:12]} is rows, not a model"):
        data.resolve_model(store, "base", rows, lambda *_: None)
    with pytest.raises(UsageError, match="is not in the store"):
        data.resolve_model(store, "base", "f" * 64, lambda *_: None)


def test_a_model_with_a_pickle_in_it_is_refused(roadqa: Roadqa, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "pytorch_model.bin"):
        (folder / name).write_text("{}")
    assert "pytorch_model.bin" in one_line(roadqa("models", "pull", folder), 1)


def rows_of(store: Store, folder: Path, *questions: Question) -> str:
    """A rows artifact of questions on a clip whose bytes nobody needs."""
    clip = Clip(digest="c" * 64, name="c", recording="c", size_bytes=1, seconds=1, fps=1, width=1, height=1, codec="c")
    write_rows(folder, questions, {clip.digest: clip})
    return store.put_artifact("rows", folder)


def question(id_: str, parent: str | None = None) -> Question:
    choices = (Choice(label="A", text="yes"), Choice(label="B", text="no"))
    return Question(id=id_, clip="c" * 64, text="?", choices=choices, origin=Origin(answer="none", parent=parent))


@pytest.fixture
def half_done(store: Store, tmp_path: Path) -> str:
    """A run that failed: of its step's two tasks one made rows, the other died."""
    parts = [rows_of(store, tmp_path / name, question(name), question(f"{name} too")) for name in ("a", "b")]
    text = "{name: p, data: {train: x}, models: {}, steps: {more: {stage: augment, data: train}}}"
    runs, plan = Runs(store), make_plan(parse_pipeline(text, "test"), {"train": tuple(parts)}, {})
    runs.submit("half", plan)
    lost, done = runs.state("half").open
    (source,) = done.inputs["data"]
    name = json.loads(store.read_file(source, "questions.jsonl").splitlines()[0])["id"]
    made = rows_of(store, tmp_path / "made", question("grandchild", "child"), question("child", name))
    made = store.put_manifest(
        store.manifest(made).model_copy(
            update={"lineage": Lineage(stage=done.stage, version=done.version, recipe=done.recipe, inputs=done.inputs)}
        )
    )
    result = Result(artifact=made, stage=done.stage, facts={}, seconds=1, attempt=1)
    store.write(f"results/{done.key}", result.model_dump_json().encode())
    runs.bury(lost, "[/usr/lib/x.so] broke on [rank0] :warning:", 3)
    runs.end("half", "failed")
    return name


def test_a_model_goes_out_with_its_sums_and_damage_on_the_way_is_named(roadqa: Roadqa, tmp_path: Path) -> None:
    out = tmp_path / "model"
    done = roadqa("models", "export", "sandbox-tiny", "-o", out)
    assert done.returncode == 0, done.stderr
    weights = out / "model.safetensors"
    assert weights.read_bytes() == (data.SANDBOX_FOLDER / "model.safetensors").read_bytes()
    assert "model.safetensors" in (out / "SHA256SUMS").read_text()
    again = roadqa("models", "export", "sandbox-tiny", "-o", out)
    assert again.returncode == 2
    assert "is there already: give a folder that is not" in again.stderr.splitlines()[-1]
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert "model.safetensors: is damaged" in one_line(roadqa("models", "pull", out, "--name", "again"), 1)


def test_causes_are_shown_as_they_were_told(roadqa: Roadqa, half_done: str) -> None:
    done = roadqa("watch", "half")
    assert done.returncode == 1
    shown, told, _ = done.stderr.splitlines()
    assert shown.endswith("more: 1/2 shards, dead: [/usr/lib/x.so] broke on [rank0] :warning:")
    assert told == "dead: more: [/usr/lib/x.so] broke on [rank0] :warning:"


def test_a_run_is_traced_as_far_as_it_came(store: Store, half_done: str) -> None:
    found = tracing.trace(store, "half", None)
    (root,) = found["roots"]
    assert found["artifacts"][root]["stage"] == "augment"
    assert len(found["artifacts"]) == 2


def test_a_run_without_a_result_says_so(store: Store) -> None:
    Runs(store).submit("new", Plan(name="p", nodes=(), datasets={}, models={}))
    with pytest.raises(UsageError, match="run 'new' has no result yet; `roadqa watch new`"):
        tracing.trace(store, "new", None)


def test_a_question_is_traced_to_what_it_was_made_from(store: Store, half_done: str) -> None:
    rows = tracing.trace(store, "half", "grandchild")["question"]
    assert {found["row"]["id"] for found in rows} == {"grandchild", "child", half_done}
    assert {found["row"]["id"] for found in tracing.trace(store, "half", half_done)["question"]} == {half_done}


def test_every_command_has_an_example_in_its_help() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    commands = [block for block in text.split("\n## ") if "Commands:" not in block][1:]
    assert len(commands) >= 12
    assert all("Example:" in block for block in commands)


def test_a_dry_run_says_the_cost_and_starts_nothing(roadqa: Roadqa, store: Store, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        "name: p\nmodels: {}\nlimits: {teacher_usd: 3}\n"
        "data: {test: {import: sandbox, split: public-test, recordings: 1, clips_per_recording: 2}}\n"
        "steps: {labels: {stage: label, data: test, teacher: {thinking_budget: 0}}}\n"
    )
    done = roadqa("run", "p.yaml", "--dry-run", "--json", ROADQA_REDIS_URL=f"redis://127.0.0.1:{free_port(0)}/0")
    assert done.returncode == 0, done.stderr
    (step,) = json.loads(done.stdout)
    assert (step["step"], step["model"], step["clips"]) == ("labels", "gemini-2.5-pro", 2)
    assert step["calls"] == {"low": 6 * step["questions"], "high": 18 * step["questions"]}
    assert step["tokens_out"]["low"] == 600 * step["calls"]["low"]
    assert 0 < step["usd"]["low"] == pytest.approx(step["usd"]["high"] / 3)
    assert not list(store.keys("runs/"))
    shown = roadqa("run", "p.yaml", "--dry-run")
    assert "pauses at $3.00" in shown.stdout


def test_a_plan_stands_on_what_the_store_has_and_starts_nothing(roadqa: Roadqa, store: Store, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        "name: p\nmodels: {m: sandbox-tiny}\nvideo: {tokens_per_patch: 6, max_frames: 8}\n"
        "data:\n"
        "  train: {import: sandbox, split: train, recordings: 1, clips_per_recording: 2}\n"
        "  test: {import: sandbox, split: public-test, recordings: 1, clips_per_recording: 2}\n"
        "steps:\n"
        "  labels: {stage: label, data: test}\n"
        "  t: {stage: train, model: m, data: [train, labels], precision: float32}\n"
    )
    before = json.loads(roadqa("run", "p.yaml", "--plan", "--json").stdout)
    assert len(before["missing"]) == 2
    assert before["training"][0]["rows"] is None
    assert not list(store.keys("names/datasets"))
    assert roadqa("run", "p.yaml", "--dry-run").returncode == 0  # which imports
    done = roadqa("run", "p.yaml", "--plan", "--devices", "2xCPU", "--json")
    assert done.returncode == 0, done.stderr
    after = json.loads(done.stdout)
    assert after["missing"] == []
    (label,) = after["teachers"]
    (training,) = after["training"]
    assert training["rows"] >= label["questions"] > 0
    assert (training["processes"], training["rows_known"], training["hours"]) == (2, True, None)
    assert after["storage"]["clips"] > 0
    assert not list(store.keys("runs/"))

    plan = Plan.model_validate(
        {"name": "p", "nodes": [_trained(training["recipe"], _tiny(store))], "datasets": {}, "models": {}}
    )
    Runs(store).submit("p-1", plan)
    (state,) = Runs(store).state("p-1").nodes
    assert state.tasks is not None
    (task,) = state.tasks
    facts = {"processes": 2, "pace": {"samples_per_second": 4.0}}
    made = Result(artifact="a" * 64, stage="train", facts=facts, seconds=5.0, attempt=1)
    store.write(f"results/{task.key}", made.model_dump_json().encode())
    told = json.loads(roadqa("run", "p.yaml", "--plan", "--devices", "2xCPU", "--json").stdout)["training"][0]["hours"]
    assert told["hours"] == pytest.approx(training["rows"] * 2 / 4.0 / 3600)
    assert told["source"] == "t of run p-1, on 2 CPU processes"


def _tiny(store: Store) -> str:
    return data.pull_model(store, data.SANDBOX_MODEL, None, lambda *_: None)[1]


def _trained(recipe: dict[str, object], model: str) -> dict[str, object]:
    """A train step of another run."""
    source = {"model": [{"artifact": model}], "data": [{"artifact": "b" * 64}]}
    return {"name": "t", "stage": "train", "version": STAGES["train"].version, "recipe": recipe, "inputs": source}


def test_a_runs_limit_is_seen_and_changed(roadqa: Roadqa, store: Store, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        "name: p\nmodels: {}\nlimits: {teacher_usd: 3}\n"
        "data: {test: {import: sandbox, split: public-test, recordings: 1, clips_per_recording: 1}}\n"
        "steps: {labels: {stage: label, data: test}}\n"
    )
    run = roadqa("run", "p.yaml").stdout.strip()
    assert "$0.00 spent of $3.00" in roadqa("status", run).stdout
    Runs(store).pause(run, 3.0)
    assert json.loads(roadqa("status", "--json").stdout) == {run: "paused"}
    watched = roadqa("watch", run)
    assert watched.returncode == 1
    assert f"roadqa limit {run} USD" in watched.stderr
    assert roadqa("limit", run, "7.5").stdout == f"run {run}: $0.00 of $7.50 spent\n"
    state = json.loads(roadqa("status", run, "--json").stdout)
    assert (state["state"], state["limit_usd"], state["spent_usd"]) == ("live", 7.5, 0.0)
    assert "no run is called" in one_line(roadqa("limit", "nobody", "5"), 2)
    assert roadqa("limit", run, "0").returncode == 2


def test_what_the_gates_turned_away_can_be_looked_at(roadqa: Roadqa, store: Store, tmp_path: Path) -> None:
    text = "What colour is the car?"
    choices = tuple(Choice(label="", text=colour) for colour in ("red", "blue"))
    clip = Clip(digest="0" * 64, name="c", recording="c", size_bytes=1, seconds=4, fps=10, width=8, height=8, codec="x")
    asked = Question(id="q1", clip=clip.digest, text=text, choices=choices, answer=0, origin=Origin(answer="human"))
    write_rows(tmp_path / "rows", [asked], {clip.digest: clip})
    digest = store.put_blob(tmp_path / "rows" / "clips.jsonl").digest  # any bytes: nobody looks at the clip
    clip = clip.model_copy(update={"digest": digest})
    write_rows(tmp_path / "rows", [asked.model_copy(update={"clip": digest})], {digest: clip})
    part = store.put_artifact("rows", tmp_path / "rows")
    pipeline = "name: p\ndata: {a: a}\nmodels: {}\nsteps: {more: {stage: augment, data: a, method: teacher}}\n"
    plan = make_plan(parse_pipeline(pipeline, "p"), {"a": (part,)}, {})
    known = Runs(store)
    known.submit("p-1", plan)
    (task,) = known.state("p-1").nodes[0].tasks or ()
    row = Rejected(parent="q1", rule="teacher-question", gate="check finds another meaning", text="Which?",
                   choices=("red", "blue"))  # fmt: skip
    write_rows(tmp_path / "out", [], {})
    (tmp_path / "out" / "rejected.jsonl").write_text(row.model_dump_json() + "\n")
    artifact = store.put_artifact("rows", tmp_path / "out")
    result = Result(artifact=artifact, stage="augment", facts={}, seconds=1, attempt=1)
    store.write_if_absent(f"results/{task.key}", result.model_dump_json().encode())
    shown = roadqa("rejected", "p-1").stdout
    assert "check finds another meaning" in shown
    assert f"was: {text} | red | blue" in shown
    assert "now: Which? | red | blue" in shown
    (found,) = json.loads(roadqa("rejected", "p-1", "--json").stdout)
    assert (found["step"], found["was"]["id"]) == ("more", "q1")
    assert "its augment steps: more" in one_line(roadqa("rejected", "p-1", "--step", "less"), 2)


def test_a_run_that_would_score_what_it_trains_on_is_refused_at_once(
    roadqa: Roadqa, store: Store, tmp_path: Path
) -> None:
    drawn = "{import: sandbox, split: %s, recordings: 2, clips_per_recording: 1, seed: 3}"
    text = (
        f"name: p\nmodels: {{base: sandbox-tiny}}\ndata: {{a: {drawn % 'train'}, b: {drawn % 'public-test'}}}\n"
        "steps:\n  labels: {stage: label, data: b}\n"
        "  more: {stage: augment, data: [a, labels]}\n  tuned: {stage: train, model: base, data: %s}\n"
        "report: {test: %s, rows: {tuned: {}}%s}\n"
    )
    (tmp_path / "p.yaml").write_text(text % ("[labels, more]", "a", ""))
    refused = roadqa("run", "p.yaml")
    said = refused.stderr.splitlines()[-1]  # after what the import tells
    assert refused.returncode == 2
    assert "report.rows.tuned: trained (or calibrated) on 2 recordings of the test 'a'" in said
    assert "leaks: mark" in said
    (tmp_path / "p.yaml").write_text(text % ("[labels, more]", "a", ", leaks: mark"))
    assert roadqa("run", "p.yaml").returncode == 0
    (tmp_path / "p.yaml").write_text(text % ("[labels]", "b", ""))
    assert roadqa("run", "p.yaml").returncode == 0, "a teacher's labels on the test are transductive, and said so"


def test_a_dataset_is_split_by_recording(roadqa: Roadqa, store: Store, tmp_path: Path) -> None:
    drawn = ("--split", "train", "--recordings", "6", "--clips", "1", "--questions", "2", "--seed", "4")
    name = json.loads(roadqa("import", "sandbox", *drawn, "--json").stdout)["dataset"]
    blobs = set(store.keys("blobs/"))
    done = roadqa("datasets", "split", name, "--into", "train=0.7", "--into", "val=0.3", "--json")
    assert done.returncode == 0, done.stderr
    train, val = json.loads(done.stdout)
    assert (train["dataset"], val["dataset"]) == (f"{name}-train", f"{name}-val")
    assert (train["recordings"] + val["recordings"], train["questions"] + val["questions"]) == (6, 12)
    clips = {key for key in store.keys("blobs/")} - blobs
    assert all(store.manifest(a["artifact"]).parts for a in (train, val))
    assert len(clips) <= 8, "tables alone: no clip is stored again"
    assert "add up to 1" in one_line(roadqa("datasets", "split", name, "--into", "a=0.5", "--into", "b=0.4"), 2)
    assert "no NAME=SHARE" in one_line(roadqa("datasets", "split", name, "--into", "a"), 2)
    assert "does not match clip" in one_line(
        roadqa("datasets", "split", name, "--into", "a=0.5", "--into", "b=0.5", "--pattern", "^(x)$"), 2
    )
