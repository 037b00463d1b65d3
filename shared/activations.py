"""What the forward pass of a Qwen3-VL keeps for its backward pass, in bytes, from config.json alone.

Counted operation by operation, as transformers 5.17 writes them and autograd saves them: a product with a weight keeps
its input where the weight has a gradient, RMSNorm a float32 copy, SiLU, GELU and attention their inputs, a dropout
before an adapter its output and its mask. Under gradient checkpointing only each layer's input stays, and one layer at
a time is computed again.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

FLOAT32, MASK = 4, 1
PIXELS = 4  #: bytes a value of the clips' patches: the collator's float32
LOGITS = 10  #: bytes a logit at the loss: as computed, in float32, as log-probabilities; measured 8.8 to 10.7 on CUDA


class Batch(NamedTuple):
    """A micro-batch, padded to its longest row."""

    rows: int
    tokens: int  #: of a row, the visual ones among them
    visual: int  #: visual tokens of a row


class Kept(NamedTuple):
    """How a part of the model is trained."""

    weights: bool  #: its weights have gradients
    adapters: bool  #: it has LoRA
    dropout: bool = False  #: before the adapters


class Ways(NamedTuple):
    """How the step is computed."""

    value: int  #: bytes of a number: 2 in bfloat16, 4 in float32
    checkpointing: bool
    fused: bool  #: Liger's kernels
    cuda: bool

    @property
    def mask(self) -> int:
        """Bytes of a dropout's mask, a number: CUDA's kernel has booleans, the CPU's multiplies."""
        return MASK if self.cuda else self.value


class Sizes(NamedTuple):
    """The widths that decide."""

    hidden: int
    inner: int
    queries: int
    keys: int
    heads: int
    layers: int
    vocabulary: int
    vision_hidden: int
    vision_inner: int
    vision_heads: int
    depth: int
    cell: int  #: patches merged into one visual token
    mergers: int
    pixels: int  #: values of a patch


def sizes(config: Mapping[str, Any]) -> Sizes:
    """The widths of a config.json that `geometry.shapes` takes."""
    text, vision = config["text_config"], config["vision_config"]
    heads = text["num_attention_heads"]
    head = text.get("head_dim") or text["hidden_size"] // heads
    return Sizes(
        hidden=text["hidden_size"],
        inner=text["intermediate_size"],
        queries=heads * head,
        keys=(text.get("num_key_value_heads") or heads) * head,
        heads=heads,
        layers=text["num_hidden_layers"],
        vocabulary=text["vocab_size"],
        vision_hidden=vision["hidden_size"],
        vision_inner=vision["intermediate_size"],
        vision_heads=vision["num_heads"],
        depth=vision["depth"],
        cell=vision["spatial_merge_size"] ** 2,
        mergers=1 + len(vision["deepstack_visual_indexes"]),
        pixels=vision["in_channels"] * vision["temporal_patch_size"] * vision["patch_size"] ** 2,
    )


def peak(s: Sizes, batch: Batch, ways: Ways, vision: Kept, projector: Kept, language: Kept) -> float:
    """The most that is held at once beside weights, gradients and optimiser, over the step's phases."""
    tokens, visual = batch.rows * batch.tokens, batch.rows * batch.visual
    patches = visual * s.cell
    tower = any(vision[:2])
    joined = tower or any(projector[:2])

    inputs: float = patches * s.pixels * _pixels(ways, vision)
    inputs += tokens * s.hidden * (ways.value + MASK)  # embeddings, and where clips go among them
    inputs += visual * s.mergers * s.hidden * ways.value  # what the vision tower gives
    if batch.rows > 1:  # rows of unlike length are masked: as booleans, and as the kernel's bias
        inputs += batch.rows * batch.tokens**2 * (MASK + ways.value)
    merging = visual * s.mergers * _merger(s, ways, projector) if joined else 0.0

    each = _block(s, ways, vision)
    block, layer = patches * each, tokens * _layer(s, ways, language)
    blocks: float = patches * s.vision_hidden * ways.value * s.depth  # inputs of each
    layers: float = tokens * s.hidden * ways.value * s.layers
    if not tower:
        block, blocks = 0.0, 0.0
    if not ways.checkpointing:
        block, blocks, layer, layers = 0.0, blocks + s.depth * block, 0.0, layers + s.layers * layer
    stored = inputs + merging + blocks
    tower_last = patches * s.pixels * _pixels(ways, vision) + merging * (s.mergers - 1) / s.mergers + blocks
    return max(
        stored + layers + _loss(s, tokens, ways, language),
        stored + layers + layer + tokens * ways.value * (3 * s.inner + 2 * s.hidden),
        tower_last + patches * _block_works(s, ways, each if ways.checkpointing else 0.0, tower),
    )


def _pixels(ways: Ways, vision: Kept) -> int:
    """Bytes a value of the clips: as collated, cast to the weights' type; the next batch waits in main memory."""
    cast = ways.value if ways.value != FLOAT32 or vision.weights else 0
    return PIXELS + cast if ways.cuda else 2 * PIXELS + cast


def _layer(s: Sizes, ways: Ways, kept: Kept) -> float:
    """A decoder layer's, a token, its input apart."""
    v, w = ways.value, kept.weights
    copies = v == FLOAT32  # RMSNorm works on the tensor itself, not on a float32 copy
    found: float = v * 2 * (s.queries + s.keys) + FLOAT32 * s.heads  # attention
    found += v * (2 if ways.fused else 3) * s.inner  # gate and up; without Liger the activated gate too
    if ways.fused:
        found += v * (s.hidden + s.queries + s.keys)  # the second norm's input, those of the heads' norms
    elif copies:
        found += v * (s.hidden + s.queries + s.keys)
    else:
        found += FLOAT32 * (2 * s.hidden + s.queries + s.keys)
    if w:
        found += v * (2 * s.hidden + s.inner)  # inputs of q, k, v; of gate, up; of down. Attention's output is o's
        found += 0 if ways.fused else v * (2 * s.hidden + s.queries + s.keys)  # normalised, for the norms' own weights
    if kept.adapters:
        found += _adapters(
            ways, kept, (3 * s.hidden, s.queries, 2 * s.hidden, s.inner), (s.hidden, s.queries, s.hidden, s.inner)
        )
    return found


def _block(s: Sizes, ways: Ways, kept: Kept) -> float:
    """A block of the vision tower's, a patch, its input apart."""
    v = ways.value
    found: float = v * 6 * s.vision_hidden + FLOAT32 * s.vision_heads  # attention: q, k turned, qkv for v, its output
    found += v * (s.vision_hidden + s.vision_inner)  # the second norm's input, GELU's
    if kept.weights:
        found += v * (3 * s.vision_hidden + s.vision_inner)
    if kept.adapters:
        widths = (s.vision_hidden, s.vision_hidden, s.vision_hidden, s.vision_inner)
        found += _adapters(ways, kept, widths, widths)
    return found


def _block_works(s: Sizes, ways: Ways, saved: float, trained: bool) -> float:
    """The most that a block of the tower holds, a patch: at its MLP's gradients, or turning heads in float32."""
    v, hidden = ways.value, s.vision_hidden
    turning = v * 3 * hidden + FLOAT32 * 6 * hidden
    if not trained:
        return turning + v * 2 * hidden
    return max(saved + v * 2 * (s.vision_inner + hidden), turning + v * 6 * hidden)


def _merger(s: Sizes, ways: Ways, kept: Kept) -> float:
    """A merger's, a visual token."""
    v, width = ways.value, s.vision_hidden * s.cell
    found = v * 2.0 * width  # the norm's input and GELU's
    if kept.weights:
        found += v * 2 * width
    if kept.adapters:
        found += _adapters(ways, kept, (width, width), (width, width))
    return found


def _adapters(ways: Ways, kept: Kept, dropped: tuple[int, ...], shared: tuple[int, ...]) -> float:
    """Inputs of adapters: each its own behind a dropout, one for those that share it without."""
    return (ways.value + ways.mask) * sum(dropped) if kept.dropout else ways.value * sum(shared)


def _loss(s: Sizes, tokens: int, ways: Ways, kept: Kept) -> float:
    """What the loss holds: all logits, or with Liger a piece of them at a time."""
    if not ways.fused:
        return tokens * s.vocabulary * LOGITS + tokens * s.hidden * ways.value
    pieces = -(-s.vocabulary // s.hidden)
    rows = 1 << (-(-tokens // pieces) - 1).bit_length()  # as liger_kernel.ops.fused_linear_cross_entropy cuts them
    head = s.vocabulary * s.hidden * ways.value if kept.weights else 0
    return min(rows, tokens) * s.vocabulary * (ways.value + FLOAT32) + tokens * s.hidden * ways.value + head
