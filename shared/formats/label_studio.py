"""Label Studio: tasks out for people to answer, and their answers back.

Sources: labelstud.io/guide/task_format (tasks, annotations), /guide/predictions, /guide/export (JSON, JSON_MIN),
/tags/choices (choices that each task brings itself).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from shared.errors import InputError
from shared.formats.common import one_line
from shared.formats.files import read_json
from shared.prompts import letter
from shared.schema import Label, Question
from shared.votes import leading

#: The labelling interface that the tasks are made for. What the teacher said is folded away, lest it be read first.
CONFIG = """\
<View>
  <Header value="$question"/>
  <Video name="video" value="$video" height="360"/>
  <Choices name="answer" toName="video" value="$choices" choice="single-radio" required="true"/>
  <Collapse>
    <Panel value="What the teacher said">
      <Text name="votes" value="$votes"/>
    </Panel>
  </Collapse>
</View>
"""
_ANSWER, _OBJECT = "answer", "video"  # the names in CONFIG; JSON_MIN has the answer under the first

Json = dict[str, Any]


class Item(NamedTuple):
    """A label, its question, and where the annotator's browser finds the clip."""

    question: Question
    label: Label
    url: str


class _TaskError(Exception):
    """A task that gives no answer, and why."""


# --- out -------------------------------------------------------------------------------------------


def tasks(items: Iterable[Item], teacher: str) -> list[Json]:
    """Tasks to import into a project whose interface is `CONFIG`; the teacher's leading answer is their prediction.

    A choice is named by its letter and text, so that equal texts stay apart.
    """
    return [_task(item, teacher) for item in items]


def _task(item: Item, teacher: str) -> Json:
    question = item.question
    data = {
        "question_id": question.id,
        "clip": question.clip,
        "video": item.url,
        "question": question.text,
        "choices": [{"value": name} for name in names(question).values()],
        "category": question.category,
        "reason": item.label.reason,
        "votes": _said(item.label, names(question)) or "nothing",  # a task must have what its interface shows
    }
    return {"data": data, "predictions": list(_predictions(item, teacher))}


def names(question: Question) -> dict[int, str]:
    """The choices as annotators see them, by index: those without a text are not offered."""
    return {place: f"{letter(place)}. {choice.text}" for place, choice in enumerate(question.choices) if choice.text}


def _said(label: Label, choices: Mapping[int, str]) -> str:
    votes = [(vote, f"{vote.prompt}, round {vote.round + 1}") for vote in label.votes]
    if label.verification is not None:
        votes.append((label.verification, "verification"))
    lines = []
    for vote, who in votes:
        answer = choices[vote.choice] if vote.choice is not None else f"no answer ({vote.problem})"
        lines.append(f"{who}: {answer}\n{vote.reasoning}".strip())
    return "\n\n".join(lines)


def _predictions(item: Item, teacher: str) -> Iterator[Json]:
    choice = leading(item.label)
    if choice is None:
        return
    yield {
        "model_version": teacher,
        "score": item.label.agreement,
        "result": [_result(names(item.question)[choice])],
    }


def _result(choice: str) -> Json:
    return {"id": _ANSWER, "from_name": _ANSWER, "to_name": _OBJECT, "type": "choices", "value": {"choices": [choice]}}


# --- and back --------------------------------------------------------------------------------------


def read(path: Path, questions: Iterable[Question]) -> tuple[list[Question], list[str]]:
    """The questions that people have answered in an export (JSON or JSON_MIN), and what is wrong with the rest.

    Returns:
        The questions with their answers, in their own order, and a line for each task or question that gives none.

    Raises:
        InputError: the file itself cannot be read.
    """
    known = {(question.clip, question.id): question for question in questions}
    answers: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)  # (task, choice)
    problems: list[str] = []
    for number, task in enumerate(_load(path), 1):
        try:
            key, given = _understood(task, known)
        except _TaskError as error:
            problems.append(_problem(path, f"task {number}", task, str(error)))
            continue
        answers[key] += [(number, choice) for choice in given]
    answered = []
    for key, question in known.items():
        if len({choice for _, choice in answers[key]}) > 1:
            problems.append(_disagreement(path, question, answers[key]))
        elif answers[key]:
            answered.append(_answered(question, answers[key][0][1]))
    return answered, problems


def _load(path: Path) -> list[Any]:
    found = read_json(path, "a Label Studio export")
    if not isinstance(found, list):
        raise InputError(f"{path}: has no list of tasks; export the project as JSON or JSON-MIN")
    return found


def _understood(task: Any, known: Mapping[tuple[str, str], Question]) -> tuple[tuple[str, str], list[int]]:
    """The question of a task, and the choice of each annotation."""
    if not isinstance(task, dict):
        raise _TaskError(f"is {type(task).__name__}, not an object")
    data = task.get("data", task)  # JSON_MIN has the data's fields in the record itself
    key = (str(data.get("clip")), str(data.get("question_id"))) if isinstance(data, dict) else ("", "")
    if key not in known:
        raise _TaskError("is no question of this step: import the export of the tasks that were made from it")
    choices = names(known[key])
    return key, [_choice(value, choices) for value in (_values(task) if "data" in task else [task.get(_ANSWER)])]


def _values(task: Json) -> list[Any]:
    """What each annotation of a task in JSON says."""
    annotations = task.get("annotations")
    if not isinstance(annotations, list) or not all(isinstance(annotation, dict) for annotation in annotations):
        raise _TaskError("has no list of annotations; export the project as JSON or JSON-MIN")
    if not annotations:
        raise _TaskError("has not been annotated")
    kept = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    if not kept:
        raise _TaskError("was skipped by who annotated it")
    return [_value(annotation.get("result")) for annotation in kept]


def _value(result: Any) -> Any:
    regions = [region for region in result if isinstance(region, dict)] if isinstance(result, list) else []
    mine = [region.get("value") for region in regions if region.get("from_name") == _ANSWER]
    return mine[0] if len(mine) == 1 else mine


def _choice(value: Any, choices: Mapping[int, str]) -> int:
    """The index of the one choice that a value names: `{"choices": [text]}`, or the text alone as in JSON_MIN."""
    named = value.get("choices") if isinstance(value, dict) else value
    named = [named] if isinstance(named, str) else named
    if not named:
        raise _TaskError("has an annotation without an answer")
    if not isinstance(named, list) or len(named) != 1:
        raise _TaskError("has an annotation with several answers; choose one")
    fits = [place for place, name in choices.items() if name == named[0]]
    if not fits:
        raise _TaskError(f"answer {str(named[0])[:80]!r} is none of the {len(choices)} choices")
    return fits[0]


def _disagreement(path: Path, question: Question, given: Sequence[tuple[int, int]]) -> str:
    found = ", ".join(f"{letter(choice)} (task {number})" for number, choice in given)
    what = f"annotators disagree: {found}; settle it in the project"
    return _problem(path, "question", {"question_id": question.id}, what)


def _problem(path: Path, where: str, task: Any, what: str) -> str:
    data = task.get("data", task) if isinstance(task, dict) else {}
    name = data.get("question_id") if isinstance(data, dict) else None
    return one_line(f"{path}: {where} (id {str(name)[:80]}): {what}; it is left out")


def _answered(question: Question, answer: int) -> Question:
    origin = question.origin.model_copy(update={"answer": "human", "teacher": None})
    return question.model_copy(update={"answer": answer, "origin": origin})
