"""What a training step holds on one device, in bytes, from config.json and the recipe alone.

Weights, gradients and optimiser follow DeepSpeed 0.19's ZeRO, activations transformers' Qwen3-VL (`activations`). Two
tests hold the sums to what was measured: the GPU rows of `benchmarks/results/training_gpu.json` (one device, ZeRO-2),
and steps of the sandbox's model on a CPU. Several devices, ZeRO-3 and offload on CUDA are arithmetic, not measured.
"""

import re
from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple, get_args

from shared import activations, geometry, modules
from shared.activations import Batch
from shared.contracts import ModuleName, TrainRecipe

VALUE = {"bfloat16": 2, "float32": 4}  #: bytes of a weight or gradient
FLOAT32, MOMENTS = 4, 8  #: bytes a parameter: DeepSpeed's master weights, AdamW's two moments
#: Elements of DeepSpeed's buffers and limits, all its own defaults (`deepspeed/runtime/zero/config.py`).
BUCKET, LIVE, PREFETCH, SUB_GROUP = 500_000_000, 1_000_000_000, 50_000_000, 1_000_000_000

_NO_ADAPTER = re.compile(r"(^|\.)(patch_embed\.proj|pos_embed|embed_tokens|lm_head)$")


class Footprint(NamedTuple):
    """Bytes on one device. Gradients and activations are held together; `step` is the optimiser's, after them."""

    weights: float
    optimiser: float  #: master weights and moments
    gradients: float
    buckets: float  #: of communication, and parameters gathered under ZeRO-3
    activations: float
    step: float  #: the most that the optimiser's step holds beside weights and optimiser
    host: float  #: in main memory instead, for each device

    @property
    def peak(self) -> float:
        """The most that is held at once."""
        return self.weights + self.optimiser + max(self.gradients + self.buckets + self.activations, self.step)


class Model(NamedTuple):
    """What of a config.json decides memory."""

    parameters: dict[ModuleName, int]
    layers: dict[str, tuple[int, int]]  #: those that an adapter may go to, by name: out_features, in_features
    sizes: activations.Sizes

    @property
    def total(self) -> int:
        return sum(self.parameters.values())


def model(config: Mapping[str, Any]) -> Model:
    """Read a config.json.

    Raises:
        InputError: it is no qwen3_vl's, or lacks a field.
    """
    shapes = geometry.shapes(config)
    parts: dict[ModuleName, int] = dict.fromkeys(get_args(ModuleName), 0)
    layers = {}
    for name, shape in shapes.items():
        parts[modules.part_of(name)] += prod(shape)
        layer, _, kind = name.rpartition(".")
        if kind == "weight" and len(shape) == 2 and not _NO_ADAPTER.search(layer):
            layers[layer] = (shape[0], shape[1])
    return Model(parts, layers, activations.sizes(config))


class Counts(NamedTuple):
    """Parameters in memory, adapters among them, and those that move."""

    total: int
    trained: int


def counts(of: Model, recipe: TrainRecipe) -> Counts:
    """How many parameters a training has in memory, and how many of them it moves.

    Raises:
        InputError: LoRA's targets mean no layer.
    """
    if recipe.lora is None:
        return Counts(of.total, sum(size for part, size in of.parameters.items() if recipe.trains(part)))
    adapters = recipe.lora.rank * sum(sum(of.layers[name]) for name in modules.adapted(of.layers, recipe))
    return Counts(of.total + adapters, adapters)


#: Checkpoints that stand: a second one, should the newest have been written from weights that had gone wrong.
CHECKPOINTS = 2


def checkpoint_bytes(count: Counts, value: int, adapters_only: bool) -> int:
    """About what a checkpoint of all ranks takes: weights, and of those that move master weights and moments.

    Args:
        value: bytes of a weight.
        adapters_only: the frozen base of a LoRA is left out.
    """
    return value * (count.trained if adapters_only else count.total) + (FLOAT32 + MOMENTS) * count.trained


def footprint(of: Model, recipe: TrainRecipe, devices: int, batch: Batch, cuda: bool = True) -> Footprint:
    """What one of `devices` holds of a training."""
    value = VALUE[recipe.precision]
    checkpointing = cuda if recipe.gradient_checkpointing is None else recipe.gradient_checkpointing
    ways = activations.Ways(value, checkpointing, cuda and recipe.liger, cuda)
    kept = {part: _kept(recipe, part) for part in get_args(ModuleName)}
    held = activations.peak(of.sizes, batch, ways, **kept)
    return _states(recipe.zero, counts(of, recipe), value, devices, cuda)._replace(activations=held)


def _kept(recipe: TrainRecipe, part: ModuleName) -> activations.Kept:
    moves, lora = recipe.trains(part), recipe.lora
    return activations.Kept(moves and lora is None, moves and lora is not None, lora is not None and lora.dropout > 0)


def _states(zero: str, count: Counts, value: int, devices: int, cuda: bool) -> Footprint:
    """All but activations, as DeepSpeed keeps it."""
    stage, offload = int(zero[4]), zero.endswith("offload")
    share = count.trained / (devices if stage else 1)
    copies = FLOAT32 if value < FLOAT32 else 0
    states = share * (MOMENTS + (FLOAT32 if stage or copies else 0))  # ZeRO keeps a master copy of float32 weights too
    gradients = value * (share if stage > 1 else count.trained)
    weights, gathered = float(value * count.total), 0.0
    buckets = float(value * BUCKET * (2 if cuda else 1) if stage else 0)  # two: one travels while the other fills
    working = 0 if cuda else FLOAT32  # AdamW's own, where it is not fused
    # Gradients as they came, under ZeRO in one flat piece too, and that in float32.
    step = share * ((2 * value if stage else value) + copies + (working if stage else 0))
    host = 0.0
    if stage == 3:
        weights, gathered = weights / devices, float(value * min(count.total, LIVE + PREFETCH))
        step = value * share + (FLOAT32 + working) * min(share, SUB_GROUP)
    if offload:  # with the optimiser go its gradients, in float32
        host, states, gradients, step = states + FLOAT32 * share, 0.0, 0.0, 0.0
        if stage == 3:
            host, weights = host + weights, 0.0
    return Footprint(weights, states, gradients, buckets + gathered, 0.0, step, host)
