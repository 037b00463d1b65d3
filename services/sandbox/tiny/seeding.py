"""Attention that starts as a reader of lists: which letter stands before this word, which word is like mine.

A model this small finds the way from an answer to its letter only after thousands of steps, so it
starts with that way laid: the residual stream is cut into blocks, layer 0 writes beside each token
what stood before it and the letter of its line, and later layers have one head that looks for the
line that holds the current content and copies its letter out. Everything trains from there.

RoPE turns pairs of dimensions (i, i + 16) by angles position · θ^(-i/16): the first pairs tell
neighbours apart, the third tells a line from the next, the last hardly turn and carry content.
"""

import math

import torch
from torch import Tensor, nn
from transformers import Qwen3VLForConditionalGeneration

CONTENT = slice(0, 60)  #: a random code for each token
CONSTANT = 60  #: the same in every token: a handle for heads that look by position only
FLAG = 61  #: set in letters that open a line
SEEN = 62  #: set in visual tokens that show something
BEFORE = slice(64, 88)  #: what the token before was
LINE = slice(88, 104)  #: the letter of the line
ANSWER = slice(104, 128)  #: what the unembedding reads

_PAIRS = 16
_NEAR = (0, 1)
_LINE_PAIR = 2
_SLOW = tuple(range(4, 16))
_GAIN = 2.2  #: of query and key norms in layer 0: sharp enough to pick one of sixty tokens
_MATCHING_GAIN = 2.0  #: the same in later layers


def _orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    basis, _ = torch.linalg.qr(torch.randn(columns, rows, generator=generator))
    return basis.T * math.sqrt(columns / rows)


def _look_back(query: Tensor, steps: int, theta: float) -> None:
    """Make `query` [head_dim, hidden] peak at the token `steps` before, for keys that lie along the first of a pair."""
    for pair in _NEAR:
        angle = -steps * theta ** (-pair / _PAIRS)
        query[pair, CONSTANT] = 2 * math.cos(angle)
        query[pair + _PAIRS, CONSTANT] = 2 * math.sin(angle)


@torch.no_grad()
def seed_attention(
    model: Qwen3VLForConditionalGeneration, letters: list[int], silent: list[int], generator: torch.Generator
) -> None:
    """Lay the circuit in place.

    `letters` are the token ids of A, B, C, …; `silent` those of tokens that carry no content of their own, the line
    break above all: the answer is given from one, and what it looks for must be what it has seen.
    """
    text = model.model.language_model
    theta = model.config.text_config.rope_parameters["rope_theta"]
    for parameter in text.layers.parameters():
        if parameter.dim() == 2:
            parameter.normal_(0, 0.02, generator=generator)
    codes = torch.randn(text.embed_tokens.weight.shape[0], 60, generator=generator)
    codes[silent] = 0
    text.embed_tokens.weight.normal_(0, 0.05, generator=generator)
    text.embed_tokens.weight[:, CONTENT] = codes
    text.embed_tokens.weight[:, CONSTANT] = 2
    text.embed_tokens.weight[letters, FLAG] = 4
    read = _orthonormal(32, 60, generator) / 60**0.5 * 2.5
    _first_layer(text.layers[0].self_attn, read, theta, generator)
    write = _orthonormal(16, 24, generator).T * 0.5
    for layer in text.layers[1:]:
        _matching_layer(layer.self_attn, read, write)
    for layer in text.layers[1:2]:
        _looking_layer(layer.self_attn, read)
    model.lm_head.weight.normal_(0, 0.02, generator=generator)
    model.lm_head.weight[:, ANSWER] = codes @ read[:16].T @ write.T * 0.1
    model.lm_head.weight[:, CONTENT] = codes * 0.03


def visual_code(embeddings: Tensor, words: list[int]) -> Tensor:
    """What a visual token that shows `words` (token ids) should be: the sum of their codes, marked as seen."""
    code = torch.zeros(embeddings.shape[1])
    for word in words:
        code += embeddings[word]
    code[CONSTANT], code[FLAG], code[SEEN] = 2, 0, 2 if words else 0
    return code


def _first_layer(attention: nn.Module, read: Tensor, theta: float, generator: torch.Generator) -> None:
    """Head 0 finds the letter of the line, head 1 the token before, head 2 the one before that."""
    query, key, value, out = _weights(attention)
    for head in range(3):
        query[head].zero_()
    query[0, _LINE_PAIR, CONSTANT] = 2
    _look_back(query[1], 1, theta)
    _look_back(query[2], 2, theta)
    key.zero_()
    for group in range(2):
        key[group, list(_NEAR), CONSTANT] = 1
        value[group].zero_()
        value[group][:, CONTENT] = read
    key[0, _LINE_PAIR, FLAG] = 1.25
    out[0].zero_()
    out[1].zero_()
    out[0][LINE, :16] = torch.eye(16)
    out[1][BEFORE, :24] = torch.eye(24)
    attention.q_norm.weight.fill_(_GAIN)
    attention.k_norm.weight.fill_(_GAIN)


def _matching_layer(attention: nn.Module, read: Tensor, write: Tensor) -> None:
    """Head 0: from the current content to the line that holds it, and its letter out."""
    query, key, value, out = _weights(attention)
    slow = [*_SLOW, *(pair + _PAIRS for pair in _SLOW)]
    query[0].zero_()
    query[0][slow, CONTENT] = read[: len(slow)]
    key[0].zero_()
    key[0][slow, BEFORE] = torch.eye(24)[: len(slow)] * 1.0
    value[0].zero_()
    value[0][:16, LINE] = torch.eye(16)
    out[0].zero_()
    out[0][ANSWER, :16] = write
    attention.q_norm.weight.fill_(_MATCHING_GAIN)
    attention.k_norm.weight.fill_(_MATCHING_GAIN)


def _looking_layer(attention: nn.Module, read: Tensor) -> None:
    """Head 2: from anywhere to all visual tokens, their content in."""
    query, key, value, out = _weights(attention)
    key[1].mul_(0.25)
    for pair in _SLOW[6:]:
        query[2, pair, CONSTANT] = 1
        key[1, pair, SEEN] = 1
    value[1].zero_()
    value[1][:, CONTENT] = read
    out[2].zero_()
    out[2][CONTENT, :] = read.T * (60 / 32)


class _Heads:
    """A projection seen head by head; assignments write through to the weight."""

    def __init__(self, weight: Tensor, inward: bool) -> None:
        self._weight, self._inward = weight, inward

    def __getitem__(self, at: "int | tuple[int, object, object]") -> Tensor:
        head, rest = (at[0], at[1:]) if isinstance(at, tuple) else (at, None)
        rows = slice(32 * head, 32 * head + 32)
        view = self._weight[:, rows] if self._inward else self._weight[rows]
        return view if rest is None else view[rest]

    def __setitem__(self, at: "tuple[int, object, object]", values: "Tensor | float") -> None:
        self[at[0]][at[1:]] = values

    def zero_(self) -> None:
        self._weight.zero_()


def _weights(attention: nn.Module) -> tuple[_Heads, _Heads, _Heads, _Heads]:
    projections = ((attention.q_proj, False), (attention.k_proj, False), (attention.v_proj, False))
    q, k, v = (_Heads(projection.weight, inward) for projection, inward in projections)
    return q, k, v, _Heads(attention.o_proj.weight, True)
