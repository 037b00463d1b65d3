"""What a run would cost, before it is started: calls, tokens and money of its teachers."""

from collections.abc import Iterable

from services.cli.collect import read_rows
from shared.contracts import LABEL_CALLS, LabelRecipe
from shared.errors import UsageError
from shared.pipeline import Plan
from shared.prices import Prices, expected_tokens, prices
from shared.run import NodeState, Runs
from shared.schema import Clip, Frozen, Question
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
    """The label steps of a plan. What has a result is left out; what the journal holds already is not looked up."""
    state = Runs(store).state("", plan)
    return [_label(store, node, prices()) for node in state.nodes if node.node.stage == "label"]


def _label(store: Store, state: NodeState, table: Prices) -> Estimate:
    recipe = LabelRecipe.model_validate(state.node.recipe)
    parts = tuple(part for task in state.open for part in task.inputs["data"])
    questions, clips = read_rows(store, parts)
    asked = [question for question in questions if question.answer is None or recipe.answered == "ask"]
    expected = [_tokens(question, clips[question.clip], recipe) for question in asked]
    costs = [table.usd(recipe.teacher.model, *tokens) for tokens in expected]
    most = 1 + recipe.extra_rounds
    return Estimate(
        step=state.node.name,
        model=recipe.teacher.model,
        questions=len(asked),
        clips=len({question.clip for question in asked}),
        calls=_bounds([1] * len(asked), most),
        tokens_in=_bounds((tokens[0] for tokens in expected), most),
        tokens_out=_bounds((tokens[1] for tokens in expected), most),
        usd=None if None in costs else _bounds((cost for cost in costs if cost is not None), most),
    )


def _tokens(question: Question, clip: Clip, recipe: LabelRecipe) -> tuple[int, int]:
    text = len(question.text) + sum(len(choice.text) for choice in question.choices)
    return expected_tokens(clip.seconds, recipe.teacher, _PROMPT_CHARS + text)


def _bounds(each: Iterable[float], rounds: int) -> Bounds:
    low = LABEL_CALLS * sum(each)
    return Bounds(low=low, high=low * rounds)


def check_limit(plan: Plan) -> None:
    """A limit in money holds only where the price is known.

    Raises:
        UsageError: names the step and its model.
    """
    if plan.limits.teacher_usd is None:
        return
    for node in plan.nodes:
        model = node.recipe["teacher"]["model"] if node.stage == "label" else None
        if model is not None and model not in prices().models:
            raise UsageError(
                f"limits.teacher_usd: {model} (steps.{node.name}) has no price; add it to a copy of shared/prices.yaml"
                " and name that in ROADQA_PRICES, or take the limit out"
            )
