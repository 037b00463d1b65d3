"""Labels out of the store: a run that measures a teacher, what a run's step has labelled, and the way to people."""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote

from services.cli import data
from services.cli.collect import read_rows
from services.cli.data import Import, Progress, check_name, resolve_data, store_dataset
from services.cli.estimate import check_limit
from services.cli.trust import Case, Trust, measure
from shared.errors import InputError, UsageError
from shared.formats import label_studio, parts
from shared.formats.common import Imported
from shared.pipeline import Pipeline, Plan, make_plan
from shared.precedence import same
from shared.run import NodeState, Runs
from shared.schema import Clip, Label, Question
from shared.store import Store


class Labelled(NamedTuple):
    """What a label step has labelled so far."""

    step: str
    recipe: dict[str, Any]
    labels: tuple[tuple[Label, Question], ...]
    clips: dict[str, Clip]
    open: int  #: its tasks that have no result yet
    usd: float | None  #: what the labels cost; None where the model has no price

    @property
    def teacher(self) -> str:
        return str(self.recipe["teacher"]["model"])


# --- a run that measures ---------------------------------------------------------------------------


class Wanted(NamedTuple):
    """How a teacher is to be measured."""

    dataset: str
    teacher: dict[str, Any]  #: fields of `TeacherRecipe`; those left out are its defaults
    recipe: dict[str, Any]  #: of `LabelRecipe`, likewise
    questions: int | None = None  #: so many of the answered ones
    limit: float | None = None  #: US dollars


def plan(store: Store, wanted: Wanted, progress: Progress) -> Plan:
    """A run with one label step, over questions that people have answered: the teacher is asked them blind.

    Raises:
        UsageError: no such dataset, or none of its questions has been answered.
    """
    questions, clips = read_rows(store, resolve_data(store, wanted.dataset, wanted.dataset, progress))
    answered = _answered(questions, wanted.dataset)
    if wanted.questions is not None and wanted.questions < len(answered):
        answered = sample(answered, clips, wanted.questions)
    body = {"stage": "label", "data": wanted.dataset, "teacher": wanted.teacher, "answered": "ask", **wanted.recipe}
    pipeline = Pipeline.model_validate(
        {
            "name": "labels-evaluate",
            "data": {wanted.dataset: wanted.dataset},
            "models": {},
            "steps": {f"labels of {wanted.dataset}": body},
            "limits": {"teacher_usd": wanted.limit},
        }
    )
    # a wrong recipe, or a limit without a price, should be told before anything is stored
    check_limit(make_plan(pipeline, {wanted.dataset: ("",)}, {}))
    return make_plan(pipeline, {wanted.dataset: _parts(store, answered, clips)}, {})


def _answered(questions: Iterable[Question], dataset: str) -> list[Question]:
    found = [question for question in questions if question.answer is not None and question.origin.answer == "human"]
    if not found:
        raise UsageError(f"{dataset}: people have answered none of its questions; import answers with it (--answers)")
    return found


def sample(questions: Sequence[Question], clips: Mapping[str, Clip], count: int) -> list[Question]:
    """`count` of the questions in their own order, the same ones each time: one of each recording before a second."""
    turns: Counter[str] = Counter()
    ranked: list[tuple[int, int, Question]] = []
    for question in sorted(questions, key=lambda q: hashlib.sha256(f"{q.clip}:{q.id}".encode()).digest()):
        recording = clips[question.clip].recording
        ranked.append((turns[recording], len(ranked), question))
        turns[recording] += 1
    chosen = {(question.clip, question.id) for _, _, question in sorted(ranked, key=lambda rank: rank[:2])[:count]}
    return [question for question in questions if (question.clip, question.id) in chosen]


def _parts(store: Store, questions: list[Question], clips: Mapping[str, Clip]) -> tuple[str, ...]:
    """Rows artifacts of some questions whose clips are in the store: equal questions make equal ones."""
    with tempfile.TemporaryDirectory() as folder:
        cut = parts.cut_parts(_stored(questions, clips), Path(folder))
        return tuple(sorted(store.put_artifact("rows", part) for part in cut))


def _stored(questions: list[Question], clips: Mapping[str, Clip], problems: Iterable[str] = ()) -> Imported:
    used = {question.clip for question in questions}
    return Imported(questions, {digest: clips[digest] for digest in used}, problems=list(problems))


# --- what a run has labelled -----------------------------------------------------------------------


def of_run(store: Store, run: str, step: str | None) -> Labelled:
    """The labels of a run's label step, as far as it has come.

    Raises:
        UsageError: the run has no such step, several of which one must be named, or no label yet.
    """
    state = _step(Runs(store), run, step)
    done = [task for task in state.tasks or () if task.key in state.results]
    if not done:
        raise UsageError(f"run {run}: step {state.node.name!r} has no labels yet; `roadqa watch {run}`")
    found: list[tuple[Label, Question]] = []
    clips: dict[str, Clip] = {}
    for task in done:
        questions, own = read_rows(store, task.inputs["data"])
        by_id = {question.id: question for question in questions}
        clips |= own
        lines = store.read_file(state.results[task.key].artifact, "labels.jsonl").splitlines()
        labels = [Label.model_validate_json(line) for line in lines]
        found += [(label, by_id[label.question]) for label in labels]
    left = len({task.key for task in state.tasks or ()}) - len(state.results)
    costs = [state.results[key].facts.get("usd") for key in {task.key for task in done}]
    usd = None if None in costs else sum(cost for cost in costs if cost is not None)
    return Labelled(state.node.name, state.node.recipe, tuple(found), clips, left, usd)


def _step(runs: Runs, run: str, step: str | None) -> NodeState:
    steps = {state.node.name: state for state in runs.state(run).nodes if state.node.stage == "label"}
    names = ", ".join(steps) or "none"
    if step is not None and step not in steps:
        raise UsageError(f"run {run} has no label step called {step!r}; there are: {names}")
    if step is None and len(steps) != 1:
        raise UsageError(f"run {run}: say which label step with --step; there are: {names}")
    return steps[step] if step is not None else next(iter(steps.values()))


def trust(labelled: Labelled, answers: Iterable[Question] | None = None) -> Trust:
    """How far a step's labels can be trusted, by its questions' own answers or by those of another dataset.

    Raises:
        UsageError: no labelled question has an answer.
    """
    known = labelled.labels if answers is None else list(_joined(labelled, answers))
    cases = [
        Case(label, question, labelled.clips[question.clip].recording)
        for label, question in known
        if question.answer is not None and question.origin.answer == "human"
    ]
    if not cases:
        raise UsageError(
            f"step {labelled.step!r}: people have answered none of its {len(labelled.labels)} labelled questions; "
            "give a dataset that holds the same questions on the same clips with answers"
        )
    all_measured = len(cases) == len(labelled.labels)  # otherwise the step's cost is not theirs alone
    usd = labelled.usd if all_measured else None
    return measure(cases, labelled.recipe["min_agreement"], labelled.recipe["extra_rounds"], usd=usd)


def _joined(labelled: Labelled, answers: Iterable[Question]) -> Iterable[tuple[Label, Question]]:
    """Each label with its question as people have answered it, wherever the choices stand there."""
    people = {same(row): row for row in answers if row.answer is not None and row.origin.answer == "human"}
    for label, question in labelled.labels:
        row = people.get(same(question))
        if row is not None and row.answer is not None:
            texts = [choice.text for choice in question.choices]
            answer = texts.index(row.choices[row.answer].text)
            yield label, question.model_copy(update={"answer": answer, "origin": row.origin})


# --- to people and back ----------------------------------------------------------------------------


def tasks(labelled: Labelled, where: str, flagged: bool) -> list[dict[str, Any]]:
    """Label Studio tasks of the labels, or of the flagged ones; a clip is at `where` and its `file_name`.

    Raises:
        UsageError: there is none.
    """
    chosen = [(label, q) for label, q in labelled.labels if not flagged or label.status == "flagged"]
    if not chosen:
        raise UsageError(f"step {labelled.step!r} has no flagged label: there is nothing to ask people")
    items = (
        label_studio.Item(question, label, where + quote(file_name(labelled.clips[question.clip])))
        for label, question in chosen
    )
    return label_studio.tasks(items, labelled.teacher)


def prefix(folder: Path | None, url: str | None) -> str:
    """What stands before a clip's `file_name`: `url`, else where Label Studio serves `folder` of its local files."""
    if url is not None:
        return url if url.endswith(("/", "=")) else f"{url}/"
    assert folder is not None
    return f"/data/local-files/?d={quote(folder.resolve().name)}/"


def file_name(clip: Clip) -> str:
    """What a clip is called outside the store: its digest, and the ending by which a browser knows it."""
    return clip.digest + (PurePosixPath(clip.name).suffix.lower() or ".mp4")


def write_clips(store: Store, clips: Sequence[Clip], folder: Path, progress: Progress) -> None:
    """Write clips into `folder` under their `file_name`; those that are there already stay."""
    data.write_clips(store, {clip.digest: file_name(clip) for clip in clips}, folder, progress)


def import_answers(store: Store, file: Path, labelled: Labelled, name: str, progress: Progress) -> Import:
    """Store the answers of a Label Studio export as a dataset of its own.

    Raises:
        InputError: the file cannot be read, or gives no answer.
        UsageError: the name cannot be one.
    """
    check_name(name, "--name", "choose another")
    answered, problems = label_studio.read(file, [question for _, question in labelled.labels])
    if not answered:
        raise InputError(f"{file}: no usable answer: " + ("; ".join(problems[:3]) or "it holds no task"))
    return store_dataset(store, name, _stored(answered, labelled.clips, problems), progress)
