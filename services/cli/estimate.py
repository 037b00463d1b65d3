"""What a run would cost, before it is started: calls, tokens and money of its teachers."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from services.cli.collect import read_rows
from shared.contracts import (
    AUGMENT_CALLS,
    AUGMENT_TRIES,
    LABEL_CALLS,
    STAGES,
    AugmentRecipe,
    LabelRecipe,
    TeacherRecipe,
)
from shared.errors import UsageError
from shared.pipeline import Node, Plan
from shared.prices import expected_tokens, prices
from shared.run import NodeState, Runs
from shared.schema import Frozen, Question
from shared.store import Store

_PROMPT_CHARS = 800  # of a prompt without its question


class Bounds(Frozen):
    """From one round for each question to as many as the recipe allows."""

    low: float
    high: float


class Estimate(Frozen):
    """One step that asks a teacher."""

    step: str
    model: str
    questions: int  #: still to be asked about
    clips: int
    calls: Bounds
    tokens_in: Bounds
    tokens_out: Bounds
    usd: Bounds | None  #: None where the model has no price


def estimate(store: Store, plan: Plan) -> list[Estimate]:
    """The steps of a plan that are paid for. What has a result is left out; the journal is not looked into.

    Of a step that works on another's output, what that has made so far counts.
    """
    state = Runs(store).state("", plan)
    return [_step(store, node) for node in state.nodes if STAGES[node.node.stage].costs(node.node.recipe)]


class _Asks(NamedTuple):
    """How a step asks its teacher."""

    teacher: TeacherRecipe
    calls: int  #: at least, for each question
    rounds: int  #: as many times that, at most
    video: bool
    wanted: Callable[[Question], bool]


def _asks(node: Node) -> _Asks:
    if node.stage == "label":
        label = LabelRecipe.model_validate(node.recipe)
        wanted: Callable[[Question], bool] = lambda row: row.answer is None or label.answered == "ask"  # noqa: E731
        return _Asks(label.teacher, LABEL_CALLS, 1 + label.extra_rounds, True, wanted)
    recipe = AugmentRecipe.model_validate(node.recipe)
    calls = recipe.per_question * (AUGMENT_CALLS if recipe.gates else 1)
    return _Asks(recipe.teacher, calls, AUGMENT_TRIES if recipe.gates else 1, False, lambda row: row.answer is not None)


def _step(store: Store, state: NodeState) -> Estimate:
    asks = _asks(state.node)
    parts = tuple(part for task in state.open for part in task.inputs["data"])
    questions, clips = read_rows(store, parts)
    asked = [question for question in questions if asks.wanted(question)]
    expected = [_tokens(question, clips[question.clip].seconds if asks.video else 0.0, asks) for question in asked]
    costs = [prices().usd(asks.teacher.model, *tokens) for tokens in expected]
    return Estimate(
        step=state.node.name,
        model=asks.teacher.model,
        questions=len(asked),
        clips=len({question.clip for question in asked}),
        calls=_bounds([1] * len(asked), asks),
        tokens_in=_bounds((tokens[0] for tokens in expected), asks),
        tokens_out=_bounds((tokens[1] for tokens in expected), asks),
        usd=None if None in costs else _bounds((cost for cost in costs if cost is not None), asks),
    )


def _tokens(question: Question, seconds: float, asks: _Asks) -> tuple[int, int]:
    text = len(question.text) + sum(len(choice.text) for choice in question.choices)
    return expected_tokens(seconds, asks.teacher, _PROMPT_CHARS + text)


def _bounds(each: Iterable[float], asks: _Asks) -> Bounds:
    low = asks.calls * sum(each)
    return Bounds(low=low, high=low * asks.rounds)


def check_limit(plan: Plan) -> None:
    """A limit in money holds only where the price is known.

    Raises:
        UsageError: names the step and its model.
    """
    if plan.limits.teacher_usd is None:
        return
    for node in plan.nodes:
        model = node.recipe["teacher"]["model"] if STAGES[node.stage].costs(node.recipe) else None
        if model is not None and model not in prices().models:
            raise UsageError(
                f"limits.teacher_usd: {model} (steps.{node.name}) has no price; add it to a copy of shared/prices.yaml"
                " and name that in ROADQA_PRICES, or take the limit out"
            )
