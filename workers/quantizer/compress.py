"""The llm-compressor side: a model in, its text tower quantised in place, and the save."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

# Read when they are imported: the child's stderr is kept as the cause of a failure, not as a film of bars.
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("LLM_COMPRESSOR_LOG_LEVEL", "ERROR")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from compressed_tensors.utils import patch_attr
from llmcompressor import oneshot
from llmcompressor.pipelines.cache import IntermediatesCache
from torch.utils.data import DataLoader
from transformers import Qwen3VLForConditionalGeneration

from shared.context import Context
from shared.contracts import QuantizeRecipe
from shared.errors import InputError, RoadQAError
from workers.quantizer import recipes
from workers.quantizer.encoded import Encoded
from workers.quantizer.reporting import AWQ, DECODER_LAYER, GPTQ, MODIFIERS, Rounding, guarded, not_finite


def load(source: Path, recipe: QuantizeRecipe) -> Qwen3VLForConditionalGeneration:
    """The model in main memory: llm-compressor brings layers to an accelerator one by one.

    In bfloat16, but where rows run through it on a CPU: without AVX-512 that takes many times as long as float32.

    Raises:
        InputError: a weight is not finite.
    """
    on_cpu = recipe.calibrated and not torch.accelerator.is_available()
    dtype = torch.float32 if on_cpu else torch.bfloat16
    model = Qwen3VLForConditionalGeneration.from_pretrained(source, dtype=dtype, local_files_only=True).eval()
    if wrong := not_finite(model):
        raise InputError(f"{wrong}: holds NaN or infinity: the training that made it went astray; lower its rate")
    return model


def compress(
    model: Qwen3VLForConditionalGeneration, recipe: QuantizeRecipe, rows: Encoded | None, ctx: Context
) -> None:
    """Quantise `model` in place; `rows` calibrate it.

    Each layer is brought to the accelerator alone, every row's activations between two layers wait in main memory.

    Raises:
        InputError: activations are not finite; names layer and row.
        RoadQAError: what came out is not finite; names the tensor.
        Stopped: `ctx.stopping` was set.
    """
    with _cpu_ways(), guarded(model, rows.questions, ctx) if rows else nullcontext():
        oneshot(
            model=model,
            recipe=_modifiers(recipe, ctx),
            dataset=DataLoader(rows, batch_size=None) if rows else None,
            sequential_targets=[DECODER_LAYER],
        )
    if wrong := not_finite(model):
        raise RoadQAError(f"{recipe.scheme} made NaN or infinity of {wrong}; choose another scheme, or more rows")


def _modifiers(recipe: QuantizeRecipe, ctx: Context) -> list[AWQ | Rounding | GPTQ]:
    made = []
    for name, arguments in recipes.modifiers(recipe).items():
        # Cached activations are far larger than the weights (rows × visual tokens): keep them in main memory.
        where = {"offload_device": torch.device("cpu")} if MODIFIERS[name] is AWQ else {}
        modifier = MODIFIERS[name](**arguments, **where)
        modifier._ctx = ctx
        made.append(modifier)
    return made


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
    """Write config.json and the packed tensors; llm-compressor's recipe.yaml is what was given it, as it read it."""
    if model.dtype != torch.bfloat16:  # nvfp4a16's global scales stay float32
        model.to(torch.bfloat16)
    model.save_pretrained(out, save_compressed=True)
