"""Rows to tensors: each clip decoded once, each step's batch the same whoever computes it."""

from functools import partial
from itertools import islice

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from shared.contracts import TrainRecipe
from shared.errors import MediaError
from shared.schema import Question
from shared.video import SampledClip
from shared.vlm.encode import IGNORED, VIDEO_KWARGS, Encoder
from workers.trainer.ahead import Ahead, Share
from workers.trainer.cache import ClipCache
from workers.trainer.order import Order
from workers.trainer.packing import PADDING, Example, pack
from workers.trainer.plan import Plan, permuted
from workers.trainer.reasoning import Reasonings, cut
from workers.trainer.skipped import Skipped

Encoded = tuple[SampledClip, Example]  # a clip's frames, and the patches that a model takes them as

MEMORY_BYTES = 512 << 20  #: of encoded clips that a process without loaders keeps: a small dataset is encoded once
VIDEO_TOKEN_TYPE = 2  #: of `mm_token_type_ids`: 0 text, 1 image, 2 video


class Examples(Dataset[Example]):
    """Position in the training → one encoded row. Positions run over all epochs (see `plan`, `order`).

    A row whose clip cannot be decoded is noted in `skipped`, and the next row that can stands in for it.
    """

    def __init__(
        self,
        plan: Plan,
        recipe: TrainRecipe,
        encoder: Encoder,
        cache: ClipCache,
        length: int,
        skipped: Skipped,
        memory_bytes: int = MEMORY_BYTES,
        reasonings: Reasonings | None = None,
        share: Share | None = None,
    ) -> None:
        self._reasonings = reasonings
        self._plan, self._recipe, self._encoder, self._cache, self._length = plan, recipe, encoder, cache, length
        self._skipped, self._share = skipped, share
        self._order = Order(plan, recipe.video, recipe.seed, recipe.global_batch, recipe.pack)
        self._ahead = Ahead(self._row)
        self._encoded: dict[str, Encoded] = {}  # by clip; what is met in random order is no better kept than the first
        self._room = memory_bytes

    def __len__(self) -> int:
        return self._length

    def question(self, position: int) -> Question:
        """The question at this position, its choices in this epoch's order."""
        epoch, row = self._order.at(position)
        question = self._plan.questions[row]
        return permuted(question, self._recipe.seed, epoch) if self._recipe.shuffle_choices else question

    def words(self, position: int) -> str | None:
        """What is learnt after the answer's letter at this position."""
        if self._reasonings is None:
            return None
        epoch, row = self._order.at(position)
        return self._reasonings.of(self._plan.questions[row], epoch)

    def __getitem__(self, position: int) -> Example:
        if self._share is not None:
            for coming in islice(self._share.after(position), self._share.micro_batch):
                if coming < self._length:
                    self._ahead.announce(coming)
        return self._ahead.fetch(position)

    def _row(self, position: int) -> Example:
        for place in range(position, position + self._length):
            question = self.question(place % self._length)
            if question.clip in self._skipped:
                continue
            try:
                clip, patches = self._encoded.get(question.clip) or self._encode_clip(question.clip)
            except MediaError as error:
                self._skipped.note(question.clip, error)
                continue
            words = encode(self._encoder, question, clip, self._recipe, self.words(place % self._length))
            return words | patches | {"clip": clip_number(question.clip)}
        raise MediaError("none of the clips can be decoded")

    def _encode_clip(self, digest: str) -> Encoded:
        clip = self._cache.get(digest, self._plan.rows.clip_path(digest))
        encoded = clip, encode_clip(self._encoder, clip)
        size = clip.frames.nbytes + encoded[1]["pixel_values_videos"].nbytes
        if size <= self._room:
            self._encoded[digest] = encoded
            self._room -= size
        return encoded


def encode(
    encoder: Encoder, question: Question, clip: SampledClip, recipe: TrainRecipe, words: str | None = None
) -> Example:
    """The words of one row, without a batch dimension: with `encode_clip` equal to `Encoder.encode(with_answer=True)`.

    `words` follow the letter on a line of their own, and are learnt with it.

    Returns:
        input_ids, mm_token_type_ids, labels [L] int64.
    """
    assert question.answer is not None
    prompt = encoder.prompt_ids(question, clip, recipe.system_prompt)
    said = [] if words is None else cut(words, partial(following_ids, encoder), recipe.reasoning_tokens).ids
    answer = [encoder.letter_ids(len(question.choices))[question.answer], *said, encoder.end_id]
    input_ids = torch.tensor(prompt + answer)
    return {
        "input_ids": input_ids,
        "mm_token_type_ids": (input_ids == encoder.video_token_id).long() * VIDEO_TOKEN_TYPE,
        "labels": torch.tensor([IGNORED] * len(prompt) + answer),
    }


def following_ids(encoder: Encoder, words: str) -> list[int]:
    """Token ids of words on the line after the letter."""
    return list(encoder.tokenizer(f"\n{words}", add_special_tokens=False)["input_ids"])


def clip_number(digest: str) -> torch.Tensor:
    """[] int64, another for each clip."""
    return torch.tensor(int(digest[:15], 16))


def encode_clip(encoder: Encoder, clip: SampledClip) -> Example:
    """pixel_values_videos [P, 1536] float32 and video_grid_thw [3] of a clip."""
    frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)  # [T, 3, H, W] uint8
    video = encoder.processor.video_processor(videos=[frames], return_tensors="pt", **VIDEO_KWARGS)
    return {"pixel_values_videos": video["pixel_values_videos"], "video_grid_thw": video["video_grid_thw"][0]}


def collate(examples: list[Example], pad_id: int, packed: int = 1) -> Example:
    """Batch rows, up to `packed` of a clip in a sequence, padded on the right; clips are concatenated.

    Returns:
        What Qwen3-VL takes, and where a sequence holds several rows `branch` and `back` (see `packing`) [B, L].
    """
    if packed > 1:
        examples = pack(examples, packed)

    def padded(name: str, value: int) -> torch.Tensor:
        return pad_sequence([example[name] for example in examples], batch_first=True, padding_value=value)

    lengths = torch.tensor([len(example["input_ids"]) for example in examples])
    batch = {
        "input_ids": padded("input_ids", pad_id),
        "attention_mask": (torch.arange(int(lengths.max()))[None] < lengths[:, None]).long(),
        "mm_token_type_ids": padded("mm_token_type_ids", 0),
        "labels": padded("labels", IGNORED),
        "pixel_values_videos": torch.cat([example["pixel_values_videos"] for example in examples]),
        "video_grid_thw": torch.stack([example["video_grid_thw"] for example in examples]),
    }
    if any("branch" in example for example in examples):
        none = [{name: torch.zeros_like(example["input_ids"]) for name in ("branch", "back")} for example in examples]
        examples = [zeros | example for zeros, example in zip(none, examples, strict=True)]
        batch |= {"branch": padded("branch", PADDING), "back": padded("back", 0)}
    return batch
