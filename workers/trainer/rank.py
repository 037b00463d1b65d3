"""One rank of a training: transformers' Trainer under DeepSpeed, reined in by the verb between steps.

Started by torch.distributed.run as `python -m workers.trainer.rank request.json`.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import deepspeed
import torch
import torch.distributed as dist
from torch.utils.data import Dataset, SequentialSampler
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations import unset_hf_deepspeed_config
from transformers.trainer_utils import set_seed
from transformers.utils.logging import disable_progress_bar

from shared.contracts import TrainRecipe
from shared.errors import RoadQAError
from shared.vlm.encode import Encoder
from workers.trainer import files, model, modules, scoring, validation, zero
from workers.trainer.channel import Channel, stop_wanted
from workers.trainer.data import MEMORY_BYTES, ClipCache, Examples, collate, following_ids
from workers.trainer.plan import plan
from workers.trainer.reasoning import Reasonings
from workers.trainer.request import HISTORY, RankRequest
from workers.trainer.validation import ACCURACY

if TYPE_CHECKING:
    from peft import PeftModel

GO_ON, KEEP, KEEP_AND_STOP = range(3)
_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class InOrder(Trainer):
    """Takes the examples in their own order, and keeps checkpoints without a second copy of the weights."""

    recipe: TrainRecipe

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> SequentialSampler:
        assert self.train_dataset is not None
        return SequentialSampler(self.train_dataset)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW over the groups of `modules`."""
        assert self.model is not None
        if self.optimizer is None:
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            decayed = self.get_decay_parameter_names(self.model)
            groups = modules.parameter_groups(self.model.named_parameters(), decayed, self.recipe)
            self.optimizer = kind(groups, **settings)
        optimizer: torch.optim.Optimizer = self.optimizer
        return optimizer

    def gathered(self) -> dict[str, torch.Tensor] | None:
        """All weights, on rank 0. Called by every rank: under ZeRO-3 each has a part of them."""
        if not self.is_world_process_zero() and zero.stage(self.recipe.zero) < 3:
            return None
        state: dict[str, torch.Tensor] = self.accelerator.get_state_dict(self.model_wrapped)
        return state if self.is_world_process_zero() else None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Nothing: a DeepSpeed checkpoint holds the weights, and `_save_result` writes the result."""


class Reins(TrainerCallback):
    """Between steps, rank 0 decides for all: go on, keep a checkpoint, keep one and stop. Tells the verb of each."""

    def __init__(self, request: RankRequest, channel: Channel) -> None:
        self._request, self._channel = request, channel
        self._group: dist.ProcessGroup | None = None
        self._kept = self._began = time.monotonic()
        self._first_step = 0
        self.stopped = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._group = dist.new_group(backend="gloo")
        self._first_step = state.global_step
        self._kept = self._began = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        over = control.should_training_stop or state.global_step >= state.max_steps  # the result follows at once
        decision = torch.tensor([self._decide() if state.is_world_process_zero and not over else GO_ON])
        dist.broadcast(decision, src=0, group=self._group)
        if decision.item() != GO_ON:
            control.should_save = True
            self._kept = time.monotonic()
        if decision.item() == KEEP_AND_STOP:
            control.should_training_stop = self.stopped = True

    def _decide(self) -> int:
        if stop_wanted(self._request.work):
            return KEEP_AND_STOP
        return KEEP if time.monotonic() - self._kept >= self._request.checkpoint_seconds else GO_ON

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        dist.barrier(self._group)  # every rank's part is written
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            self._channel.send("checkpoint", step=state.global_step, folder=str(folder))

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float], **_: Any
    ) -> None:
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise RoadQAError(f"the loss is {logs['loss']} at step {state.global_step}; lower `learning_rate`")
        rows = (state.global_step - self._first_step) * self._request.recipe.global_batch
        rates = {"samples_per_second": round(rows / (time.monotonic() - self._began), 2)}
        state.log_history[-1] |= {**rates, "time": time.time()}  # it travels in the checkpoints
        if state.is_world_process_zero:
            told = {name: logs[name] for name in ("loss", "learning_rate", "grad_norm") if name in logs}
            self._channel.send("log", step=state.global_step, **told, **rates)


def arguments(request: RankRequest, cuda: bool) -> TrainingArguments:
    """The recipe in Trainer's words. Must exist before the model: ZeRO-3 partitions it while it loads."""
    recipe = request.recipe
    checkpointing = cuda if recipe.gradient_checkpointing is None else recipe.gradient_checkpointing
    return TrainingArguments(
        output_dir=str(request.work / "checkpoints"),
        deepspeed=zero.config(recipe, cuda),
        max_steps=request.steps,
        per_device_train_batch_size=request.micro_batch,
        gradient_accumulation_steps=request.accumulation,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(recipe.warmup_share * request.steps),
        weight_decay=recipe.weight_decay,
        max_grad_norm=zero.MAX_GRAD_NORM,
        optim="adamw_torch_fused" if cuda else "adamw_torch",
        bf16=recipe.precision == "bfloat16",
        use_cpu=not cuda,
        gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
        use_liger_kernel=False,  # patched by `model.prepare`, which checks that it took
        dataloader_num_workers=request.loaders,
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,
        seed=recipe.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",  # `Reins` says when
        report_to="none",
        disable_tqdm=True,
    )


def join(cuda: bool) -> None:
    """Join the other ranks. Before all else: ZeRO-3 partitions the model while it loads, among them."""
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    deepspeed.init_distributed(dist_backend="nccl" if cuda else "gloo", auto_mpi_discovery=False)


def run(request: RankRequest, channel: Channel) -> None:
    """Train, then write the result; or stop with a checkpoint."""
    cuda = torch.cuda.is_available()
    recipe = request.recipe
    join(cuda)
    set_seed(recipe.seed)
    disable_progress_bar()
    args = arguments(request, cuda)
    loaded = model.prepare(model.load(request.model, model.DTYPES[recipe.precision]), recipe, cuda)
    reins = Reins(request, channel)
    judge = scoring.judge(request, channel)
    trainer = make_trainer(request, args, loaded, [*judge, reins])
    for callback in judge:
        callback.trainer = trainer
    trainer.train(resume_from_checkpoint=str(request.resume) if request.resume else None)
    if not reins.stopped:
        _save_result(trainer, request)
    if trainer.is_world_process_zero():
        _write_history(trainer, request)
        channel.send("end", outcome="stopped" if reins.stopped else "trained")
    dist.barrier()
    dist.destroy_process_group()


def make_trainer(
    request: RankRequest,
    args: TrainingArguments,
    loaded: PreTrainedModel | PeftModel,
    callbacks: list[TrainerCallback],
) -> InOrder:
    """transformers' Trainer on the request's rows, which reports through `callbacks` alone."""
    recipe = request.recipe
    encoder = Encoder(request.model)
    cache = ClipCache(request.work / "clips", recipe.video, request.cache_bytes)
    memory = 0 if request.loaders else MEMORY_BYTES  # each loader would keep its own
    examples = Examples(
        plan(request.data, recipe.mix, recipe.seed),
        recipe,
        encoder,
        cache,
        request.steps * recipe.global_batch,
        memory,
        Reasonings(request.data) if recipe.loss_on == "reasoning" else None,
    )
    trainer = InOrder(
        model=loaded,
        args=args,
        train_dataset=examples,
        data_collator=partial(collate, pad_id=encoder.tokenizer.pad_token_id),
        callbacks=callbacks,
    )
    trainer.recipe = recipe
    trainer.remove_callback(PrinterCallback)
    return trainer


def _save_result(trainer: InOrder, request: RankRequest) -> None:
    """Gather the weights, the best ones where they were validated, merge an adapter, write."""
    state = trainer.gathered()
    if state is None:
        return
    if top := validation.best(validation.points(trainer.state.log_history)):
        state = scoring.with_best(state, request.work, request.best, top)
    trained = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    unset_hf_deepspeed_config()  # a model made from here on is whole, whatever the ZeRO stage
    if request.recipe.lora is not None:
        trained = model.merged(request.model, request.recipe, trained, state)
        state = trained.state_dict()
    kinds = [tensor.dtype for tensor in files.tensors(request.model).values()]
    model.save(trained, state, _TYPES[max(set(kinds), key=kinds.count)], request.out)


def _write_history(trainer: Trainer, request: RankRequest) -> None:
    """Steps and losses since the very first attempt (a checkpoint carries them), and what was trained."""
    parameters = list(trainer.model.parameters())
    history = {
        "steps": trainer.state.global_step,
        "log": [entry for entry in trainer.state.log_history if "loss" in entry or ACCURACY in entry],
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        **validation.facts(trainer.state.log_history, request.steps),
        **_said(request),
        "parameters": sum(_size(p) for p in parameters),
        "trained_parameters": sum(_size(p) for p in parameters if p.requires_grad),
        "liger": torch.cuda.is_available() and request.recipe.liger,
    }
    if torch.cuda.is_available():  # rank 0's card stands for the others: ZeRO gives them like shares
        history |= {"gpu": torch.cuda.get_device_name(), "gpu_peak_bytes": torch.cuda.max_memory_reserved()}
    (request.work / HISTORY).write_text(json.dumps(history), encoding="utf-8")


def _said(request: RankRequest) -> dict[str, Any]:
    """How many rows had a teacher's words to learn."""
    recipe = request.recipe
    if recipe.loss_on == "answer":
        return {}
    rows = plan(request.data, recipe.mix, recipe.seed).questions
    encode = partial(following_ids, Encoder(request.model))
    return {"reasoning": Reasonings(request.data).facts(rows, encode, recipe.reasoning_tokens)}


def _size(parameter: torch.Tensor) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))  # ZeRO-3 leaves an empty tensor and its true size


def main() -> None:
    channel = Channel()
    request = RankRequest.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        run(request, channel)
    except Exception as error:
        channel.error(error)
        raise


if __name__ == "__main__":
    main()
