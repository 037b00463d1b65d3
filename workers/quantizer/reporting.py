"""llm-compressor's modifiers, taught to report, and to stop; and a guard against numbers that are none."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.modifiers.transform.awq.mappings import ResolvedMapping
from pydantic import PrivateAttr

from shared.context import Context
from shared.errors import InputError, Stopped
from shared.schema import Question

if TYPE_CHECKING:
    from transformers import Qwen3VLForConditionalGeneration

DECODER_LAYER = "Qwen3VLTextDecoderLayer"


def heed(ctx: Context) -> None:
    """Raise `Stopped` where the work should be put down."""
    if ctx.stopping:
        raise Stopped("stopped between layers; a new attempt quantises from the start")


class AWQ(AWQModifier):
    """AWQ that reports each balanced group of weights, and stops between them."""

    _ctx: Context = PrivateAttr()
    _done: int = PrivateAttr(default=0)

    def _compute_best_scale(self, mapping: ResolvedMapping, *args: Any) -> torch.Tensor:
        heed(self._ctx)
        scales = super()._compute_best_scale(mapping, *args)
        self._done += 1
        error = self._error_metrics[-1]["reduction"]  # of the output, against rounding without AWQ
        self._ctx.progress(self._done, len(self._resolved_mappings), "weight groups", error_ratio=round(error, 4))
        return scales


class _ByLayer:
    """Takes the text tower layer by layer, reports each, and stops between them.

    No pydantic model itself: its defaults for a modifier's fields would win over those of the modifier beside it.
    """

    _ctx: Context
    _done: int

    def on_sequential_epoch_end(self, state: Any, event: Any, modules: list[torch.nn.Module], **kwargs: Any) -> None:
        total = len(state.model.model.language_model.layers)
        for layer in (module for module in modules if type(module).__name__ == DECODER_LAYER):
            heed(self._ctx)
            super().on_sequential_epoch_end(state, event, modules=list(layer.modules()), **kwargs)  # type: ignore[misc]
            self._done += 1
            self._ctx.progress(self._done, total, "layers")


class Rounding(_ByLayer, QuantizationModifier):
    """Rounding to nearest, layer by layer."""

    _ctx: Context = PrivateAttr()
    _done: int = PrivateAttr(default=0)


class GPTQ(_ByLayer, GPTQModifier):
    """GPTQ, layer by layer."""

    _ctx: Context = PrivateAttr()
    _done: int = PrivateAttr(default=0)


#: llm-compressor's names → ours.
MODIFIERS: dict[str, type[AWQ | Rounding | GPTQ]] = {
    "AWQModifier": AWQ,
    "QuantizationModifier": Rounding,
    "GPTQModifier": GPTQ,
}


def not_finite(model: "Qwen3VLForConditionalGeneration") -> str | None:
    """The first of the model's tensors that holds NaN or infinity, None where none does."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
            return name
    return None


@contextmanager
def guarded(model: "Qwen3VLForConditionalGeneration", questions: Sequence[Question], ctx: Context) -> Iterator[None]:
    """While rows pass through: stop between two of them, and refuse one whose activations are not finite.

    Each layer sees the rows in order, once to calibrate and once more when it is quantised.

    Raises:
        InputError: names the layer and the row.
        Stopped: `ctx.stopping` was set.
    """
    handles, seen = [], [0] * len(model.model.language_model.layers)

    def check(number: int, _: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        heed(ctx)
        question = questions[seen[number] % len(questions)]
        seen[number] += 1
        if number == 0 and not torch.isfinite(inputs[0]).all():
            raise InputError(_not_finite("the embeddings", question))
        hidden = output[0] if isinstance(output, tuple) else output
        if not torch.isfinite(hidden).all():
            raise InputError(_not_finite(f"layer {number}", question))

    for number, layer in enumerate(model.model.language_model.layers):
        handles.append(layer.register_forward_hook(partial(check, number)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _not_finite(where: str, question: Question) -> str:
    return (
        f"calibration: NaN or infinity comes out of {where} at question {question.id} (clip {question.clip[:12]}): look"
        " at that clip; if there is nothing wrong with it, the checkpoint overflows: train it anew at a lower rate"
    )
