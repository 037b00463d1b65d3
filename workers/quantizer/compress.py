"""The llm-compressor side: its modifiers, taught to report, to stop, and to run without an accelerator."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Read when they are imported: the child's stderr is kept as the cause of a failure, not as a film of bars.
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("LLM_COMPRESSOR_LOG_LEVEL", "WARNING")

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.utils import patch_attr
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.modifiers.transform.awq.mappings import AWQMapping, ResolvedMapping
from llmcompressor.pipelines.cache import IntermediatesCache
from pydantic import PrivateAttr
from torch.utils.data import DataLoader
from transformers import Qwen3VLForConditionalGeneration

from shared.context import Context
from shared.contracts import QuantizeRecipe
from shared.errors import Stopped

#: Modules that stay in 16 bits. Quantising the vision tower costs accuracy for little speed.
DECODER_LAYER = "Qwen3VLTextDecoderLayer"
IGNORE = ["lm_head", r"re:.*visual\..*"]
LAYER = r"re:.*language_model\.layers\.\d+\."
#: llm-compressor 0.14 has no entry for Qwen3-VL, and its defaults would look into the vision tower too.
#: v_proj → o_proj is left out: grouped-query attention makes their sizes differ, so it can never be balanced.
MAPPINGS = [
    AWQMapping(f"{LAYER}input_layernorm$", [f"{LAYER}self_attn.{name}_proj$" for name in "qkv"]),
    AWQMapping(f"{LAYER}post_attention_layernorm$", [f"{LAYER}mlp.gate_proj$", f"{LAYER}mlp.up_proj$"]),
    AWQMapping(f"{LAYER}mlp.up_proj$", [f"{LAYER}mlp.down_proj$"]),
]


class ReportingAWQ(AWQModifier):
    """AWQ that reports each balanced group of weights, and stops between them."""

    _ctx: Context = PrivateAttr()
    _done: int = PrivateAttr(default=0)

    def _compute_best_scale(self, mapping: ResolvedMapping, *args: Any) -> torch.Tensor:
        _heed(self._ctx)
        scales = super()._compute_best_scale(mapping, *args)
        self._done += 1
        error = self._error_metrics[-1]["reduction"]  # of the output, against rounding without AWQ
        self._ctx.progress(self._done, len(self._resolved_mappings), "weight groups", error_ratio=round(error, 4))
        return scales


class ReportingQuantization(QuantizationModifier):
    """Weight quantisation that takes the text tower layer by layer, reports each, and stops between them."""

    _ctx: Context = PrivateAttr()
    _done: int = PrivateAttr(default=0)

    def on_sequential_epoch_end(self, state: Any, event: Any, modules: list[torch.nn.Module], **kwargs: Any) -> None:
        total = len(state.model.model.language_model.layers)
        for layer in (module for module in modules if type(module).__name__ == DECODER_LAYER):
            _heed(self._ctx)
            super().on_sequential_epoch_end(state, event, modules=list(layer.modules()), **kwargs)
            self._done += 1
            self._ctx.progress(self._done, total, "layers")


def _heed(ctx: Context) -> None:
    if ctx.stopping:
        raise Stopped("stopped between layers; a new attempt quantises from the start")


def load(source: Path, scheme: str) -> Qwen3VLForConditionalGeneration:
    """The model in main memory: llm-compressor brings layers to an accelerator one by one.

    In bfloat16, but where awq has to run it on a CPU: without AVX-512 that takes many times as long as float32.
    """
    on_cpu = scheme == "awq" and not torch.accelerator.is_available()
    dtype = torch.float32 if on_cpu else torch.bfloat16
    return Qwen3VLForConditionalGeneration.from_pretrained(source, dtype=dtype).eval()


def compress(
    model: Qwen3VLForConditionalGeneration, recipe: QuantizeRecipe, batches: list[dict[str, torch.Tensor]], ctx: Context
) -> None:
    """Quantise `model` in place; `batches` calibrate awq.

    Raises:
        Stopped: `ctx.stopping` was set.
    """
    modifiers = _modifiers(recipe)
    for modifier in modifiers:
        modifier._ctx = ctx
    with _cpu_ways():
        oneshot(
            model=model,
            recipe=modifiers,
            dataset=DataLoader(batches, batch_size=None) if batches else None,
            sequential_targets=[DECODER_LAYER],
        )


def _modifiers(recipe: QuantizeRecipe) -> list[ReportingAWQ | ReportingQuantization]:
    if recipe.scheme == "fp4":
        return [ReportingQuantization(targets="Linear", scheme="NVFP4A16", ignore=IGNORE)]
    weights = QuantizationArgs(num_bits=4, type="int", symmetric=False, strategy="group", group_size=recipe.group_size)
    groups = {"group_0": QuantizationScheme(targets=["Linear"], weights=weights)}
    # Cached activations are far larger than the weights (rows × visual tokens): keep them in main memory.
    balance = ReportingAWQ(mappings=MAPPINGS, offload_device=torch.device("cpu"))
    return [balance, ReportingQuantization(config_groups=groups, ignore=IGNORE)]


@contextmanager
def _cpu_ways() -> Iterator[None]:
    """Where there is no accelerator: no pinned memory, one thread. Elsewhere nothing changes.

    AWQ pins cached activations for faster copies to an accelerator, which torch refuses without one.
    Its thousands of small products gain nothing from a second thread, and on a busy machine the
    threads' waiting for each other made it nine times slower. One thread also gives the same bytes each time.
    """
    if torch.accelerator.is_available():
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with patch_attr(IntermediatesCache, "pin_memory", lambda *_: None):
            yield
    finally:
        torch.set_num_threads(threads)


def save(model: Qwen3VLForConditionalGeneration, out: Path) -> None:
    """Write config.json and the packed tensors; card.json stands for llm-compressor's own recipe.yaml."""
    if model.dtype != torch.bfloat16:  # fp4's global scales stay float32
        model.to(torch.bfloat16)
    model.save_pretrained(out, save_compressed=True)
    (out / "recipe.yaml").unlink()
