"""Which system prompt suits a model: successive halving on one part of a dataset's recordings, the score on the rest.

Every rung asks the candidates that are left on more recordings, the earlier ones included, whose answers are there
already. After it the better half goes on, less those that the paired test shows to be worse than the best. The prompt
that is used now stays to the end, whatever its score: it is what the winner must beat.
"""

import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from services.cli.collect import collect, read_rows
from services.cli.data import Progress, resolve_data, resolve_model
from services.cli.finish import finish
from services.cli.predictions import asked_as
from services.cli.report import Report, build
from shared import metrics
from shared.errors import UsageError
from shared.formats.common import Imported
from shared.formats.parts import cut_parts
from shared.lease import Board
from shared.pipeline import Pipeline, Plan, make_plan, parse_pipeline
from shared.run import Runs, made
from shared.schema import Clip, Prediction, Question
from shared.settings import settings
from shared.splits import by_recording, joined, split
from shared.store import Store

UNSEEN = "unseen"
P_WORSE = 0.05  #: below it a candidate that is behind the best goes, though it is among the better half
_LINE = re.compile(r"^(system_prompt:[ \t]*)([^\s#]+)", re.MULTILINE)


class Asked(NamedTuple):
    """What is searched on, and how the model is asked."""

    model: str
    artifact: str
    dataset: str
    engine: str
    video: Mapping[str, Any]


class Standing(NamedTuple):
    """A candidate after a rung."""

    prompt: str
    accuracy: float
    ci95: tuple[float, float]
    p: float | None  #: of the paired test against the best; None for that itself
    goes_on: bool


class Rung(NamedTuple):
    """Candidates on the recordings asked so far, the best first."""

    run: str
    n: int
    recordings: int
    standings: tuple[Standing, ...]


class Search(NamedTuple):
    """What a search found."""

    rungs: tuple[Rung, ...]
    winner: str
    current: str
    unseen: Report  #: of the winner and, where that is another, the current prompt


# --- the ladder ------------------------------------------------------------------------------------


def slices(candidates: int, development: float) -> dict[str, float]:
    """Shares of the dataset: what each rung adds, the rungs doubling; and what the search never sees."""
    rungs = max(1, math.ceil(math.log2(candidates)))
    each = [development / 2 ** (rungs - max(1, number)) for number in range(rungs)]
    return {f"rung {number + 1}": share for number, share in enumerate(each)} | {UNSEEN: 1 - development}


def judge(right: Mapping[str, Sequence[int]], recordings: Sequence[str], current: str, last: bool) -> list[Standing]:
    """Candidates after a rung, the best first; of equals the current prompt, then the one named first.

    Args:
        right: candidate → 1 where it was right, for each question.
        recordings: of each question.
    """
    ranked = sorted(right, key=lambda name: (-sum(right[name]), name != current))
    best, keep = ranked[0], 1 if last else math.ceil(len(ranked) / 2)
    standings = []
    for place, name in enumerate(ranked):
        accuracy, interval = metrics.accuracy_interval(right[name], recordings)
        p = metrics.compare(right[name], right[best], recordings).p if name != best else None
        behind = p is not None and p < P_WORSE
        goes_on = name == current or (place < keep and not behind)
        standings.append(Standing(name, accuracy, (interval.low, interval.high), p, goes_on))
    return standings


# --- the search ------------------------------------------------------------------------------------


class Searcher:
    """Runs the rungs of one search."""

    def __init__(self, store: Store, board: Board, asked: Asked) -> None:
        self._store, self._board, self._asked = store, board, asked

    def search(
        self, candidates: Sequence[str], current: str, development: float, seed: int, progress: Progress
    ) -> Search:
        """Find the best of `candidates`, and score it on recordings that the search never saw.

        Raises:
            UsageError: there are too few recordings, or nothing to choose from.
        """
        left = list(dict.fromkeys([current, *candidates]))
        if len(left) < 2:
            raise UsageError("there is nothing to choose from: name a candidate beside the prompt that is used now")
        shares = slices(len(left), development)
        dealt, clips = self._dealt(shares, seed, progress)
        parts = {name: self._stored(rows, clips) for name, rows in dealt.items()}
        rungs: list[Rung] = []
        names = [name for name in shares if name != UNSEEN]
        for number in range(1, len(names) + 1):
            seen = names[:number]
            rungs.append(self._rung(left, [part for name in seen for part in parts[name]], current, seen == names))
            left = [standing.prompt for standing in rungs[-1].standings if standing.goes_on]
            if left == [current]:
                break
        winner = rungs[-1].standings[0].prompt
        return Search(tuple(rungs), winner, current, self._unseen(winner, current, parts[UNSEEN]))

    def _dealt(
        self, shares: Mapping[str, float], seed: int, progress: Progress
    ) -> tuple[dict[str, list[Question]], dict[str, Clip]]:
        """The answered questions, whole recordings (and near-duplicates) to one slice."""
        name = self._asked.dataset
        questions, clips = read_rows(self._store, resolve_data(self._store, name, name, progress))
        answered = [question for question in questions if question.answer is not None]
        if not answered:
            raise UsageError(f"{name}: no question has an answer, so no prompt is better than another")
        group = joined(by_recording, clips.values())
        return split(answered, clips, shares, seed=seed, group=group), clips

    def _stored(self, questions: list[Question], clips: Mapping[str, Clip]) -> tuple[str, ...]:
        """Their parts in the store, which has the clips."""
        held = {question.clip for question in questions}
        rows = Imported(questions, {digest: clips[digest] for digest in sorted(held)})
        with tempfile.TemporaryDirectory() as folder:
            return tuple(self._store.put_artifact("rows", part) for part in cut_parts(rows, Path(folder)))

    def _plan(self, prompts: Sequence[str], parts: Sequence[str]) -> Plan:
        """A run that asks by each of the prompts and compares all with the first."""
        asked = self._asked
        rows = {name: {"model": "model", "system_prompt": name, "engine": asked.engine}
                | ({"parent": prompts[0]} if name != prompts[0] else {}) for name in prompts}  # fmt: skip
        pipeline = Pipeline.model_validate(
            {"name": "prompts", "data": {"questions": asked.dataset}, "models": {"model": asked.model},
             "video": asked.video, "report": {"test": "questions", "leaks": "mark", "rows": rows}}
        )  # fmt: skip
        known = {asked.artifact: made(self._store, asked.artifact)}
        models = {"model": asked.artifact}
        return make_plan(pipeline, {"questions": tuple(parts)}, models, known, settings().lacking)

    def _rung(self, prompts: Sequence[str], parts: Sequence[str], current: str, last: bool) -> Rung:
        plan = self._plan(prompts, parts)
        run = finish(self._store, self._board, plan)
        state = Runs(self._store).state(run, plan)
        questions, clips = read_rows(self._store, tuple(parts))
        right = {}
        for row in plan.rows:
            chosen = self._choices(state.node(row.predict).artifacts)
            right[row.name] = [int(chosen[question.id] == question.answer) for question in questions]
        recordings = [clips[question.clip].recording for question in questions]
        standings = judge(right, recordings, current, last)
        return Rung(run, len(questions), len(set(recordings)), tuple(standings))

    def _choices(self, artifacts: Sequence[str]) -> dict[str, int]:
        lines = [line for one in artifacts for line in self._store.read_file(one, "predictions.jsonl").splitlines()]
        return {found.question: found.choice for found in map(Prediction.model_validate_json, lines)}

    def _unseen(self, winner: str, current: str, parts: Sequence[str]) -> Report:
        prompts = list(dict.fromkeys([current, winner]))
        return build(collect(self._store, finish(self._store, self._board, self._plan(prompts, parts))))


def asked(store: Store, model: str, dataset: str, engine: str, progress: Progress) -> tuple[Asked, str]:
    """How a model is asked, and the prompt that it is asked with now: as it was trained, where its card tells."""
    artifact = resolve_model(store, "base", model, progress)
    recipe = asked_as(store, artifact)
    return Asked(model, artifact, dataset, engine, recipe.get("video", {})), recipe.get("system_prompt", "expert")


# --- the pipeline file -----------------------------------------------------------------------------


def with_prompt(text: str, prompt: str, source: str) -> str:
    """A pipeline file's text with another `system_prompt`, all else as it was, comments too.

    Raises:
        UsageError: the file is none, or its prompt stands where this cannot change it; says which line to put.
    """
    before = parse_pipeline(text, source)
    changed, count = _LINE.subn(rf"\g<1>{prompt}", text, count=1)
    if not count:
        changed = re.sub(r"^(?=[A-Za-z])", f"system_prompt: {prompt}\n", text, count=1, flags=re.MULTILINE)
    try:
        after = parse_pipeline(changed, source)
    except UsageError:
        after = before
    if after != before.model_copy(update={"system_prompt": prompt}):
        raise UsageError(f"{source}: put `system_prompt: {prompt}` into it by hand; its layout is not understood here")
    return changed


def as_json(found: Search) -> dict[str, Any]:
    """Every rung, and the unseen scores."""
    rows = found.unseen["rows"]
    keys = ("name", "accuracy", "ci95", "n", "recordings", "difference", "difference_ci95", "p", "claim")
    return {
        "winner": found.winner,
        "current": found.current,
        "rungs": [rung._asdict() | {"standings": [each._asdict() for each in rung.standings]} for rung in found.rungs],
        "unseen": {"run": found.unseen["run"], "rows": [{key: row[key] for key in keys} for row in rows]},
    }
