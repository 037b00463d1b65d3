"""A run that would score a model on what it was trained on is refused before it costs anything."""

from collections.abc import Iterable, Iterator

from services.cli.collect import read_rows
from shared import leaks
from shared.errors import UsageError
from shared.pipeline import Plan, Source
from shared.schema import Clip, Question
from shared.store import Store


def check(store: Store, plan: Plan) -> None:
    """Compare what is trained on with what validates it, and with the report's test, as far as data is known now.

    Raises:
        UsageError: names the row, and how much of the test it was trained on; or the step whose validation overlaps.
    """
    for node in plan.nodes:
        if validation := node.inputs.get("validation"):
            judged, own = _rows(store, plan, validation)
            learned, seen_clips = _rows(store, plan, node.inputs["data"])
            answered = [question for question in judged if question.answer is not None]
            if shared := leaks.overlap(answered, own, learned, seen_clips):
                raise UsageError(f"steps.{node.name}: {leaks.overlap_text(shared)}")
    if plan.test is None:
        return
    rows, clips = read_rows(store, plan.datasets[plan.test])
    questions = [question for question in rows if question.answer is not None]  # the others are not scored
    nodes = {node.name: node for node in plan.nodes}
    known: dict[tuple[Source, ...], leaks.Leaks] = {}
    for row in plan.rows:
        node = nodes[row.evaluate]
        if node.recipe["leaks"] == "mark" or not (seen := node.inputs.get("seen")):
            continue
        if seen not in known:
            known[seen] = leaks.find(questions, clips, *_rows(store, plan, seen))
        found = [clips[q.clip].recording for q, leaked in zip(questions, known[seen].leaked, strict=True) if leaked]
        if found:
            recordings = sorted(set(found))
            raise UsageError(
                f"report.rows.{row.name}: trained (or calibrated) on {len(recordings)} recordings of the test"
                f" {plan.test!r} ({len(found)} of its {len(questions)} questions; the first is {recordings[0]!r}): take"
                " them out of the step's data (`roadqa datasets split`), say in a `recording` column what belongs"
                " together where file names mislead, or set `leaks: mark` under `report:`"
            )


def _rows(store: Store, plan: Plan, sources: Iterable[Source]) -> tuple[list[Question], dict[str, Clip]]:
    questions: list[Question] = []
    clips: dict[str, Clip] = {}
    for artifact, labelled in _artifacts(plan, sources, False):
        rows, more = read_rows(store, (artifact,))
        # a label step hands on what it answered, and leaves out what people have
        questions += [_by_teacher(row) for row in rows if row.answer is None] if labelled else rows
        clips |= more
    return questions, clips


def _artifacts(plan: Plan, sources: Iterable[Source], labelled: bool) -> Iterator[tuple[str, bool]]:
    """The rows behind sources, and whether a teacher is yet to answer them."""
    nodes = {node.name: node for node in plan.nodes}
    for source in sources:
        if source.artifact is not None:
            yield source.artifact, labelled
        elif source.node is not None:
            node = nodes[source.node]
            yield from _artifacts(plan, node.inputs["data"], labelled or node.stage == "label")


def _by_teacher(question: Question) -> Question:
    """The row as the label step would hand it on, whatever it answers."""
    return question.model_copy(update={"answer": 0, "origin": question.origin.model_copy(update={"answer": "teacher"})})
