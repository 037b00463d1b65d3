"""The stock model's arithmetic, batched: equal video chunks in one attention call, precomputed positions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionAttention, apply_rotary_pos_emb_vision

from services.sandbox.tiny.packing import GRID, Batch

CHUNK = GRID[1] * GRID[2]  #: patches of one temporal patch: each attends only within itself


def _attend_in_chunks(
    self: Qwen3VLVisionAttention,
    hidden_states: Tensor,
    cu_seqlens: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    **_: object,
) -> Tensor:
    tokens = hidden_states.shape[0]
    query, key, value = self.qkv(hidden_states).reshape(tokens, 3, self.num_heads, -1).unbind(1)
    query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
    heads = [x.view(-1, CHUNK, self.num_heads, self.head_dim).transpose(1, 2) for x in (query, key, value)]
    mixed = nn.functional.scaled_dot_product_attention(*heads)
    return self.proj(mixed.transpose(1, 2).reshape(tokens, -1))


def use_equal_chunks() -> None:
    """Replace, in this process, the loop over video chunks by one call; right only where all have `CHUNK` patches."""
    Qwen3VLVisionAttention.forward = _attend_in_chunks


def see(model: Qwen3VLForConditionalGeneration, pixels: Tensor, clips: int) -> tuple[Tensor, Sequence[Tensor]]:
    """Visual tokens [clips · 24, hidden], and the deep-stack features that join after the first layers."""
    seen = model.model.visual(pixels, grid_thw=torch.tensor([GRID] * clips))
    return seen.pooler_output, seen.deepstack_features


def answer_states(
    model: Qwen3VLForConditionalGeneration, batch: Batch, visual: Tensor, deep: Sequence[Tensor] | None
) -> Tensor:
    """Logits [N, vocabulary] at the N labelled places, row by row."""
    embedded = model.model.language_model.embed_tokens(batch.ids)
    embedded = embedded.masked_scatter(batch.visual[..., None], visual.to(embedded.dtype))
    hidden = model.model.language_model(
        inputs_embeds=embedded,
        position_ids=batch.positions,
        attention_mask=batch.mask,
        visual_pos_masks=batch.visual,
        deepstack_visual_embeds=deep,
        use_cache=False,
    ).last_hidden_state
    return model.lm_head(hidden[batch.labels != -100])
