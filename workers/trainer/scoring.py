"""Scores the validation rows between two steps, on all ranks together, and keeps the best weights on disk."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from shared.contracts import TrainRecipe
from shared.errors import RoadQAError
from shared.vlm.encode import IGNORED, Encoder
from workers.trainer import best, validation
from workers.trainer.cache import ClipCache
from workers.trainer.channel import Channel
from workers.trainer.data import VIDEO_TOKEN_TYPE, Example, collate, encode_clip
from workers.trainer.plan import Plan, plan
from workers.trainer.request import RankRequest
from workers.trainer.validation import ACCURACY, LOSS, Point

if TYPE_CHECKING:
    from shared.video import SampledClip
    from workers.trainer.rank import InOrder


class Validation(TrainerCallback):
    """After a step that is due: scores, notes the point in the log history, keeps the best weights, may end it all.

    Stands before `Reins`, so that a checkpoint of the same step knows of it.
    """

    trainer: InOrder

    def __init__(
        self,
        rows: Plan,
        recipe: TrainRecipe,
        encoder: Encoder,
        clip: Callable[[str, Path], SampledClip],
        epoch_rows: int,
        work: Path,
        channel: Channel,
    ) -> None:
        self._rows, self._recipe, self._encoder, self._clip = rows, recipe, encoder, clip
        self._epoch_rows, self._work, self._channel = epoch_rows, work, channel
        self._group: dist.ProcessGroup | None = None
        self.stopped_early = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._group = dist.new_group(backend="gloo")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        early = self._recipe.early_stop
        due = (state.max_steps, early.every_epochs, self._epoch_rows, self._recipe.global_batch)
        if not validation.due(state.global_step, *due):
            return
        before = validation.best(validation.points(state.log_history))
        point = self.score(state.global_step)
        state.log_history.append({"step": point.step, ACCURACY: point.accuracy, LOSS: point.loss})
        if before is None or point.goodness > before.goodness:
            self._keep(point)
        if state.is_world_process_zero:
            self._channel.send("validation", step=point.step, **{ACCURACY: point.accuracy, LOSS: point.loss})
        if point.step < state.max_steps and validation.exhausted(validation.points(state.log_history), early):
            control.should_training_stop = self.stopped_early = True

    @torch.no_grad()
    def score(self, step: int) -> Point:
        """All rows, dealt out to the ranks; each does as many forwards as the others: under ZeRO-3 they share them."""
        engine = self.trainer.model_wrapped
        rank, ranks = dist.get_rank(self._group), dist.get_world_size(self._group)
        size = self.trainer.args.per_device_train_batch_size
        total = len(self._rows.questions)
        share = math.ceil(total / ranks)
        sums = torch.zeros(2, dtype=torch.float64)
        engine.eval()
        for start in range(0, share, size):
            places = [place * ranks + rank for place in range(start, min(start + size, share))]
            found = self._forward(engine, [place % total for place in places])
            real = [row for place, row in zip(places, found, strict=True) if place < total]  # the rest fills up
            sums += torch.tensor([sum(right for right, _ in real), sum(loss for _, loss in real)], dtype=torch.float64)
        engine.train()
        dist.all_reduce(sums, group=self._group)
        right, loss = (sums / total).tolist()
        return Point(step, right, loss)

    def _forward(self, engine: Any, places: list[int]) -> list[tuple[float, float]]:
        """(whether right, loss) of rows."""
        pad = self._encoder.tokenizer.pad_token_id
        batch = collate([self._example(place) for place in places], pad)
        last = batch["attention_mask"].sum(1) - 1
        columns, at = last.unique(return_inverse=True)
        del batch["labels"]
        device = self.trainer.args.device
        inputs = {name: tensor.to(device) for name, tensor in batch.items()}
        logits = engine(**inputs, use_cache=False, logits_to_keep=columns.to(device)).logits
        return [self._judge(place, logits[row, at[row]].float().cpu()) for row, place in enumerate(places)]

    def _judge(self, place: int, logits: torch.Tensor) -> tuple[float, float]:
        """As the engines do: chances over all of the question's letters, the choice among those that have a text."""
        question = self._rows.questions[place]
        chances = torch.log_softmax(logits[self._encoder.letter_ids(len(question.choices))], dim=-1)
        chosen = max(question.offered, key=lambda index: float(chances[index]))
        assert question.answer is not None
        return float(chosen == question.answer), -float(chances[question.answer])

    def _example(self, place: int) -> Example:
        """A row as the engines are asked it: the choices in the data's order, no answer."""
        question = self._rows.questions[place]
        clip = self._clip(question.clip, self._rows.rows.clip_path(question.clip))
        ids = torch.tensor(self._encoder.prompt_ids(question, clip, self._recipe.system_prompt))
        types = (ids == self._encoder.video_token_id).long() * VIDEO_TOKEN_TYPE
        words = {"input_ids": ids, "mm_token_type_ids": types, "labels": torch.full_like(ids, IGNORED)}
        return words | encode_clip(self._encoder, clip)

    def _keep(self, point: Point) -> None:
        """Write what has moved to the work folder, and tell the verb, which takes it to scratch."""
        state = self.trainer.gathered()
        if state is None:
            return
        folder = best.local(self._work, point.step)
        folder.mkdir(exist_ok=True)
        moved = {name for name, parameter in self.trainer.model.named_parameters() if parameter.requires_grad}
        save_file({name: state[name].contiguous() for name in sorted(moved)}, folder / best.WEIGHTS)
        self._channel.send("best", step=point.step, folder=str(folder))


def judge(request: RankRequest, channel: Channel) -> list[Validation]:
    """The callback that validates, where the request has rows for it."""
    if not request.validation:
        return []
    recipe = request.recipe
    training = plan(request.data, recipe.mix, recipe.seed)
    cache = ClipCache(request.cache, recipe.video, request.cache_bytes)
    rows = validation.rows(request.validation, training)
    return [Validation(rows, recipe, Encoder(request.model), cache.get, training.epoch_rows, request.work, channel)]


def with_best(state: dict[str, torch.Tensor], work: Path, top: Point) -> dict[str, torch.Tensor]:
    """The gathered weights, what has moved as it stood at the best validation.

    Raises:
        RoadQAError: that is gone; other weights would not be what the card says.
    """
    path = best.local(work, top.step) / best.WEIGHTS
    if not path.is_file():
        raise RoadQAError(f"the best weights, of step {top.step}, are gone from scratch: train anew by `replicate: 1`")
    return state | load_file(path)
