"""One rank of a training: transformers' Trainer under DeepSpeed, reined in by the verb between steps.

Started by torch.distributed.run as `python -m workers.trainer.rank request.json`.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
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
from shared.vlm.encode import Encoder
from workers.trainer import files, model, modules, packing, scoring, tensors, troubles, validation, zero
from workers.trainer.ahead import Share
from workers.trainer.cache import ClipCache
from workers.trainer.channel import GO_ON, KEEP, KEEP_AND_STOP, STOP, Channel, wanted
from workers.trainer.data import MEMORY_BYTES, Examples, collate, following_ids
from workers.trainer.meter import Meter
from workers.trainer.plan import plan
from workers.trainer.reasoning import Reasonings
from workers.trainer.request import HISTORY, SKIPPED, RankRequest
from workers.trainer.skipped import Skipped
from workers.trainer.troubles import DivergedError
from workers.trainer.validation import ACCURACY

if TYPE_CHECKING:
    from peft import PeftModel

_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class InOrder(Trainer):
    """Takes the examples in their own order, and keeps checkpoints without a second copy of the weights."""

    recipe: TrainRecipe
    meter: Meter
    checkpoint_bytes: int  #: on this machine, about
    rope_index: Callable[..., Any]  #: the model's

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | int | None]:
        """A step's micro-batches. What this takes is waiting for data: nothing else goes on meanwhile."""
        began = time.monotonic()
        found = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.meter.met(found[0], time.monotonic() - began)
        for batch in found[0]:
            # padding is on the right, where no row looks; without a mask flash kernels apply
            del batch["attention_mask"]
        return found

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A micro-batch on its device; only there and then its mask, which is as large as its length squared."""
        prepared: dict[str, Any] = super()._prepare_inputs(inputs)
        packing.attend(prepared, self.rope_index)
        return prepared

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        with troubles.writing(folder, self.checkpoint_bytes, "a checkpoint"):
            super()._save_checkpoint(model, trial)

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

    def __init__(self, request: RankRequest, channel: Channel, meter: Meter) -> None:
        self._request, self._channel, self._meter = request, channel, meter
        self._group: dist.ProcessGroup | None = None
        self._kept = self._saving = time.monotonic()
        self.stopped = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._group = dist.new_group(backend="gloo")
        self._meter.start(self._group)
        self._kept = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        over = control.should_training_stop or state.global_step >= state.max_steps  # the result follows at once
        decision = self._meter.step(self._decide() if state.is_world_process_zero and not over else GO_ON)
        if decision in (KEEP, KEEP_AND_STOP):
            control.should_save = True
            self._kept = self._saving = time.monotonic()
        if decision in (KEEP_AND_STOP, STOP):
            control.should_training_stop = self.stopped = True

    def _decide(self) -> int:
        return wanted(self._request.work, time.monotonic() - self._kept >= self._request.checkpoint_seconds)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero:
            tensors.write(folder, kwargs["model"])
        dist.barrier(self._group)  # every rank's part is written
        if state.is_local_process_zero:
            seconds = time.monotonic() - self._saving
            self._channel.send("checkpoint", step=state.global_step, folder=str(folder), seconds=round(seconds, 3))

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float], **_: Any
    ) -> None:
        if "loss" not in logs:
            return
        for what in ("loss", "grad_norm"):  # before a checkpoint of this step is written
            if not math.isfinite(logs.get(what, 0.0)):
                raise DivergedError(
                    f"the {what} is {logs[what]} at step {state.global_step}, at a learning rate of"
                    f" {logs['learning_rate']:.3g}: lower `learning_rate` ({self._request.recipe.learning_rate:g}),"
                    " or raise `warmup_share`"
                )
        rates = self._meter.rates()
        # it travels in the checkpoints
        state.log_history[-1] |= {"samples_per_second": rates["samples_per_second"], "time": time.time()}
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
    meter = Meter()
    reins = Reins(request, channel, meter)
    judge = scoring.judge(request, channel)
    trainer = make_trainer(request, args, loaded, meter, [*judge, reins])
    for callback in judge:
        callback.trainer = trainer
    trainer.checkpoint_bytes = tensors.checkpoint_bytes(loaded, model.DTYPES[recipe.precision])
    if args.local_process_index == 0:
        # while one is uploaded another may be written
        troubles.need_room(request.work, 2 * trainer.checkpoint_bytes // request.nodes, "two checkpoints")
    if trainer.is_world_process_zero():
        channel.send("begin", checkpoint_bytes=trainer.checkpoint_bytes)
    if request.resume:
        tensors.same(request.resume, loaded)
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
    meter: Meter,
    callbacks: list[TrainerCallback],
) -> InOrder:
    """transformers' Trainer on the request's rows, which reports through `callbacks` alone."""
    recipe = request.recipe
    encoder = Encoder(request.model)
    examples = Examples(
        plan(request.data, recipe.mix, recipe.seed),
        recipe,
        encoder,
        ClipCache(request.cache, recipe.video, request.cache_bytes),
        request.steps * recipe.global_batch,
        Skipped(request.work / SKIPPED),
        memory_bytes=0 if request.loaders else MEMORY_BYTES,  # each loader would keep its own
        reasonings=Reasonings(request.data) if recipe.loss_on == "reasoning" else None,
        share=None if request.loaders else Share(args.process_index, args.world_size, request.micro_batch),
    )
    trainer = InOrder(
        model=loaded,
        args=args,
        train_dataset=examples,
        data_collator=partial(collate, pad_id=encoder.tokenizer.pad_token_id, packed=recipe.pack),
        callbacks=callbacks,
    )
    trainer.recipe = recipe
    trainer.rope_index = (loaded if recipe.lora is None else loaded.get_base_model()).model.get_rope_index
    trainer.meter = meter
    trainer.remove_callback(PrinterCallback)
    return trainer


def _save_result(trainer: InOrder, request: RankRequest) -> None:
    """Gather the weights, the best ones where they were validated, merge an adapter, write."""
    state = trainer.gathered()
    if state is None:
        return
    if top := validation.best(validation.points(trainer.state.log_history)):
        state = scoring.with_best(state, request.work, top)
    trained = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    unset_hf_deepspeed_config()  # a model made from here on is whole, whatever the ZeRO stage
    if request.recipe.lora is not None:
        trained = model.merged(request.model, request.recipe, trained, state)
        state = trained.state_dict()
    kinds = [tensor.dtype for tensor in files.tensors(request.model).values()]
    size = sum(path.stat().st_size for path in request.model.glob("*.safetensors"))
    troubles.need_room(request.out, size, "the trained model")
    with troubles.writing(request.out, size, "the trained model"):
        model.save(trained, state, _TYPES[max(set(kinds), key=kinds.count)], request.out)


def _write_history(trainer: InOrder, request: RankRequest) -> None:
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
        "pace": trainer.meter.summary(),  # of this attempt
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
        channel.error(troubles.told_apart(error))
        raise


if __name__ == "__main__":
    main()
