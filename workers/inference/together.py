"""A question's answer out of all that were given to it: the mean of their probabilities, or the most frequent."""

import math
from collections import Counter
from collections.abc import Sequence

from shared.contracts import Asking
from shared.errors import InputError
from shared.schema import Ballot, Prediction, Question
from workers.inference.ahead import Put
from workers.inference.engines import Answer


def prediction(answers: Sequence[tuple[Put, Answer]], asking: Asking, seconds: float) -> Prediction:
    """What the answers to one question say together: the best choice that was shown, the first of equals.

    Raises:
        InputError: the model does not compute numbers.
    """
    question = answers[0][0].question
    if any(math.isnan(each) for _, answer in answers for each in answer.logprobs):
        raise InputError(
            f"question {question.id}: the model's log-probabilities are no numbers: its weights are damaged, or unfit"
            " for the type that it computes in; fetch it again, or train and quantise it anew"
        )
    ballots = [ballot(put, answer) for put, answer in answers]
    logprobs = mean([each.logprobs for each in ballots])
    votes = Counter(each.choice for each in ballots) if asking.vote == "majority" else Counter[int]()
    return Prediction(
        question=question.id,
        choice=max(question.offered, key=lambda choice: (votes[choice], logprobs[choice])),
        logprobs=logprobs,
        prompt_tokens=answers[0][1].prompt_tokens,
        seconds=seconds,
        ballots=tuple(ballots) if len(ballots) > 1 or asking.reasoning else (),
    )


def ballot(put: Put, answer: Answer) -> Ballot:
    """An answer in the question's own order of choices."""
    logprobs = tuple(answer.logprobs[put.order.index(choice)] for choice in range(len(put.order)))
    return Ballot(
        order=put.order,
        choice=likeliest(put.question, logprobs),
        logprobs=logprobs,
        reasoning=answer.reasoning,
        reasoning_tokens=answer.reasoning_tokens,
    )


def likeliest(question: Question, logprobs: Sequence[float]) -> int:
    """The most probable choice that was shown, the first of equals."""
    return max(question.offered, key=logprobs.__getitem__)


def mean(logprobs: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """Logarithms of the choices' mean probabilities."""
    if len(logprobs) == 1:
        return logprobs[0]
    return tuple(_log_mean(each) for each in zip(*logprobs, strict=True))


def _log_mean(logs: Sequence[float]) -> float:
    """log of the mean of exp: of the largest one's multiples, for exp of the rest may be nothing."""
    largest = max(logs)
    if largest == -math.inf:
        return largest
    return largest + math.log(math.fsum(math.exp(each - largest) for each in logs) / len(logs))
