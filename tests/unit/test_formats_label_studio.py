"""Label Studio and back: what people answered arrives, what they did not is said."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import InputError
from shared.formats import label_studio
from shared.formats.label_studio import CONFIG, Item, names
from shared.schema import Choice, Label, Origin, Question, Vote

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@st.composite
def answered(draw: st.DrawFn) -> list[Question]:
    """Questions with the answers that people will give; ids may be anything, and choices alike."""
    found = []
    for number, id_ in enumerate(draw(st.lists(TEXTS, min_size=1, max_size=4, unique=True))):
        texts = draw(st.lists(TEXTS, min_size=2, max_size=26))
        choices = tuple(Choice(label="A", text=text) for text in texts)
        origin = Origin(answer="human", test_derived=draw(st.booleans()))
        answer = draw(st.integers(0, len(texts) - 1))
        found.append(Question(id=id_, clip=f"{number // 2:064x}", text=draw(TEXTS), choices=choices, answer=answer,
                              origin=origin))  # fmt: skip
    return found


def asked(question: Question) -> Question:
    """The question before people have answered it."""
    origin = question.origin.model_copy(update={"answer": "none"})
    return question.model_copy(update={"answer": None, "origin": origin})


def item(question: Question, choice: int | None = 1) -> Item:
    problem = None if choice is not None else "blocked"
    votes = tuple(Vote(prompt=f"p{n}", round=0, choice=choice, reasoning="because", problem=problem) for n in range(5))
    label = Label(question=question.id, status="flagged", answer=None, reason="votes disagree", agreement=0.8,
                  votes=votes)  # fmt: skip
    return Item(question, label, "https://media.example.com/c.mp4")


def annotated(task: dict[str, Any], number: int, *choices: str, **more: Any) -> dict[str, Any]:
    """The task as an export in JSON has it after people chose `choices`, one annotation each."""
    annotations = [
        {"id": place, "completed_by": place, "was_cancelled": False, "result": [label_studio._result(choice)]}
        for place, choice in enumerate(choices, 1)
    ]
    return {"id": number, "annotations": annotations, **task, **more}


def minimal(task: dict[str, Any], number: int, choice: str) -> dict[str, Any]:
    """The same as JSON-MIN has it."""
    return {**task["data"], "id": number, "answer": choice, "annotator": 1, "annotation_id": number, "lead_time": 2.5}


def written(folder: Path, found: object, encoding: str = "utf-8") -> Path:
    path = folder / "export.json"
    path.write_text(json.dumps(found), encoding=encoding)
    return path


@settings(max_examples=60)
@given(questions=answered(), short=st.booleans())
def test_what_people_chose_comes_back_as_they_chose_it(
    tmp_path_factory: pytest.TempPathFactory, questions: list[Question], short: bool
) -> None:
    made = label_studio.tasks([item(asked(question)) for question in questions], "teacher")
    right = [names(question)[question.answer or 0] for question in questions]
    form = minimal if short else annotated
    export = [form(task, number, choice) for number, (task, choice) in enumerate(zip(made, right, strict=True))]
    path = written(tmp_path_factory.mktemp("export"), json.loads(json.dumps(export)))
    assert label_studio.read(path, [asked(question) for question in questions]) == (questions, [])


def question(id_: str = "q", texts: str = "xyz") -> Question:
    choices = tuple(Choice(label="A", text=text) for text in texts)
    return Question(id=id_, clip="c" * 64, text="?", choices=choices, origin=Origin(answer="none"))


def test_a_task_holds_what_its_interface_shows_and_its_prediction_is_one_of_its_choices() -> None:
    for choice in (1, None):
        (task,) = label_studio.tasks([item(question(), choice)], "t")
        tree = ElementTree.fromstring(CONFIG)
        shown = {value[1:] for tag in tree.iter() if (value := tag.get("value", "")).startswith("$")}
        assert shown <= {name for name, value in task["data"].items() if value}
        assert len(task["predictions"]) == (choice is not None)
        for prediction in task["predictions"]:
            assert prediction["score"] == 0.8
            assert prediction["result"][0]["value"] == {"choices": ["B. y"]}
            assert {"value": "B. y"} in task["data"]["choices"]


def test_a_choice_without_a_text_is_not_offered_and_the_others_keep_their_letters(tmp_path: Path) -> None:
    first, second, third = question().choices
    gappy = question().model_copy(update={"choices": (first, second.model_copy(update={"text": ""}), third)})
    (task,) = label_studio.tasks([item(gappy, 2)], "t")
    assert task["data"]["choices"] == [{"value": "A. x"}, {"value": "C. z"}]
    found, problems = label_studio.read(written(tmp_path, [annotated(task, 1, "C. z")]), [gappy])
    assert ([one.answer for one in found], problems) == ([2], [])
    _, problems = label_studio.read(written(tmp_path, [annotated(task, 1, "B. ")]), [gappy])
    assert "'B. ' is none of the 2 choices" in problems[0]


def test_each_task_without_an_answer_is_said_in_a_line_and_the_others_go_through(tmp_path: Path) -> None:
    wanted = [question(f"q{number}") for number in range(9)]
    made = label_studio.tasks([item(one) for one in wanted], "t")
    export = [
        annotated(made[0], 1, "A. x"),
        annotated(made[1], 2, "A. x", "B. y"),
        {**annotated(made[2], 3, "A. x"), "annotations": [{"was_cancelled": True, "result": []}]},
        annotated(made[3], 4, "D. w"),
        annotated({"data": made[4]["data"] | {"question_id": "no\nsuch"}}, 5, "A. x"),
        annotated(made[5], 6),
        {**annotated(made[6], 7), "annotations": [{"result": []}]},
        annotated(made[7], 8, "C. z", "C. z"),
        {**annotated(made[8], 9), "annotations": [{"result": [label_studio._result("A. x")] * 2}]},
        ["nothing"],
    ]
    found, problems = label_studio.read(written(tmp_path, export, "utf-8-sig"), wanted)
    assert [(one.id, one.answer) for one in found] == [("q0", 0), ("q7", 2)]
    assert all(one.origin.answer == "human" for one in found)
    said = [problem.removeprefix(f"{tmp_path / 'export.json'}: ") for problem in problems]
    assert [line.split(":")[0] for line in said] == [
        "task 3 (id q2)", "task 4 (id q3)", "task 5 (id no\\nsuch)", "task 6 (id q5)", "task 7 (id q6)",
        "task 9 (id q8)", "task 10 (id None)", "question (id q1)",
    ]  # fmt: skip
    assert "was skipped" in said[0]
    assert "'D. w' is none of the 3 choices" in said[1]
    assert "no question of this step" in said[2]
    assert "has not been annotated" in said[3]
    assert "without an answer" in said[4]
    assert "several answers" in said[5]
    assert "annotators disagree: A (task 2), B (task 2)" in said[7]
    assert not any("\n" in line for line in said)


def test_annotators_who_disagree_over_records_of_json_min_are_found_too(tmp_path: Path) -> None:
    (task,) = label_studio.tasks([item(question())], "t")
    found, problems = label_studio.read(
        written(tmp_path, [minimal(task, 1, "A. x"), minimal(task, 1, "B. y")]), [question()]
    )
    assert found == []
    assert len(problems) == 1
    assert "disagree" in problems[0]


def test_who_skips_a_task_does_not_disagree(tmp_path: Path) -> None:
    (task,) = label_studio.tasks([item(question())], "t")
    export = annotated(task, 1, "B. y")
    export["annotations"].append({"was_cancelled": True, "result": [label_studio._result("A. x")]})
    found, problems = label_studio.read(written(tmp_path, [export]), [question()])
    assert ([one.answer for one in found], problems) == ([1], [])


@pytest.mark.parametrize(("text", "says"), [("{}", "no list of tasks"), ("[", "not valid JSON"), ("\xff", "UTF-8")])
def test_a_file_that_is_no_export_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "export.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=says):
        label_studio.read(path, [question()])
