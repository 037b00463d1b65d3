"""From an answer back to the votes and the clip: what `tracing.trace` found, as trees."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group
from rich.text import Text
from rich.tree import Tree

from services.cli import words
from services.cli.render import plain
from shared.prompts import letter
from shared.schema import Label, Prediction, Question, Vote

_SHORT = 12  # characters of an artifact id that are shown

Artifact = Mapping[str, Any]  #: kind, stage, recipe, inputs, size_bytes


def trace_view(trace: Mapping[str, Any]) -> Group:
    """The rows on the question, where one was asked for, then the lineage of every root."""
    shown: set[str] = set()
    rows = [row_tree(found) for found in trace["question"]]
    return Group(*rows, *(lineage_tree(trace["artifacts"], root, shown) for root in trace["roots"]))


def lineage_tree(graph: Mapping[str, Artifact], root: str, shown: set[str] | None = None) -> Tree:
    """Everything that `root` was made from; what is in `shown` already is named, not repeated."""
    tree = Tree(_artifact(root, graph[root]), guide_style="dim")
    _grow(tree, graph, root, set() if shown is None else shown)
    return tree


def _grow(tree: Tree, graph: Mapping[str, Artifact], artifact: str, shown: set[str]) -> None:
    if artifact in shown:
        tree.add(Text("shown above", style="dim"))
        return
    shown.add(artifact)
    for name, sources in graph[artifact]["inputs"].items():
        for source in sources:
            branch = tree.add(Text.assemble((f"{name}: ", "dim"), _artifact(source, graph[source])))
            if graph[source]["inputs"]:
                _grow(branch, graph, source, shown)


def _artifact(artifact: str, held: Artifact) -> Text:
    made = f"made by {held['stage']}" if held["stage"] else "imported"
    recipe = " ".join(f"{key}={value}" for key, value in held["recipe"].items() if not isinstance(value, dict | list))
    size = words.size(held["size_bytes"])
    return Text.assemble((held["kind"], "bold"), f" {artifact[:_SHORT]}, {made}, {size}", (f"  {recipe}", "dim"))


def row_tree(found: Mapping[str, Any]) -> Tree:
    """One row on a question: the question itself, the teacher's label with its votes, or a model's prediction."""
    where = f"  {found['table']} of {found['artifact'][:_SHORT]}"
    match found["table"]:
        case "labels.jsonl":
            title, lines = _label(Label.model_validate(found["row"]))
        case "predictions.jsonl":
            title, lines = _prediction(Prediction.model_validate(found["row"]))
        case "calibration.jsonl":
            title, lines = f"calibrated the model (clip {found['row']['clip'][:_SHORT]})", iter(())
        case _:
            title, lines = _question(Question.model_validate(found["row"]))
    tree = Tree(Text.assemble((plain(title), "bold"), (where, "dim")), guide_style="dim")
    for line in lines:
        tree.add(Text(plain(line)))
    return tree


def _question(question: Question) -> tuple[str, Iterator[str]]:
    choices = (
        f"{letter(i)}. {choice.text}{'  ← answer' * (i == question.answer)}"
        for i, choice in enumerate(question.choices)
    )
    origin = question.origin
    source = f" from {origin.parent} by {origin.rule}" if origin.parent else ""
    return f"{question.id}: {question.text} (clip {question.clip[:_SHORT]}, {origin.answer}{source})", choices


def _label(label: Label) -> tuple[str, Iterator[str]]:
    votes = [*label.votes, *([label.verification] if label.verification else [])]
    agreed = f"{words.percent(label.agreement)} agree"
    return f"label {label.status}: {_letter(label.answer)}, {agreed}: {label.reason}", map(_vote, votes)


def _prediction(prediction: Prediction) -> tuple[str, Iterator[str]]:
    shares = (f"{letter(i)}: log-probability {value:.3f}" for i, value in enumerate(prediction.logprobs))
    return f"predicted {_letter(prediction.choice)}", shares


def _vote(vote: Vote) -> str:
    problem = f" ({vote.problem})" if vote.problem else ""
    return f"{vote.prompt}, round {vote.round}: {_letter(vote.choice)}{problem}  {vote.reasoning}"


def _letter(choice: int | None) -> str:
    return "no answer" if choice is None else letter(choice)
